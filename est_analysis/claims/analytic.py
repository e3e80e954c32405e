"""Claims that need no run: the papers' printed numbers against what their own settings and numbers give.

The evidence is the book of printed numbers (`audit.read_book`), the effect the recomputed number. Its interval is no
statistics: it is all that rounding leaves open, and how attention is counted, which EST does not say. A region is what
rounds to the printed number.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING, Any

import pandas as pd

from .claim import Claim, Measured, NotMeasured

if TYPE_CHECKING:
    from .audit import Book, Finding

_EST, _RAPTR = "EST, arXiv 2406.06962", "RaPTr, arXiv 2402.05913"
_SAVING, _SPEED_UP = "saving FLOPs", "speed-up"
GROUPS = {
    "est.printed-savings": "The FLOPs savings that EST prints follow from its schedules.",
    "est.printed-speed-ups": "The speed-ups that EST prints follow from its hours and its step times.",
    "est.printed-numbers": "EST's other printed numbers follow from each other.",
    "raptr.schedule-costs": "RaPTr's schedules cost what it says.",
}


@lru_cache(maxsize=1)
def _audited(book: "Book") -> "list[Finding]":
    from .audit import audit  # reads the presets of models, which load torch

    return audit(book)


def _findings(evidence: Any, wanted: tuple[tuple[str, str, str], ...], how: str) -> "list[Finding]":
    """The findings at (table or section, row, column), those whose `how` has these words."""
    found = [one for one in _audited(evidence) if (one.locus, one.row, one.column) in wanted and how in one.how]
    missing = sorted(set(wanted) - {(one.locus, one.row, one.column) for one in found})
    if missing:
        locus, row, column = missing[0]
        raise NotMeasured(f"no printed {column} of {row} in {locus} to recompute")
    return found


def recomputed(evidence: Any, *, at: tuple[str, str, str], unit: str, size: float = 1.0, how: str = "") -> Measured:
    """The number at (table, row, column) as it follows from others.

    Args:
        evidence: the book.
        at: where it is printed.
        unit: of the effect.
        size: of that unit, such as 1e6 for millions.
        how: words that tell one way of recomputing it from another.
    """
    (found,) = _findings(evidence, (at,), how)
    low, high = found.recomputed.low / size, found.recomputed.high / size
    detail = f"printed {found.printed.text}, recomputed from {found.how}"
    return Measured(effect=(low + high) / 2, interval=(low, high), unit=unit, seeds=0, detail=detail)


def disagreeing(evidence: Any, *, at: tuple[tuple[str, str, str], ...]) -> Measured:
    """How many of the numbers printed at these places do not follow from others."""
    found = _findings(evidence, at, "")
    wrong = [one for one in found if not one.agrees]
    texts = [
        f"{one.row} {one.printed.text} ({one.printed.written_like_it(one.recomputed.low)} from {one.how})"
        for one in wrong or found
    ]
    detail = ("do not follow: " if wrong else "follow: ") + ", ".join(texts)
    count = float(len(wrong))
    unit = f"of {len(found)} numbers disagree"
    return Measured(effect=count, interval=(count, count), unit=unit, seeds=0, detail=detail)


def schedule_speed_up(evidence: Any, *, schedule: str, model: str, confirmed: bool = True) -> Measured:
    """How many times fewer layer FLOPs a schedule needs than the full model, in expectation."""
    from est_analysis.subnet.cost import find_architecture, schedule_cost
    from est_analysis.subnet.schedule import find_schedule

    saving = schedule_cost(find_schedule(schedule), find_architecture(model)).paper_saving
    effect = 1 / (1 - saving)
    detail = f"schedule {schedule}: {100 * saving:.2f} % of the layer FLOPs saved"
    if not confirmed:
        detail += "; its depths and its number of steps are not confirmed, so nothing follows"
    return Measured(effect=effect, interval=(effect, effect) if confirmed else None, unit="x", seeds=0, detail=detail)


def _without_runs(check: Callable[[Any], Measured], evidence: Any) -> Measured:
    if isinstance(evidence, pd.DataFrame):
        raise NotMeasured("it follows from a schedule, from printed numbers or from theory, not from runs")
    return check(evidence)


def exact_claim(
    id: str, locus: str, statement: str, threshold: str, region: tuple[float, float], check: Callable[[Any], Measured],
    *, paper: str = _EST, by_hand: str = "est audit", known: str = "",
) -> Claim:  # fmt: skip
    """A claim that is judged on the book of printed numbers, or on theory, which reads no evidence at all."""
    return Claim(
        id=id,
        paper=paper,
        locus=locus,
        statement=statement,
        threshold=threshold,
        region=region,
        recipe="audit",
        check=partial(_without_runs, check),
        by_hand=by_hand,
        known=known,
    )


def _saving(topic: str, locus: str, statement: str, printed: float, at: tuple[str, str]) -> Claim:
    return exact_claim(
        f"est.printed-savings.{topic}",
        locus,
        statement,
        f"the saving of layer FLOPs by EST's eqs. 8-10 rounds to {printed:g} %",
        (printed - 0.05, printed + 0.05),
        partial(recomputed, at=(*at, _SAVING), unit="%"),
    )


def _speed_up(topic: str, locus: str, statement: str, table: str, how: str) -> Claim:
    return exact_claim(
        f"est.printed-speed-ups.{topic}",
        locus,
        statement,
        "the quotient of the printed times rounds to 1.22",
        (1.215, 1.225),
        partial(recomputed, at=(table, "EST", _SPEED_UP), unit="x", how=how),
    )


def _agreement(id: str, locus: str, statement: str, *at: tuple[str, str, str]) -> Claim:
    threshold = "none of the printed numbers lies outside of what the others and their rounding allow"
    return exact_claim(id, locus, statement, threshold, (-inf, 0.5), partial(disagreeing, at=at))


def _schedule(topic: str, locus: str, statement: str, printed: str, **schedule) -> Claim:
    half = 0.5 * 10.0 ** -len(printed.partition(".")[2])
    return exact_claim(
        f"raptr.schedule-costs.{topic}",
        locus,
        statement,
        f"the full model's layer FLOPs over the schedule's round to {printed}",
        (float(printed) - half, float(printed) + half),
        partial(schedule_speed_up, **schedule),
        paper=_RAPTR,
        by_hand=f"est flops {schedule['schedule']} --model {schedule['model']}",
    )


_TWO_STAGE = tuple(f"EST-TWO-STAGE-{letter}" for letter in "ABC")
_MEANS = (*(("Table 3", row, "average GLUE") for row in ("Original", "EST-ONE-STAGE", *_TWO_STAGE[:2])),)
_CLAIMS = (
    _saving("gpt2", "Abstract, Tables 2, 3, 6", "EST saves 26.7 % of layer FLOPs on GPT-2.", 26.7, ("Table 2", "EST")),
    _saving(
        "tinyllama",
        "Abstract, Tables 4, 7",
        "EST saves 25.0 % of layer FLOPs on TinyLlama.",
        25.0,
        ("section 4.2", "EST on TinyLlama"),
    ),
    _saving(
        "example",
        "Section 3.3, Table 1",
        "The example schedule saves 41.7 % of layer FLOPs.",
        41.7,
        ("section 3.3", "EST"),
    ),
    _agreement(
        "est.printed-savings.ablations",
        "Section 4.1, Tables 3, 6",
        "The one-, two- and three-stage schedules save 50.0, 16.7, 23.3, 30.0 and 26.7 % of layer FLOPs.",
        *(("Table 3", row, _SAVING) for row in ("EST-ONE-STAGE", *_TWO_STAGE, "EST-THREE-STAGE")),
    ),
    _saving(
        "msg",
        "Table 2",
        "Masked Structural Growth, as EST ran it, saves 24.4 % of layer FLOPs.",
        24.4,
        ("Table 2", "MSG"),
    ),
    _saving(
        "staged",
        "Section 4.1, Tables 2, 6",
        "Staged Training, as EST ran it, saves 16.7 % of layer FLOPs.",
        16.7,
        ("Table 2", "Staged Training"),
    ),
    _speed_up("gpt2-hours", "Table 2", "By the hours of its runs EST is 1.22 times faster on GPT-2.", "Table 2", " h"),
    _speed_up(
        "tinyllama-hours",
        "Table 4",
        "By the hours of its runs EST is 1.22 times faster on TinyLlama.",
        "Table 4",
        " h",
    ),
    _speed_up(
        "gpt2-steps",
        "ours: Tables 2 and 8, which the paper does not set beside one another",
        "GPT-2's step times at the largest micro-batch give the same 1.22 times.",
        "Table 2",
        "step times",
    ),
    _speed_up(
        "tinyllama-steps",
        "ours: Tables 4 and 9, which the paper does not set beside one another",
        "TinyLlama's step times at the largest micro-batch give the same 1.22 times.",
        "Table 4",
        "step times",
    ),
    _agreement(
        "est.printed-speed-ups.rivals",
        "Table 2",
        "By the hours of their runs MSG is 1.16 and Staged Training 1.06 times faster than the full model.",
        *(("Table 2", row, _SPEED_UP) for row in ("MSG", "Staged Training")),
    ),
    _agreement(
        "est.printed-numbers.means",
        "Tables 2, 3, 4, 6, 7",
        "The averages of GLUE and GPT4All are the means of the scores, where all of these could be read.",
        *_MEANS,
        ("Table 2", "Original", "average GLUE"),
        *(("Table 4", row, "GPT4All") for row in ("Original", "EST")),
    ),
    _agreement(
        "est.printed-numbers.table5",
        "Section 5.2, Tables 3, 5",
        "The GLUE scores beside the Hessian traces are those of the models' other table.",
        *(("Table 5", row, "GLUE") for row in ("Original", "EST")),
    ),
    exact_claim(
        "est.printed-numbers.gpt2-size",
        "Section 4.1",
        "The GPT-2 that EST trains has 117M parameters.",
        "the parameters of GPT-2 with its vocabulary of 50257 round to 117M",
        (116.5, 117.5),
        partial(recomputed, at=("section 4.1", "GPT2", "parameters"), unit="M parameters", size=1e6),
    ),
    exact_claim(
        "est.printed-numbers.tinyllama-tokens",
        "Section 4.2",
        "TinyLlama was trained on 130B tokens.",
        "batch size times sequence length times steps round to 130B",
        (125.0, 135.0),
        partial(recomputed, at=("section 4.2", "TinyLlama", "tokens"), unit="B tokens", size=1e9),
    ),
    _schedule(
        "bert",
        "BERT-base experiments",
        "The schedule 6-8-10-12 needs 1.33 times fewer FLOPs than the full model.",
        "1.33",
        schedule="bert-raptr-6-8-10-12",
        model="bert-base",
    ),
    _schedule(
        "stacking",
        "BERT-base experiments",
        "Gradual stacking's 6-9-12, its rival, costs as much: 1.33 times fewer FLOPs.",
        "1.33",
        schedule="bert-stacking-6-9-12",
        model="bert-base",
    ),
    _schedule(
        "ul2",
        "UL2 experiments",
        "With 30k steps of full-model warm-up, UL2's schedule needs 1.2 times fewer FLOPs.",
        "1.2",
        schedule="ul2-raptr-12-16-20-24",
        model="bert-large",
        confirmed=False,
    ),
)

CLAIMS = {claim.id: claim for claim in _CLAIMS}
