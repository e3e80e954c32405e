"""Rows of a benchmark's split, from a folder of the user's or from the Hugging Face hub."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from est_analysis.errors import InputError, reason

_READERS = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False, dtype=str),
    # As GLUE is distributed: a quotation mark is text.
    ".tsv": lambda path: pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str, quoting=csv.QUOTE_NONE),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".json": lambda path: pd.read_json(path, dtype=False),
}
Row = dict[str, Any]


_OTHER = ("label", "answers")  # columns that are not text


def find_table(folder: Path, split: str) -> Path:
    """The table of `split` in `folder`.

    Raises:
        InputError: there is none.
    """
    paths = [folder / f"{split}{suffix}" for suffix in _READERS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"no {split} data in '{folder}'; give it as {split}.csv, .tsv, .jsonl or .json")
    return path


def read_split(folder: Path, split: str, columns: Sequence[str]) -> list[Row]:
    """The rows of `folder/SPLIT.csv`, `.tsv` (without quoting), `.jsonl` or `.json`; of the first two all is text.

    Raises:
        InputError: there is no such file, it cannot be read, lacks one of the `columns`, a row, or the text of one.
    """
    path = find_table(folder, split)
    try:
        table = _READERS[path.suffix](path)
    except (ValueError, OSError) as error:  # all of pandas's parsers raise ValueErrors
        raise InputError(f"cannot read '{path}': {' '.join(str(error).split())}") from error
    if missing := [name for name in columns if name not in table.columns]:
        raise InputError(f"'{path}' has no column '{missing[0]}'; it needs {', '.join(columns)}")
    if table.empty:
        raise InputError(f"'{path}' has no row; give some")
    rows = table[list(columns)].to_dict("records")
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            if name not in _OTHER and not isinstance(value, str):
                raise InputError(f"'{path}', row {number}: {name} is {value!r}, no text; mend it or leave the row out")
    return rows


def download_split(name: str, config: str | None, split: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a split of a hub data set.

    Raises:
        InputError: it cannot be had.
    """
    from datasets import load_dataset

    try:
        table = load_dataset(name, config, split=split)
        return [dict(row) for row in table.select_columns(list(columns))]
    except Exception as error:  # `datasets` raises from a dozen clients and formats
        raise InputError(f"cannot download '{name}' ({reason(error)}); give --data a folder with the tables") from error
