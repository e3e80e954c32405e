"""Claims about the grid: methods against each other at about a quarter fewer layer FLOPs, family by family.

The papers compare on GPT-2 and TinyLlama (EST), BERT and UL2 (RaPTr); the models here are small ones of these families
(`t5` for UL2). Controls that neither paper shows are judged like claims: a method that is no better than a shorter run
of the full model saves nothing. (That control has EST's layer FLOPs, RaPTr 2.4 % more; the frontier and the ablations'
`above_shorter_runs` compare at equal FLOPs.) Thresholds were fixed before the first run, but where `known` says
otherwise. There are a dozen comparisons a family, each with its own 95 % interval: of as many true equalities one or so
in twenty would be called by chance.
"""

from collections.abc import Iterable
from functools import partial
from math import inf, log

import numpy as np
import pandas as pd

from .checks import final_loss_gap
from .claim import Claim, Measured, NotMeasured
from .statistics import final, over_seeds

FAMILIES = {"gpt2": "GPT-2", "llama": "Llama", "megatron-bert": "BERT (pre-norm)", "t5": "T5"}
_EST, _RAPTR = "EST, arXiv 2406.06962", "RaPTr, arXiv 2402.05913"
_FULL = "no more than 0.01 nats above the full model's"


def of_family(frame: pd.DataFrame, family: str) -> pd.DataFrame:
    """The rows of one family at the common budget of steps.

    Raises:
        NotMeasured: the frame is of no grid, or has no such rows.
    """
    if not {"family", "budget"} <= set(frame.columns):
        raise NotMeasured("the runs are not those of a grid: est run grid makes them")
    rows = frame[(frame["family"] == family) & (frame["budget"] == 1)]
    if rows.empty:
        raise NotMeasured(f"no run of family '{family}' at the common budget")
    return rows


def loss_difference(frame: pd.DataFrame, family: str, ours: str, theirs: str) -> Measured:
    """Final validation loss of `ours` minus that of `theirs`, paired by seed."""
    return final_loss_gap(of_family(frame, family), ours, theirs)


def frontier_gap(frame: pd.DataFrame, method: str) -> Measured:
    """Loss of `method` minus the full model's at the same total FLOPs, mean over budgets.

    The full model's frontier is the lower convex hull, against the logarithm of the FLOPs, of its runs that were each
    trained to their own end, `short` among them. (At first `short` was left out: where it ends below the straight line
    between the others, that line favoured the method.) Budgets of `method` outside are left out.
    """
    if not {"family", "budget"} <= set(frame.columns):
        raise NotMeasured("the runs are not those of a grid: est run grid makes them")
    first = frame[frame["family"] == "gpt2"]
    full, shorter, points = (_end_points(first, name) for name in ("full", "short", method))
    gaps, used = {}, set()
    for seed in sorted(full.keys() & shorter.keys() & points.keys()):
        if len(full[seed]) < 2:
            raise NotMeasured("the full model was run at one budget only: a frontier needs two")
        knots = _lower_hull([(log(spent), loss) for spent, loss in (*full[seed].values(), *shorter[seed].values())])
        flops, losses = (np.array(axis) for axis in zip(*knots, strict=True))
        inside = {b: p for b, p in points[seed].items() if flops[0] <= log(p[0]) <= flops[-1]}
        if not inside:
            raise NotMeasured(f"no budget of '{method}' lies within the full model's")
        used |= inside.keys()
        gaps[seed] = np.mean([loss - np.interp(log(spent), flops, losses) for spent, loss in inside.values()])
    if not gaps:
        raise NotMeasured("the methods share no seed")
    each = ", ".join(f"{budget:g}" for budget in sorted(used))
    return over_seeds(pd.Series(gaps), unit="nats", detail=f"mean over budgets of {each} times the steps")


def _lower_hull(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points below all straight lines between others, from left to right.

    >>> _lower_hull([(0, 3.0), (1, 2.5), (2, 1.0), (3, 0.9), (4, 0.0)])
    [(0, 3.0), (2, 1.0), (4, 0.0)]
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and _above(hull[-2], hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _above(left: tuple[float, float], point: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether `point` lies on or above the line from `left` to `right`."""
    share = (point[0] - left[0]) / (right[0] - left[0])
    return point[1] >= left[1] + share * (right[1] - left[1])


def _end_points(rows: pd.DataFrame, method: str) -> dict[int, dict[float, tuple[float, float]]]:
    """Seed -> budget -> (total FLOPs, loss) at the end of the run."""
    found: dict[int, dict[float, tuple[float, float]]] = {}
    for budget, runs in rows[rows["method"] == method].groupby("budget"):
        losses, spent = final(runs, method, "validation_loss"), final(runs, method, "total_flops")
        for seed in losses.index:
            found.setdefault(int(seed), {})[float(budget)] = (float(spent[seed]), float(losses[seed]))
    if not found:
        raise NotMeasured(f"no run of method '{method}' at this scale")
    return found


_BELOW = ("final loss difference, paired by seed, below 0 nats", (-inf, 0.0))
_NOT_ABOVE = (f"final loss, paired by seed, {_FULL}", (-inf, 0.01))
_TABLE_2 = "section 4.1, Table 2 (GPT-2)"
_TABLES_2_AND_4 = f"{_TABLE_2} and section 4.2, Table 4 (TinyLlama)"
_RAPTR_LOCUS = "BERT and UL2 experiments"
_COMPETITIVE = "abstract: dropping 'can be competitive, if not better, than stacking methods'"
_CONTROL = "ours: a control that the paper does not show"
_COMPARISONS = (
    (
        "est-full",
        _EST,
        _TABLES_2_AND_4,
        "EST ends no worse than the full model after equally many steps",
        _NOT_ABOVE,
        "full",
    ),
    (
        "est-short",
        _EST,
        _CONTROL,
        "EST ends better than a full model trained to its own end on as many layer FLOPs",
        _BELOW,
        "short",
    ),
    ("est-msg", _EST, _TABLE_2, "EST ends better than Masked Structural Growth", _BELOW, "msg"),
    ("est-staged", _EST, _TABLE_2, "EST ends better than Staged Training", _BELOW, "staged"),
    (
        "staged-full",
        _EST,
        "section 4.1, Table 2: Staged Training 'cannot match the original model'",
        "Staged Training ends worse than the full model",
        ("final loss difference, paired by seed, above 0 nats", (0.0, inf)),
        "full",
    ),
    (
        "est-two-stage",
        _EST,
        "section 4.1, Table 3, at equal cost instead",
        "EST's three stages end better than two at the same cost",
        _BELOW,
        "est/two-stage",
    ),
    ("est-constant", _EST, _CONTROL, "EST ends better than sampling that never grows", _BELOW, "est/constant"),
    (
        "raptr-full",
        _RAPTR,
        _RAPTR_LOCUS,
        "RaPTr ends no worse than the full model after equally many steps",
        _NOT_ABOVE,
        "full",
    ),
    (
        "raptr-short",
        _RAPTR,
        _CONTROL,
        "RaPTr ends better than a full model trained to its own end on 73.3 % of the layer FLOPs",
        _BELOW,
        "short",
    ),
    ("raptr-stacking", _RAPTR, _COMPETITIVE, "RaPTr ends better than gradual stacking", _BELOW, "gradual_stacking"),
    (
        "raptr-near-stacking",
        _RAPTR,
        _COMPETITIVE,
        "RaPTr ends no worse than gradual stacking",
        ("final loss, paired by seed, no more than 0.01 nats above gradual stacking's", (-inf, 0.01)),
        "gradual_stacking",
    ),
    ("raptr-pld", _RAPTR, _RAPTR_LOCUS, "RaPTr ends better than progressive layer dropping", _BELOW, "pld"),
    (
        "raptr-constant",
        _RAPTR,
        "asked: a control that a peer reviewer wanted",
        "RaPTr ends better than stochastic depth at the same constant mean depth",
        _BELOW,
        "stochastic_depth",
    ),
    (
        "raptr-order",
        _RAPTR,
        _CONTROL,
        "RaPTr ends better than the same sizes in reverse order",
        _BELOW,
        "raptr_reversed",
    ),
)


_EST_FAMILIES, _RAPTR_FAMILIES = ("gpt2",), ("megatron-bert", "t5")  # where the papers compare
_BOTH_TABLES = {"est-full": ("gpt2", "llama")}
_KNOWN = {"staged-full": "the rows of the grid's first version", "raptr-near-stacking": "the rows"}


def _comparison(family: str, row: tuple) -> Claim:
    topic, paper, locus, statement, (threshold, region), rival = row
    shown = _BOTH_TABLES.get(topic, _EST_FAMILIES if paper is _EST else _RAPTR_FAMILIES)
    if family not in shown and not locus.startswith(("ours:", "asked:")):
        locus = f"ours: on a family that the paper does not show; {locus}"
    return Claim(
        id=f"grid.{topic}.{family}",
        paper=paper,
        locus=locus,
        statement=f"{statement}, on a small {FAMILIES[family]}.",
        threshold=threshold,
        region=region,
        recipe="grid",
        check=partial(loss_difference, family=family, ours=topic.split("-")[0], theirs=rival),
        known=_KNOWN.get(topic, ""),
    )


def _frontier(method: str, paper: str) -> Claim:
    name = {"est": "EST", "raptr": "RaPTr"}[method]
    return Claim(
        id=f"grid.frontier-{method}",
        paper=paper,
        locus="asked: by peer reviewers of both papers, loss against FLOPs at several budgets",
        statement=f"At equal total FLOPs, {name}'s loss lies below the frontier of full models, on a small GPT-2.",
        threshold="loss minus the frontier's at the same total FLOPs, mean over budgets, below 0 nats",
        region=(-inf, 0.0),
        recipe="grid",
        check=partial(frontier_gap, method=method),
        known="the rows, when `short` and the hull came in; before, the line went through the other full models",
    )


_CLAIMS = (
    *(_comparison(family, row) for family in FAMILIES for row in _COMPARISONS),
    _frontier("est", _EST),
    _frontier("raptr", _RAPTR),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
