"""What all reports share: cells of tables, the table of claims, how many held, and how far to trust them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from est_analysis.claims import Claim, Measured, NotMeasured, Verdict

MISSING = "-"
# GPT-2 in the EST paper: 150k steps of 512 sequences of 1024 tokens, for 124.4M parameters.
_PAPER_TOKENS_PER_PARAMETER = 78.6e9 / 124.4e6


def cell(measure: Callable[[], pd.Series], show: Callable[[pd.Series], str]) -> str:
    """What `measure` found, as text, or a dash where the frame does not hold it."""
    try:
        return show(measure())
    except NotMeasured:
        return MISSING


def effect_cell(check: Callable[[], Measured], show: Callable[[float], str], unit: str = "") -> str:
    """What `check` found, with its interval, or a dash where it could not be measured.

    >>> found = Measured(effect=0.5, interval=(0.25, 0.75), unit="nats", seeds=3)
    >>> effect_cell(lambda: found, "{:+.2f}".format)
    '+0.50 [+0.25, +0.75]'
    """
    try:
        found = check()
    except NotMeasured:
        return MISSING
    interval = "" if found.interval is None else f" [{', '.join(map(show, found.interval))}]"
    return f"{show(found.effect)}{unit}{interval}"


def spread(values: pd.Series, digits: int = 4) -> str:
    """The mean over seeds and, of several, their standard deviation.

    >>> spread(pd.Series([1.0, 2.0, 3.0]), digits=1)
    '2.0 ± 1.0'
    """
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std():.{digits}f}"


def effect_text(verdict: Verdict) -> str:
    """The measured effect with its interval and unit.

    >>> effect_text(Verdict(claim="a", verdict="supported", effect=-0.5, interval=(-0.75, -0.25), unit="nats", seeds=3,
    ...                     scale="quick", detail=""))
    '-0.5 [-0.75, -0.25] nats'
    """
    if verdict.effect is None:
        return MISSING
    interval = "" if verdict.interval is None else f" [{verdict.interval[0]:.4g}, {verdict.interval[1]:.4g}]"
    return f"{verdict.effect:.4g}{interval} {verdict.unit}"


def claims_frame(claims: Iterable[Claim], verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row a claim with numbers as numbers, for `claims.csv`."""
    columns = (
        "id", "paper", "locus", "statement", "threshold", "effect", "low", "high", "unit", "verdict", "seeds", "scale",
        "detail", "recipe",
    )  # fmt: skip
    rows = [
        {**vars(claim), **vars(verdict), **dict(zip(("low", "high"), verdict.interval or (None, None), strict=True))}
        for claim, verdict in zip(claims, verdicts, strict=True)
    ]
    return pd.DataFrame(rows, columns=columns)


def tally(verdicts: Iterable[Verdict], scale: str) -> str:
    """How many claims had which outcome, in a sentence."""
    counts = pd.Series([verdict.verdict for verdict in verdicts]).value_counts()
    each = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("supported", "refuted", "inconclusive", "untested"))
    return f"Of {counts.sum()} claims at {scale} scale: {each}."


def caveat(context: Mapping[str, Any]) -> str:
    """How far the runs are from the papers', in plain words."""
    ratio, parameters = context.get("tokens_per_parameter"), context.get("num_parameters")
    trained = "an unrecorded number of" if ratio is None else f"{ratio:.3g}"
    size = "small models" if parameters is None else f"a model of {parameters:,} parameters"
    seeds = len(context.get("seeds") or ())
    repeats = f"{seeds} seed{'' if seeds == 1 else 's'} a method" if seeds else "few seeds"
    return (
        f"These runs trained {size} on {trained} tokens a parameter; EST's GPT-2 saw about "
        f"{_PAPER_TOKENS_PER_PARAMETER:.0f} (78.6B tokens for 124M parameters). With {repeats} the intervals are wide. "
        "A verdict here is about this scale: it neither confirms nor contradicts what a paper found at its own."
    )
