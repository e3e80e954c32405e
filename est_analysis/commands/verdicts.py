"""Verdicts as `est claims` and `est run` print them: a table on a terminal, a line a claim for other programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {"supported": "green", "refuted": "bold red", "inconclusive": "", "untested": "dim"}
_HEADING = "verdict, scale: measured [95 %]"
_BORDERS = 7  # what a table of two columns needs besides their content


@dataclass(frozen=True, kw_only=True)
class Line:
    """A claim and its verdicts.

    Attributes:
        id: of the claim.
        statement: what it says.
        verdicts: `Verdict`s, the one to show first.
    """

    id: str
    statement: str
    verdicts: Sequence


def print_verdicts(lines: Sequence[Line], *, title: str = "") -> None:
    """Print `lines`; an id is never broken.

    Where stdout is no terminal: id, verdict, effect with interval, scale and statement between tabs, a line a claim.
    """
    console = Console()
    if console.is_terminal:
        console.print(_table(lines, title, console.width))
        return
    for line in lines:
        print(_plain(line))


def _plain(line: Line) -> str:
    from est_analysis.report.tables import effect_text

    verdict = line.verdicts[0]
    cells = (line.id, verdict.verdict, effect_text(verdict), verdict.scale or "-", line.statement)
    return "\t".join(" ".join(cell.split()) for cell in cells)


def _table(lines: Sequence[Line], title: str, width: int) -> Table:
    """Ids stand on lines of their own, statements under them; the verdicts yield where there is little room."""
    outcomes = [Text("\n").join(map(_outcome, line.verdicts)) for line in lines]
    longest = max((len(line.id) for line in lines), default=0)
    beside = max(len(_HEADING), *(part.cell_len for outcome in outcomes for part in outcome.split()))
    table = Table(title=title, title_justify="left")
    table.add_column("claim", width=max(longest, width - beside - _BORDERS))
    table.add_column(_HEADING)
    for line, outcome in zip(lines, outcomes, strict=True):
        statement = shorten(line.statement, 100, placeholder=" ...")
        table.add_row(Text.assemble((line.id, "bold"), "\n", statement), outcome)
    return table


def _outcome(verdict) -> Text:
    from est_analysis.report.tables import effect_text

    text = Text(verdict.verdict, style=STYLES[verdict.verdict])
    scale = f", {verdict.scale}" if verdict.scale else ""
    measured = f": {effect_text(verdict).strip()}" if verdict.effect is not None else ""
    return Text.assemble(text, f"{scale}{measured}")
