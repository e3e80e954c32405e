"""What the papers print beside what was measured: the number as it stands there, or why it could not be read."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from est_analysis.claims.book import Book, Printed, read_book
from est_analysis.committed import DATA
from est_analysis.errors import InputError

_KEYS = ("paper", "table", "row", "column")


@dataclass(frozen=True, kw_only=True)
class Published:
    """The printed numbers of both papers (`published.csv`), and which could not be read (`unreadable.csv`)."""

    books: Mapping[str, Book]
    unreadable: Mapping[tuple[str, ...], str]

    def text(self, paper: str, table: str, row: str, column: str) -> str:
        """The number as printed; empty where there is none, or none that could be read."""
        entries = self.books[paper].entries
        return next((e.value for e in entries if (e.table, e.row, e.column) == (table, row, column)), "")

    def lost(self, paper: str, table: str, row: str = "", column: str = "") -> str:
        """Why a number that the paper prints could not be read; empty where it could, or where there is none."""
        return self.unreadable.get((paper, table, row, column), "")

    def value(self, paper: str, table: str, row: str, column: str) -> float:
        """The number itself; a missing one is an `InputError`."""
        return self.printed(paper, table, row, column).value

    def printed(self, paper: str, table: str, row: str, column: str) -> Printed:
        """The number with its unit and digits; a missing one is an `InputError`."""
        return self.books[paper].find(table, row, column)

    def rows(self, paper: str, table: str) -> list[str]:
        """The rows of a table, in the paper's order."""
        return list(dict.fromkeys(entry.row for entry in self.books[paper].entries if entry.table == table))

    def columns(self, paper: str, table: str) -> list[str]:
        """The columns of a table, in the paper's order."""
        return list(dict.fromkeys(entry.column for entry in self.books[paper].entries if entry.table == table))


def read_published(folder: Path) -> Published:
    """The published values in `folder`, those of the repository where it has none of its own.

    Raises:
        InputError: a file is missing or has other columns.
    """
    folder = folder if (folder / "published.csv").is_file() else DATA
    books = {paper: read_book(folder / "published.csv", paper) for paper in ("EST", "RaPTr")}
    path = folder / "unreadable.csv"
    if not path.is_file():
        raise InputError(f"no list of unreadable values at '{path}'; give the repository's paper_figures/data")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [*_KEYS, "why"]:
            raise InputError(f"'{path}' has columns {reader.fieldnames}; a list of unreadable values has {_KEYS} + why")
        unreadable = {tuple(row[name] for name in _KEYS): row["why"] for row in reader}
    return Published(books=books, unreadable=unreadable)
