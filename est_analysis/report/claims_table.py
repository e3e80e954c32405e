"""Verdicts as text: the table of claims.md, in which claims of one group share a row, and the note on chance."""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

from est_analysis.claims.evidence import LEVEL, Judged, Outcome
from est_analysis.claims.registry import GROUPS

from .tables import effect_text

STANDS = "†"
ORIGINS = {"paper": "a paper's own", "asked": "asked by others or left open", "ours": "controls and hypotheses of ours"}
MARKS = {"supported": "✓", "refuted": "✗", "inconclusive": "~", "untested": "·"}


def markdown_table(judged: Iterable[Judged]) -> str:
    """The verdicts as a Markdown table, a row a claim or group of claims, and what to make of it.

    Claims whose ids differ in the last of three or more parts only, as `grid.est-full.gpt2` and `grid.est-full.llama`,
    are a group.
    """
    rows = ["| claim | statement | measured [95 %] | verdict |", "|---|---|---|---|"]
    judged = list(judged)
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(_group(one.claim.id), []).append(one)
    for group, members in groups.items():
        alone = len(members) == 1 and group not in GROUPS
        group = members[0].claim.id if alone else group
        cells = _cells(members[0]) if alone else _group_cells(group, members)
        rows.append(f"| `{group}` | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    marks = "; ".join(f"{mark} {name}" for name, mark in MARKS.items())
    legend = f"{marks}; {STANDS} stands Holm's correction (where no chance is involved there is nothing to correct)"
    return "\n".join([*rows, "", f"{legend}. {chance_note(judged)} {origin_note(judged)}"])


def origin_note(judged: Iterable[Judged]) -> str:
    """Whose the claims are, and what came of each kind."""
    kinds = []
    judged = list(judged)
    for origin, words in ORIGINS.items():
        verdicts = [one.shown.verdict.verdict for one in judged if one.claim.origin == origin]
        counts = ", ".join(f"{verdicts.count(name)} {name}" for name in MARKS)
        kinds.append(f"{len(verdicts)} are {words} ({counts})")
    return f"Of the {len(judged)} claims {'; '.join(kinds)}."


def stands(outcome: Outcome) -> str:
    """A dagger where a call stands Holm's correction."""
    return STANDS if outcome.called and outcome.survives else ""


def common_statement(statements: Sequence[str]) -> str:
    """What the statements of a group have in common: the words that they begin and end with.

    >>> common_statement(["EST is best, on GPT-2.", "EST is best, on Llama."])
    'EST is best.'
    >>> common_statement(["Masks of heads cost loss.", "Masks of layers cost loss."])
    'Masks of … cost loss.'
    """
    words = [statement.split() for statement in statements]
    start = _alike(words)
    end = _alike([one[start:][::-1] for one in words])
    first = words[0]
    if start == len(first):
        return statements[0]
    if end:
        return " ".join([*first[:start], "…", *first[-end:]])
    clause = re.split(r"[,:](?!.*[,:])", " ".join(first[:start]))[0]  # without the clause that they differ in
    return f"{clause}."


def _alike(lists: Sequence[Sequence[str]]) -> int:
    """How many words all of `lists` begin with."""
    return sum(1 for _ in takewhile(lambda place: len(set(place)) == 1, zip(*lists, strict=False)))


def _group(name: str) -> str:
    return name.rpartition(".")[0] if name.count(".") > 1 else name


def _cells(one: Judged) -> tuple[str, str, str]:
    verdict = one.shown.verdict
    others = [
        f"{other.verdict.scale}: {other.verdict.verdict}{stands(other)}" for other in one.outcomes[1:] if other.tested
    ]
    called = f"**{verdict.verdict}**{stands(one.shown)}" if one.shown.called else verdict.verdict
    notes = "; ".join([verdict.scale, *others] if one.shown.tested else [])
    return _said(one.claim.statement, [one]), effect_text(verdict).strip(), f"{called} ({notes})" if notes else called


def _said(statement: str, members: Sequence[Judged]) -> str:
    """`statement`, marked where it is not the paper's."""
    origins = [name for name in ORIGINS if any(one.claim.origin == name for one in members)]
    return statement if origins == ["paper"] else f"{statement} *({', '.join(origins)})*"


def _group_cells(group: str, members: list[Judged]) -> tuple[str, str, str]:
    units = {one.shown.verdict.unit for one in members if one.shown.tested}
    shared = units.pop() if len(units) == 1 else ""
    parts = []
    for one in members:
        verdict, label = one.shown.verdict, one.claim.id.rpartition(".")[2]
        unit = "" if shared or not verdict.unit else f" {verdict.unit}"
        measured = "" if verdict.effect is None else f" {verdict.effect:.4g}{unit}"
        parts.append(f"{label}{measured} {MARKS[verdict.verdict]}{stands(one.shown)}")
    counts = {name: sum(one.shown.verdict.verdict == name for one in members) for name in MARKS}
    scales = ", ".join(dict.fromkeys(one.shown.verdict.scale for one in members if one.shown.tested))
    statement = GROUPS.get(group) or common_statement([one.claim.statement for one in members])
    tally = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    text = ", ".join(parts) + (f" ({shared})" if shared else "")
    return _said(statement, members), text, f"{tally} ({scales})" if scales else tally


def chance_note(judged: Iterable[Judged]) -> str:
    """How many intervals were judged, how many calls chance alone would make, and how many stand a correction."""
    intervals = [outcome for one in judged for outcome in one.outcomes if outcome.p is not None]
    if not intervals:
        return "No interval was judged, so chance decided nothing."
    called = [outcome for outcome in intervals if outcome.called]
    standing = sum(outcome.survives for outcome in called)
    return (
        f"{len(intervals)} intervals of 95 % over seeds were judged, all scales together: if every truth lay exactly "
        f"on its threshold, about {LEVEL * len(intervals):.1f} of them would be called supported or refuted by chance. "
        f"Of the {len(called)} that were called, {standing} stand Holm's correction over the claims of their recipe "
        "and scale."
    )
