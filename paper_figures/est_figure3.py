"""EST's Figure 3 from measured data: training and validation loss against step, beside the full model's.

Run it as `python paper_figures/est_figure3.py`. It reads `data/reproduce_quick.csv` (tidy rows of the runs) and
`data/published.csv` (the paper's printed values), takes seconds and loads no torch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.errors import InputError

HERE = Path(__file__).resolve().parent
MEASURED, PUBLISHED = HERE / "data" / "reproduce_quick.csv", HERE / "data" / "published.csv"


def read_rows(path: Path) -> pd.DataFrame:
    """The tidy rows in `path`; a missing or untidy file is an `InputError`."""
    if not path.is_file():
        raise InputError(f"no measured data at '{path}': run the recipe 'reproduce' and copy its rows.csv there")
    frame = pd.read_csv(path)
    if not {"run_id", "method", "seed", "step", "metric", "value"} <= set(frame.columns):
        raise InputError(f"'{path}' is not a tidy frame: copy the rows.csv of a report there")
    return frame


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
    parser = argparse.ArgumentParser(description="Draw EST's Figure 3 from measured data.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for est_figure3.png and .svg")
    parser.add_argument("--data", type=Path, default=MEASURED, help="tidy rows, as in a report's rows.csv")
    options = parser.parse_args(arguments)
    try:
        written = plots.save(draw(read_rows(options.data)), options.out, "est_figure3")
    except ValueError as error:  # InputError, or a frame without losses
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
