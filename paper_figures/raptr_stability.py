"""RaPTr's lemma from measured data: how much a net at initialisation moves when one layer is bypassed.

Run it as `python paper_figures/raptr_stability.py`. It reads `data/stability_vs_depth.csv` (tidy rows of random nets),
draws them beside the exact limit of infinite width (`theory.stability`), takes seconds and loads no torch.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.claims.raptr_stability import predicted_stability
from est_analysis.plots.committed import run_script

HERE = Path(__file__).resolve().parent


def draw(frame: pd.DataFrame) -> Mapping[str, Figure]:
    """The figures by their file names."""
    predicted = predicted_stability(frame)
    return {
        "raptr_stability": plots.stability_against_depth(frame, predicted),
        "raptr_stability_layers": plots.psi_by_layer(frame, predicted),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figures and prints where they went; 2 when the data is not there."""
    return run_script(
        draw,
        description="Draw the stability of random nets against depth from measured data.",
        folder=HERE,
        data="stability_vs_depth.csv",
        hint="run 'est run stability-vs-depth --scale report' and copy its rows.csv there",
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
