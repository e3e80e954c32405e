"""What a paper prints: numbers as they stand in its tables and sentences, by table, row and column. Loads no torch."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from est_analysis.errors import InputError

_COLUMNS = ["paper", "table", "page", "row", "column", "value"]
_UNITS = {"": 1.0, "%": 1.0, "x": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """All numbers from `low` to `high`."""

    low: float
    high: float

    def meets(self, other: "Interval") -> bool:
        """Whether some number is in both, but for the rounding of double precision."""
        slack = 1e-9 * max(abs(self.high), abs(other.high))
        return self.low <= other.high + slack and other.low <= self.high + slack

    def __truediv__(self, other: "Interval") -> "Interval":
        """Quotients of positive numbers."""
        return Interval(low=self.low / other.high, high=self.high / other.low)


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A number as a paper prints it, such as `26.7%`, `1.22x` or `130B`."""

    text: str

    @property
    def _parts(self) -> tuple[str, str]:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([%xkMB]?)", self.text)
        if found is None:
            raise InputError(f"'{self.text}' is not a published number; write one such as 26.7%, 1.22x or 130B")
        return found[1], found[2]

    @property
    def unit(self) -> str:
        """What follows the digits."""
        return self._parts[1]

    @property
    def decimals(self) -> int:
        """Digits after the point."""
        return len(self._parts[0].partition(".")[2])

    @property
    def value(self) -> float:
        """The number itself, percents as they are."""
        return float(self._parts[0]) * _UNITS[self.unit]

    @property
    def rounded(self) -> Interval:
        """All numbers that round to it; the last zeros of a whole number, as in 130B, may stand for anything."""
        digits = self._parts[0]
        zeros = len(digits) - len(digits.rstrip("0")) if digits.isdigit() and float(digits) else 0
        half = 0.5 * 10.0 ** (zeros - self.decimals) * _UNITS[self.unit]
        return Interval(low=self.value - half, high=self.value + half)

    def written_like_it(self, value: float) -> str:
        """`value` in the same unit, with one more digit."""
        return f"{value / _UNITS[self.unit]:.{self.decimals + 1}f}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of a paper and where it stands."""

    table: str
    row: str
    column: str
    value: str

    @property
    def locus(self) -> str:
        """Where, in words."""
        return f"Table {self.table}" if self.table.isdigit() else self.table


@dataclass(frozen=True, kw_only=True)
class Book:
    """All that a paper prints, by table, row and column."""

    entries: tuple[Entry, ...]

    def find(self, table: str, row: str, column: str) -> Printed:
        """The one number there; an `InputError` names what is missing."""
        for entry in self.entries:
            if (entry.table, entry.row, entry.column) == (table, row, column):
                return Printed(text=entry.value)
        raise InputError(f"no published '{column}' of '{row}' in '{table}'; add it to the file of published values")

    def scores(self, table: str, row: str) -> list[Printed]:
        """The scores of a row, one or two a column as in `86.63/86.25`."""
        cells = (e for e in self.entries if (e.table, e.row) == (table, row) and e.column != "saving FLOPs")
        return [Printed(text=part) for cell in cells for part in cell.value.split("/")]


def read_book(path: Path, paper: str = "EST") -> Book:
    """The numbers of `paper` in a file of published values.

    Raises:
        InputError: no such file, or one with other columns.
    """
    if not path.is_file():
        raise InputError(f"no published values at '{path}'; give the repository's paper_figures/data/published.csv")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != _COLUMNS:
                raise InputError(f"'{path}' has columns {reader.fieldnames}; a file of published values has {_COLUMNS}")
            rows = [row for row in reader if row["paper"] == paper]
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not text; restore it with git") from error
    if any(None in row.values() for row in rows):
        raise InputError(f"'{path}' has rows that are cut short; restore it with git")
    return Book(
        entries=tuple(Entry(**{name: row[name] for name in ("table", "row", "column", "value")}) for row in rows)
    )
