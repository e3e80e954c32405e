"""What the scripts of `paper_figures` share: each draws what `est figures` knows by one name, without loading torch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from est_analysis.errors import InputError

from .data import DataFolder
from .registry import EXHIBITS, make


def run_script(name: str, *, folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Draw one exhibit and print where its files went.

    Args:
        name: a key of `EXHIBITS`.
        folder: `paper_figures`.
        arguments: of the command line; its own unless given.

    Returns:
        The exit status; 2, after one line on stderr, when the data is not there or is of another recipe.
    """
    exhibit = EXHIBITS[name]
    parser = argparse.ArgumentParser(description=f"Draw {exhibit.title} from measured data; 'est figures {name}'.")
    parser.add_argument("--out", type=Path, default=folder, help="folder for the files")
    parser.add_argument("--data", type=Path, default=folder / "data", help="folder of measured rows")
    parser.add_argument("--scale", default="", help="of the rows; the largest that is there unless given")
    options = parser.parse_args(arguments)
    try:
        print(*make(exhibit, DataFolder(options.data, options.scale), options.out), sep="\n")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
