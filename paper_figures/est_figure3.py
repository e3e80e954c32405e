"""EST's Figure 3 from measured data: training and validation loss against step, beside the full model's.

Run it as `python paper_figures/est_figure3.py`. It reads `data/reproduce_quick.csv` (tidy rows of the runs) and
`data/published.csv` (the paper's printed values), takes seconds and loads no torch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.plots.committed import run_script

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE / "data" / "published.csv"


def published_losses(path: Path = PUBLISHED) -> dict[str, str]:
    """The final validation losses of GPT-2 that the paper prints in Table 5, by row."""
    values = pd.read_csv(path, dtype=str)
    losses = values[(values["paper"] == "EST") & (values["table"] == "5") & (values["column"] == "loss")]
    return dict(zip(losses["row"], losses["value"], strict=True))


def draw(frame: pd.DataFrame) -> Figure:
    """The figure: the full model and EST from `frame`, with the paper's final losses in words.

    They are of another model on other data, so they have no place on the axis.
    """
    figure = plots.loss_curves(frame[frame["method"].isin(["full", "est"])])
    losses = published_losses()
    with plots.style():
        figure.suptitle(
            f"Published for GPT-2 on OpenWebText: final validation loss {losses['Original']} (full model) and "
            f"{losses['EST']} (EST), arXiv 2406.06962, Table 5.",
            fontsize=8.5,
            color="#555555",
        )
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figure and prints where it went; 2 when the data is not there."""
    return run_script(
        lambda frame: {"est_figure3": draw(frame)},
        description="Draw EST's Figure 3 from measured data.",
        folder=HERE,
        data="reproduce_quick.csv",
        hint="run the recipe 'reproduce' and copy its rows.csv there",
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
