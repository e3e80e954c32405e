"""Claims beside one another at several scales, as a Markdown table whose words are typed and numbers filled in."""

import math
import re
from collections.abc import Iterable, Mapping

from est_analysis.claims import Verdict
from est_analysis.claims.evidence import Judged
from est_analysis.errors import unknown_name

from .claims_table import stands
from .tables import MISSING

_ID = re.compile(r"`([^`]+)`")


def filled_rows(lines: Iterable[str], scales: Iterable[str], judged: Mapping[str, Judged]) -> list[str]:
    """The rows of a table with what was measured: one cell a scale after the cell of words.

    Args:
        lines: of the table; a row whose first cell names a claim between backticks, `est.loss`, is filled in, others
            are left as they are.
        scales: what the columns after the first one are of.
        judged: every claim by its id.

    Raises:
        InputError: no such claim.
    """
    scales = list(scales)
    return [_row(line, scales, judged) for line in lines]


def _row(line: str, scales: list[str], judged: Mapping[str, Judged]) -> str:
    words = line.split("|")[1] if line.startswith("|") else ""
    found = _ID.search(words)
    if not found:
        return line
    if found[1] not in judged:
        raise unknown_name("claim", found[1], judged)
    cells = [_cell(judged[found[1]], scale) for scale in scales]
    return f"| {' | '.join([words.strip(), *cells])} |"


def _cell(one: Judged, scale: str) -> str:
    """What was measured at `scale`, and the verdict."""
    outcome = next((outcome for outcome in one.outcomes if outcome.verdict.scale == scale and outcome.tested), None)
    if outcome is None:
        return MISSING
    call = outcome.verdict.verdict
    return f"{effect_words(outcome.verdict)}, {f'**{call}**' if outcome.called else call}{stands(outcome)}"


def effect_words(verdict: Verdict) -> str:
    """The effect and its interval, in as many digits as the interval bears; of units only percent and ratio are said.

    >>> effect_words(Verdict(claim="a", verdict="supported", effect=-0.5123, interval=(-0.7777, -0.2444), unit="nats",
    ...                      seeds=3, scale="quick", detail=""))
    '-0.512 [-0.778, -0.244]'
    """
    if verdict.effect is None:
        return MISSING
    low, high = verdict.interval or (verdict.effect, verdict.effect)
    width, size = (high - low) / 2, max(abs(low), abs(high))
    least = 3 if size < 10 else 2
    digits = least if width <= 0 else min(4, max(least, 1 - math.floor(math.log10(width))))
    unit = {"%": " %", "x": "x"}.get(verdict.unit, "")
    effect, low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in (verdict.effect, low, high))
    return f"{effect}{unit}" if verdict.interval is None else f"{effect}{unit} [{low}, {high}]"
