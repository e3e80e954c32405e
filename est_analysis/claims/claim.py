"""What a claim is, and how a measurement becomes a verdict: the same rule for all of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import isinf
from typing import Any, Literal

import pandas as pd

from est_analysis.errors import InputError

COLUMNS = ("run_id", "method", "schedule", "seed", "step", "metric", "value")


class NotMeasured(Exception):
    """The frame does not hold what a claim's check needs; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a check found in a frame.

    Attributes:
        effect: the measured quantity.
        interval: its 95 % interval, or None where the seeds are too few for one.
        unit: of effect and interval.
        seeds: how many seeds went into it.
        detail: what a reader should know beside the number.
    """

    effect: float
    interval: tuple[float, float] | None
    unit: str
    seeds: int
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One assertion, a paper's or about one, with its threshold.

    Attributes:
        id: `<paper>.<topic>`.
        paper: which one, with its arXiv number.
        locus: where in the paper. Begins with `asked:` where it is not the paper's but what its reviewers or summaries
            ask, or what it leaves open; with `ours:` for our controls and hypotheses.
        statement: one falsifiable sentence.
        threshold: in words, what decides.
        region: the same in numbers, the open interval of effects that agree with the claim.
        recipe: the experiment that measures it; `audit` where the paper's own numbers or theory do, `paper-scale` where
            only runs of the paper's size would.
        check: evidence -> effect; raises `NotMeasured` where it cannot be computed. Evidence is the tidy frame of the
            recipe's runs, for `audit` the book of printed numbers.
        by_hand: the command that measures it, where no recipe does.
        known: what was known of the measured rows when the threshold was written; empty for nothing.
    """

    id: str
    paper: str
    locus: str
    statement: str
    threshold: str
    region: tuple[float, float]
    recipe: str
    check: Callable[[Any], Measured]
    by_hand: str = ""
    known: str = ""

    @property
    def origin(self) -> Literal["paper", "asked", "ours"]:
        """Whose assertion it is, as `locus` begins."""
        head = self.locus.partition(":")[0]
        return head if head in ("asked", "ours") else "paper"

    @property
    def prediction(self) -> str:
        """The region in words.

        >>> from functools import partial
        >>> from math import inf
        >>> claim = partial(Claim, id="", paper="", locus="", statement="", threshold="", recipe="", check=print)
        >>> [claim(region=region).prediction for region in [(-inf, 0.0), (1.0, inf), (0.24, 0.26)]]
        ['the effect is below 0', 'the effect is above 1', 'the effect is between 0.24 and 0.26']
        """
        low, high = self.region
        if isinf(low):
            return f"the effect is below {high:g}"
        return f"the effect is above {low:g}" if isinf(high) else f"the effect is between {low:g} and {high:g}"

    def command(self, scale: str = "quick") -> str:
        """What to type to measure it, at `scale` where it has a recipe."""
        return self.by_hand or f"est run {self.recipe} --scale {scale}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of one claim on one frame.

    Attributes:
        claim: the claim's id.
        verdict: the outcome; `untested` where `detail` says what was missing.
        effect: as in `Measured`, None where untested.
        interval: as in `Measured`.
        unit: as in `Measured`.
        seeds: as in `Measured`, 0 where untested.
        scale: of the runs judged; a verdict says nothing about another scale.
        detail: as in `Measured`.
    """

    claim: str
    verdict: Literal["supported", "refuted", "inconclusive", "untested"]
    effect: float | None
    interval: tuple[float, float] | None
    unit: str
    seeds: int
    scale: str
    detail: str


def decide(interval: tuple[float, float] | None, region: tuple[float, float]) -> str:
    """The verdict of an `interval` on a claim that allows the open `region`.

    Supported when the whole interval lies inside, refuted when none of it does, inconclusive otherwise and when there
    is no interval.

    >>> [decide(interval, (0.0, 1.0)) for interval in [(0.2, 0.8), (1.0, 2.0), (0.5, 2.0), None]]
    ['supported', 'refuted', 'inconclusive', 'inconclusive']
    """
    if interval is None:
        return "inconclusive"
    (low, high), (least, most) = interval, region
    if least < low and high < most:
        return "supported"
    return "refuted" if high <= least or low >= most else "inconclusive"


def judge(claims: Iterable[Claim], frame: pd.DataFrame, scale: str) -> list[Verdict]:
    """Measures every claim in `frame` and says what follows.

    Args:
        claims: which ones, such as `CLAIMS.values()`.
        frame: tidy rows (columns run_id, method, schedule, seed, step, metric, value).
        scale: of the runs in `frame`, such as `quick`.

    Returns:
        One verdict a claim, in their order.

    Raises:
        InputError: a column is missing, or one run holds two values for the same step and metric.
    """
    check_frame(frame)
    return [judge_one(claim, frame, scale) for claim in claims]


def judge_one(claim: Claim, evidence: Any, scale: str) -> Verdict:
    """The verdict of one claim on its evidence, a frame that was checked or what else its check reads."""
    untested = Verdict(
        claim=claim.id, verdict="untested", effect=None, interval=None, unit="", seeds=0, scale=scale, detail=""
    )
    try:
        found = claim.check(evidence)
    except NotMeasured as missing:
        return replace(untested, detail=str(missing))
    return replace(
        untested,
        verdict=decide(found.interval, claim.region),
        effect=found.effect,
        interval=found.interval,
        unit=found.unit,
        seeds=found.seeds,
        detail=found.detail,
    )


def check_frame(frame: pd.DataFrame) -> None:
    """Raises `InputError` unless `frame` is tidy: every column there, and one value a run, step and metric."""
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"the frame has no column {', '.join(missing)}: it needs {', '.join(COLUMNS)}")
    twice = frame[frame.duplicated(["run_id", "seed", "step", "metric"])]
    if not twice.empty:
        row = twice.iloc[0]
        raise InputError(
            f"run '{row['run_id']}' has two values of {row['metric']} at step {row['step']}: drop the repeated rows"
        )
