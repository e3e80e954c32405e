"""What the scripts of `paper_figures` share: reading committed rows, drawing them, saying where the files went."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from est_analysis.errors import InputError

from .style import save


def read_rows(path: Path, hint: str) -> pd.DataFrame:
    """The tidy rows in `path`; a missing file is an `InputError` that ends in `hint`, an untidy one is one too."""
    if not path.is_file():
        raise InputError(f"no measured data at '{path}': {hint}")
    frame = pd.read_csv(path, keep_default_na=False)
    if not {"run_id", "method", "seed", "step", "metric", "value"} <= set(frame.columns):
        raise InputError(f"'{path}' is not a tidy frame: copy the rows.csv of a report there")
    return frame


def run_script(
    draw: Callable[[pd.DataFrame], Mapping[str, Figure]],
    *,
    description: str,
    folder: Path,
    data: str,
    hint: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Draw the figures of one script and print where they went.

    Args:
        draw: tidy rows -> figures by their file names.
        description: of the script, for its help.
        folder: `paper_figures`.
        data: the file of rows in its `data`.
        hint: how the rows are made.
        arguments: of the command line; its own unless given.

    Returns:
        The exit status; 2, after one line on stderr, when the data is not there or is of another recipe.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=folder, help="folder for the PNG and SVG files")
    parser.add_argument(
        "--data", type=Path, default=folder / "data" / data, help="tidy rows, as in a report's rows.csv"
    )
    options = parser.parse_args(arguments)
    try:
        figures = draw(read_rows(options.data, hint))
        for name, figure in figures.items():
            print(*save(figure, options.out, name), sep="\n")
    except ValueError as error:  # InputError, or a frame without the rows to draw
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
