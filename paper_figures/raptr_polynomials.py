"""RaPTr's polynomial experiment from measured data: what each method learns of each degree, and what is left.

Run it as `python paper_figures/raptr_polynomials.py`. It reads `data/poly_raptr_vs_pld.csv` (tidy rows of the runs,
thinned by `data/thin.py`), takes seconds and loads no torch. None of the paper's own values could be read.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.errors import InputError

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "data" / "poly_raptr_vs_pld.csv"
COMMAND = "est run poly-raptr-vs-pld --scale report"


def read_rows(path: Path) -> pd.DataFrame:
    """The tidy rows in `path`; a missing or untidy file is an `InputError`."""
    if not path.is_file():
        raise InputError(f"no measured data at '{path}': run '{COMMAND}' and thin its rows.csv with data/thin.py")
    frame = pd.read_csv(path)
    if not {"run_id", "method", "seed", "step", "metric", "value"} <= set(frame.columns):
        raise InputError(f"'{path}' is not a tidy frame: copy the rows.csv of a report there")
    return frame


def draw(frame: pd.DataFrame) -> Mapping[str, Figure]:
    """The figures by their file names."""
    return {
        "raptr_polynomials": plots.component_curves(frame),
        "raptr_polynomials_final": plots.final_components(frame),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figures and prints where they went; 2 when the data is not there."""
    parser = argparse.ArgumentParser(description="Draw RaPTr's polynomial experiment from measured data.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the PNG and SVG files")
    parser.add_argument("--data", type=Path, default=MEASURED, help="tidy rows, as in a report's rows.csv")
    options = parser.parse_args(arguments)
    try:
        figures = draw(read_rows(options.data))
    except ValueError as error:  # InputError, or a frame of another recipe
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, figure in figures.items():
        print(*plots.save(figure, options.out, name), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
