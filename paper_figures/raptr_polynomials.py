"""RaPTr's polynomial experiment from measured data: what each method learns of each degree, and what is left.

Run it as `python paper_figures/raptr_polynomials.py`. It reads `data/poly_raptr_vs_pld.csv` (tidy rows of the runs,
thinned by `data/thin.py`), takes seconds and loads no torch. None of the paper's own values could be read.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.plots.committed import run_script

HERE = Path(__file__).resolve().parent


def draw(frame: pd.DataFrame) -> Mapping[str, Figure]:
    """The figures by their file names."""
    return {
        "raptr_polynomials": plots.component_curves(frame),
        "raptr_polynomials_final": plots.final_components(frame),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figures and prints where they went; 2 when the data is not there."""
    return run_script(
        draw,
        description="Draw RaPTr's polynomial experiment from measured data.",
        folder=HERE,
        data="poly_raptr_vs_pld.csv",
        hint="run 'est run poly-raptr-vs-pld --scale report' and thin its rows.csv with data/thin.py",
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
