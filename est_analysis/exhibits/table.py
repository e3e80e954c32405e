"""A table of published numbers beside ours: as tidy CSV for programs and as Markdown for readers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from est_analysis.claims import Measured, NotMeasured

from .data import Rows

_EMPTY = "-"
_LOST = "?"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a paper and ours.

    Attributes:
        published: as the paper prints it; empty where it prints none, or none that could be read.
        where: in which table, if not in the one that is shown.
        lost: why a printed number could not be read.
        ours: what was measured or computed; None where nothing was.
        source: of ours, such as `grid, quick scale`; empty where the table's notes say it.
        why: why there is nothing of ours.
        form: how to write ours, such as `+.3f`.
    """

    published: str = ""
    where: str = ""
    lost: str = ""
    ours: Measured | None = None
    source: str = ""
    why: str = ""
    form: str = ".3f"

    @property
    def ours_text(self) -> str:
        """Ours with its interval, if that has a width to speak of.

        >>> found = Measured(effect=0.123, interval=(0.1, 0.15), unit="nats", seeds=3)
        >>> Cell(ours=found, form="+.2f").ours_text
        '+0.12 [+0.10, +0.15]'
        """
        if self.ours is None:
            return ""
        shown = [format(number, self.form) for number in (self.ours.effect, *(self.ours.interval or ()))]
        return shown[0] if len(set(shown)) == 1 else f"{shown[0]} [{', '.join(shown[1:])}]"


def measured(rows: Rows, check: Callable[[pd.DataFrame], Measured], **cell: str) -> Cell:
    """A cell with what `check` finds in `rows`, or with why it finds nothing."""
    if rows.frame is None:
        return Cell(why=rows.missing, **cell)
    try:
        return Cell(ours=check(rows.frame), source=rows.label, **cell)
    except NotMeasured as missing:
        return Cell(why=str(missing), **cell)


def exact(value: float, how: str, **cell: str) -> Cell:
    """A cell with a number that no chance is in."""
    return Cell(ours=Measured(effect=value, interval=None, unit="", seeds=0), source=how, **cell)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        locus: where its published numbers stand, such as `EST, arXiv 2406.06962, Table 2`; empty where it has none.
        heading: above the names of the rows.
        cells: by row and column, in the order of the rows and, within the first row, of the columns.
        notes: what a reader should know, one sentence or more each.
    """

    title: str
    heading: str
    cells: Mapping[tuple[str, str], Cell]
    locus: str = ""
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> list[str]:
        """Names of the rows."""
        return list(dict.fromkeys(row for row, _ in self.cells))

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(dict.fromkeys(column for _, column in self.cells))

    def frame(self) -> pd.DataFrame:
        """One line a cell; numbers as numbers, the published one as printed."""
        table_name = self.locus.rpartition(", ")[2]
        lines = []
        for (row, column), cell in self.cells.items():
            ours = cell.ours
            low, high = (ours.interval or (None, None)) if ours else (None, None)
            lines.append(
                {
                    "row": row,
                    "column": column,
                    "published": cell.published,
                    "published_in": (cell.where or table_name) if cell.published else "",
                    "unreadable": cell.lost,
                    "ours": ours.effect if ours else None,
                    "low": low,
                    "high": high,
                    "seeds": ours.seeds if ours else None,
                    "source": cell.source,
                    "why_empty": cell.why,
                }
            )
        return pd.DataFrame(lines).astype({"seeds": "Int64"})

    def markdown(self) -> str:
        """The same for a reader: a paper's column and one of ours, reasons of empty cells as lettered notes."""
        notes = _Notes()
        shown = [(column, *self._shown(column)) for column in self.columns]
        heads, beside = [self.heading], any(paper for _, paper, _ in shown)
        for column, paper, ours in shown:
            heads += [f"{column}, paper"] * paper + [f"{column}, ours" if beside else column] * ours
        lines = [" | ".join(heads), "|".join(["---"] + ["---:"] * (len(heads) - 1))]
        for row in self.rows:
            texts = [row]
            for column, paper, ours in shown:
                cell = self.cells.get((row, column), Cell())
                texts += [_published_text(cell, notes)] if paper else []
                texts += [_our_text(cell, notes)] if ours else []
            lines.append(" | ".join(text.replace("|", "\\|") for text in texts))
        body = "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)
        end = [*notes.lines(), *self._nothing(), *self._sources(), *self.notes]
        return "\n\n".join(filter(None, [f"## {self.title}", self.locus, body, *end])) + "\n"

    def _cells(self, column: str) -> list[Cell]:
        return [cell for (_, name), cell in self.cells.items() if name == column]

    def _shown(self, column: str) -> tuple[bool, bool]:
        """Whether the column has published numbers, and whether it has any of ours."""
        cells = self._cells(column)
        return any(cell.published or cell.lost for cell in cells), any(cell.ours for cell in cells)

    def _nothing(self) -> list[str]:
        """Why columns have nothing of ours, columns with one reason together."""
        reasons: dict[str, list[str]] = {}
        for column in self.columns:
            if not self._shown(column)[1]:
                for why in dict.fromkeys(cell.why for cell in self._cells(column) if cell.why):
                    reasons.setdefault(why, []).append(column)
        return [
            f"Nothing of ours{'' if columns == self.columns else f' for {_listed(columns)}'}: {why}."
            for why, columns in reasons.items()
        ]

    def _sources(self) -> list[str]:
        """Where ours are from, columns of one source together; of a column of several sources also which rows."""
        found: dict[str, list[str]] = {}
        for column in self.columns:
            rows: dict[str, list[str]] = {}
            for (row, name), cell in self.cells.items():
                if name == column and cell.ours and cell.source:
                    rows.setdefault(cell.source, []).append(row)
            most = max(reversed(rows), key=lambda source: len(rows[source]), default="")
            for source, named in rows.items():
                which = "other rows" if source == most else _listed(named)
                found.setdefault(source, []).append(column if len(rows) == 1 else f"{column} ({which})")
        everything = [column for column in self.columns if self._shown(column)[1]]
        return [
            f"Ours{'' if columns == everything else f' for {_listed(columns)}'} from: {source}."
            for source, columns in found.items()
        ]


class _Notes:
    """Lettered notes, one letter a text."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def mark(self, text: str) -> str:
        if not text:
            return ""
        letter = self._letters.setdefault(text, chr(ord("a") + len(self._letters)))
        return f"<sup>{letter}</sup>"

    def lines(self) -> list[str]:
        return ["<br>\n".join(f"<sup>{letter}</sup> {text}." for text, letter in self._letters.items())][
            : len(self._letters)
        ]


def _published_text(cell: Cell, notes: _Notes) -> str:
    if cell.published:
        return cell.published + (f" ({cell.where})" if cell.where else "")
    return f"{_LOST}{notes.mark(cell.lost)}" if cell.lost else ""


def _our_text(cell: Cell, notes: _Notes) -> str:
    return cell.ours_text or (f"{_EMPTY}{notes.mark(cell.why)}" if cell.why else "")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def save_table(table: Table, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `table` as `<name>.csv` and `<name>.md`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, text = folder / f"{name}.csv", folder / f"{name}.md"
    table.frame().to_csv(rows, index=False, float_format="%.6g")
    text.write_text(table.markdown(), encoding="utf-8")
    return rows, text
