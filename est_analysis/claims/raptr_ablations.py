"""Claims about RaPTr's schedule, axis and scaling, and how much less it depends on its schedule than stacking does.

RaPTr (arXiv 2402.05913) calls stacking very sensitive to its schedule; how sensitive RaPTr is, and whether heads and
MLP columns do as well as layers, are questions that it is reported to leave open. Its square-root scaling is named
without a formula that we could read: `sqrt_gap` is our reading. All regions were fixed before the first run of a
contender that the grid does not have.
"""

from functools import partial
from math import inf

import pandas as pd

from .ablation_checks import above_shorter_runs, difference_claim, gaps, gaps_above_shorter_runs
from .claim import Claim, Measured
from .statistics import over_seeds

_PAPER = "RaPTr, arXiv 2402.05913"
_RECIPE = "raptr-ablations"
SCHEDULES = ("", "/two-stage", "/exponential")  # of equal cost, which RaPTr and stacking both follow
SHORTER = ("short", "full")  # the full model for 73.3 % and all of the steps


def spread(frame: pd.DataFrame, method: str) -> pd.Series:
    """The largest final loss of `method` over `SCHEDULES` minus the least, a seed."""
    table = gaps(frame, {schedule: f"{method}{schedule}" for schedule in SCHEDULES})
    return table.max(axis=1) - table.min(axis=1)


def stacking_spread(frame: pd.DataFrame) -> Measured:
    """`spread` of gradual stacking."""
    return over_seeds(spread(frame, "gradual_stacking"), unit="nats", detail=_each(frame, "gradual_stacking"))


def spread_difference(frame: pd.DataFrame) -> Measured:
    """`spread` of RaPTr minus that of gradual stacking, paired by seed."""
    found = (spread(frame, "raptr") - spread(frame, "gradual_stacking")).dropna()
    detail = f"RaPTr: {_each(frame, 'raptr')}; stacking: {_each(frame, 'gradual_stacking')}"
    return over_seeds(found, unit="nats", detail=detail)


def _each(frame: pd.DataFrame, method: str) -> str:
    means = gaps(frame, {schedule.strip("/") or "its own": f"{method}{schedule}" for schedule in SCHEDULES}).mean()
    return "distance from the full model " + ", ".join(f"{gap:+.4f} ({name})" for name, gap in means.items())


def warm_up_gain(frame: pd.DataFrame) -> Measured:
    """How far RaPTr with a warm-up of the full model ends above shorter full runs, minus how far RaPTr without does."""
    table = gaps_above_shorter_runs(frame, ("raptr/warm-up", "raptr"), SHORTER)
    detail = ", ".join(f"{method} {gap:+.4f}" for method, gap in table.mean().items())
    return over_seeds(
        table["raptr/warm-up"] - table["raptr"], unit="nats", detail=f"above shorter full runs of equal cost: {detail}"
    )


_OPEN = "asked: how sensitive is RaPTr to its schedule? (an open question, as reported)"
_ABSTRACT = "Introduction, as reported: stacking is very sensitive to its schedule"
_AXES = "asked: heads and width instead of depth (an open question, as reported)"
_SCALING = "asked: none, linear or square-root scaling? (a first experiment that a summary proposes)"
_SAME = ("between -0.02 and 0.02 nats", (-0.02, 0.02))
_NOT_ABOVE = ("no more than 0.01 nats", (-inf, 0.01))
_BELOW = ("below 0 nats", (-inf, 0.0))

# id, locus, statement, threshold and region, contender, rival
_DIFFERENCES = (
    (
        "schedule.two-stage",
        _OPEN,
        "Two stages, half and all of the layers, end where 6-8-10-12 does at the same cost",
        _SAME,
        "raptr/two-stage",
        "raptr",
    ),
    (
        "schedule.exponential",
        f"{_OPEN}; exponential against linear is a check that a summary proposes",
        "Depths that double, and are full earlier, end where 6-8-10-12 does at the same cost",
        _SAME,
        "raptr/exponential",
        "raptr",
    ),
    (
        "schedule.late",
        _OPEN,
        "Five of eight layers for two thirds of the steps end where 6-8-10-12 does at the same cost",
        _SAME,
        "raptr/late",
        "raptr",
    ),
    (
        "axis.width",
        _AXES,
        "Sampling heads and MLP columns instead of layers ends no worse at the same cost",
        _NOT_ABOVE,
        "raptr/width",
        "raptr",
    ),
    (
        "scaling.sqrt",
        _SCALING,
        "With our reading of the square-root scaling RaPTr ends no worse than without scaling",
        _NOT_ABOVE,
        "raptr/sqrt_gap",
        "raptr",
    ),
    (
        "scaling.sqrt-linear",
        _SCALING,
        "With the square-root scaling RaPTr ends better than with the distance itself",
        _BELOW,
        "raptr/sqrt_gap",
        "raptr/linear_gap",
    ),
    (
        "scaling.inv-p",
        f"{_SCALING}; 1/p is EST's and PLD's",
        "With kept layers scaled by 1/p RaPTr ends no worse than without scaling",
        _NOT_ABOVE,
        "raptr/inv_p",
        "raptr",
    ),
)
_OTHERS = (
    Claim(
        id="raptr.schedule.stacking-sensitive",
        paper=_PAPER,
        locus=_ABSTRACT,
        statement="Gradual stacking's loss depends on its schedule: three of equal cost end over 0.05 nats apart.",
        threshold="largest minus least final loss of a seed over three schedules of equal cost, above 0.05 nats",
        region=(0.05, inf),
        recipe=_RECIPE,
        check=stacking_spread,
    ),
    Claim(
        id="raptr.schedule.less-sensitive",
        paper=_PAPER,
        locus=f"{_ABSTRACT}; that RaPTr is less so is implied",
        statement="RaPTr's loss depends less on its schedule than gradual stacking's does on the same three.",
        threshold="RaPTr's largest minus least final loss over the schedules minus stacking's, by seed, below 0 nats",
        region=(-inf, 0.0),
        recipe=_RECIPE,
        check=spread_difference,
    ),
    Claim(
        id="raptr.schedule.warm-up",
        paper=_PAPER,
        locus="ours: UL2's best configuration has a warm-up of 30k steps; that it helps is not said in what we had",
        statement="A warm-up of the full model brings RaPTr nearer to shorter full runs of equal cost.",
        threshold="loss minus that read between full runs, with warm-up minus without, paired by seed, below 0 nats",
        region=(-inf, 0.0),
        recipe=_RECIPE,
        check=warm_up_gain,
    ),
    Claim(
        id="raptr.schedule.shorter-full-runs",
        paper=_PAPER,
        locus="ours: a control for the BERT experiments",
        statement="RaPTr's schedules end better than shorter runs of the full model on as many layer FLOPs.",
        threshold="loss minus that read between full runs, mean over five schedules, paired by seed, below 0 nats",
        region=(-inf, 0.0),
        recipe=_RECIPE,
        check=partial(
            above_shorter_runs,
            methods=("raptr", "raptr/two-stage", "raptr/exponential", "raptr/late", "raptr/warm-up"),
            shorter=SHORTER,
        ),
    ),
)


_DIFFERENCE_CLAIMS = (difference_claim(row, prefix="raptr", paper=_PAPER, recipe=_RECIPE) for row in _DIFFERENCES)
_BY_ID = {claim.id: claim for claim in (*_DIFFERENCE_CLAIMS, *_OTHERS)}
CLAIMS = {name: _BY_ID[name] for name in sorted(_BY_ID, key=lambda name: name.split(".")[1])}
GROUPS = {
    "raptr.schedule": "How RaPTr's and stacking's schedules end beside one another, and beside shorter full runs.",
    "raptr.scaling": "What scaling the layers that run does to RaPTr.",
}
