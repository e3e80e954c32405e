"""What the reviews of both papers would try first, on nets so small that ten seeds are cheap.

Some of it the papers assert of their own, far larger models; some only a review asks. `locus` says which: a review's
question is not ascribed to a paper. All regions were written before the first run at quick scale. Pilots fixed sizes
and steps: of the full nets, one each of EST and RaPTr on digits for its time, all on seeds that are not reported, and
one of the linear nets at other sizes. Learning rates are each training's own best of six: of four in a first pass, in
which every MLP on polynomials chose the largest, so that larger ones were added for all until none was chosen. No
region changed. Losses are cross-entropies of held-out digits in nats, and of polynomials the squared error in parts of
the target's variance.
"""

from collections.abc import Callable
from functools import partial
from math import inf, log

import numpy as np
import pandas as pd

from est_analysis.theory.sampling_penalty import factorised_penalty, mask_covariance

from .claim import Claim, Measured, NotMeasured
from .statistics import common_seeds, final, over_seeds, runs_of

UNITS = {"digits": "nats", "polynomial": "of the variance"}
KNOWING_NOTHING = {"digits": log(10), "polynomial": 1.0}  # the loss of a constant guess
WORDS = {"digits": "handwritten digits", "polynomial": "Boolean polynomials"}
_LEARNED_NOTHING = 0.9  # of that: a net above it has nothing that a transition could break
_EST, _RAPTR = "EST, arXiv 2406.06962", "RaPTr, arXiv 2402.05913"


def of_net(frame: pd.DataFrame, task: str, net: str) -> pd.DataFrame:
    """The rows of one net on one task.

    Raises:
        NotMeasured: the frame is of no first experiments, or has no such rows.
    """
    if not {"task", "net"} <= set(frame.columns):
        raise NotMeasured("the runs are not first experiments: est run first-experiments makes them")
    rows = frame[(frame["task"] == task) & (frame["net"] == net)]
    if rows.empty:
        raise NotMeasured(f"no run of net '{net}' on task '{task}'")
    return rows


def _pair(rows: pd.DataFrame, ours: str, theirs: str, metric: str) -> tuple[pd.Series, pd.Series]:
    one, other = final(rows, ours, metric), final(rows, theirs, metric)
    seeds = common_seeds(one, other)
    return one[seeds], other[seeds]


def loss_gap(frame: pd.DataFrame, task: str, net: str, ours: str, theirs: str) -> Measured:
    """Final held-out loss of `ours` minus that of `theirs`, paired by seed."""
    rows = of_net(frame, task, net)
    one, other = _pair(rows, ours, theirs, "validation_loss")
    spent = [pair.mean() for pair in _pair(rows, ours, theirs, "layer_flops")]
    detail = (
        f"final loss {one.mean():.4f} ({ours}) against {other.mean():.4f} ({theirs}), at {spent[0] / spent[1]:.3f} "
        "times its layer FLOPs"
    )
    return over_seeds(one - other, unit=UNITS[task], detail=detail)


def accuracy_gap(frame: pd.DataFrame, net: str, ours: str, theirs: str) -> Measured:
    """Final accuracy on held-out digits of `ours` minus that of `theirs`, paired by seed."""
    one, other = _pair(of_net(frame, "digits", net), ours, theirs, "accuracy")
    detail = f"accuracy {one.mean():.2f} % ({ours}) against {other.mean():.2f} % ({theirs}) of 500 held-out digits"
    return over_seeds(one - other, unit="percentage points", detail=detail)


def sampling_cost_gap(frame: pd.DataFrame, task: str, method: str, variant: str, plain: str = "stack") -> Measured:
    """What `method` costs over the full net of its kind, in net `variant` minus in net `plain`, paired by seed."""
    costs = []
    for net in (variant, plain):
        one, other = _pair(of_net(frame, task, net), method, "full", "validation_loss")
        costs.append(one - other)
    seeds = common_seeds(*costs)
    detail = (
        f"{method} minus full: {costs[0][seeds].mean():+.4f} in {variant}, {costs[1][seeds].mean():+.4f} in {plain}"
    )
    return over_seeds(costs[0][seeds] - costs[1][seeds], unit=UNITS[task], detail=detail)


def subnet_changes(rows: pd.DataFrame, task: str, method: str) -> pd.Series:
    """Relative change of the subnetwork's held-out loss across a transition, weights unchanged: mean of a run's.

    Raises:
        NotMeasured: nothing was measured around transitions, or the nets have learned nothing that could change.
    """
    before, after = (runs_of(rows, method, f"subnet_loss_{side}") for side in ("before", "after"))
    whole = runs_of(rows, method, "validation_loss")
    found = {}
    for seed in common_seeds(before, after):
        steps = before[seed].index.intersection(after[seed].index)
        known = whole[seed].reindex(steps).min() / KNOWING_NOTHING[task]
        if known > _LEARNED_NOTHING:
            raise NotMeasured(
                f"the loss of '{method}', seed {seed}, is still {known:.2f} of that of knowing nothing at its "
                "transitions: it has learned nothing that could be lost"
            )
        found[seed] = float((after[seed][steps] / before[seed][steps] - 1).mean())
    return pd.Series(found)


def subnet_drop(frame: pd.DataFrame, task: str, net: str, method: str) -> Measured:
    """`subnet_changes` over seeds."""
    detail = "mean over a run's transitions of (subnetwork's loss after / before - 1), same weights, same samples"
    return over_seeds(subnet_changes(of_net(frame, task, net), task, method), unit="relative", detail=detail)


def jump_gap(frame: pd.DataFrame, task: str, one: tuple[str, str], other: tuple[str, str]) -> Measured:
    """Size of the relative change across transitions of (net, method) `one` minus that of `other`, paired by seed."""
    sizes = [subnet_changes(of_net(frame, task, net), task, method) for net, method in (one, other)]
    names = [f"{net}: {method}" for net, method in (one, other)]
    signs = ", ".join(f"{changes.mean():+.3f} ({name})" for changes, name in zip(sizes, names, strict=True))
    seeds = common_seeds(*sizes)
    difference = sizes[0][seeds].abs() - sizes[1][seeds].abs()
    return over_seeds(difference, unit="relative", detail=f"mean change with its sign: {signs}")


def full_jump(frame: pd.DataFrame, task: str, net: str, method: str) -> Measured:
    """Full net's held-out loss at the evaluation after a transition minus that at it: the largest of a run's."""
    rows = of_net(frame, task, net)
    losses, ends = runs_of(rows, method, "validation_loss"), transitions_of(rows, method)
    jumps = {}
    for seed in common_seeds(losses, ends):
        loss = losses[seed]
        jumps[seed] = max(float(loss[loss.index > step].iloc[0] - loss[step]) for step in ends[seed])
    return over_seeds(pd.Series(jumps), unit=UNITS[task], detail="largest of a run's transitions, next evaluation")


def transitions_of(rows: pd.DataFrame, method: str) -> dict[int, list[int]]:
    """The steps at which each seed's subnetwork was measured on both sides of a transition."""
    return {
        seed: [int(step) for step in run.index] for seed, run in runs_of(rows, method, "subnet_loss_before").items()
    }


# Linear nets ----------------------------------------------------------------------------------------------------------

_LINEAR = {"full": "full", "fixed_size": "est", "bernoulli": "est/bernoulli"}  # law of the training masks -> label


def _factors(rows: pd.DataFrame, label: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Seed -> (U, V) of one training."""
    runs = rows[(rows["method"] == label) & rows["metric"].str.fullmatch(r"(left|right)_\d+_\d+")]
    if runs.empty:
        raise NotMeasured(f"no matrices of the linear nets trained as '{label}'")
    parts = runs["metric"].str.split("_", expand=True)
    table = runs.assign(side=parts[0], row=parts[1].astype(int), unit=parts[2].astype(int))
    return {
        int(seed): tuple(
            one[one["side"] == side].pivot(index="row", columns="unit", values="value").to_numpy()
            for side in ("left", "right")
        )
        for seed, one in table.groupby("seed")
    }


def penalty_error(frame: pd.DataFrame) -> Measured:
    """Largest relative deviation of the enumerated masked loss from full loss plus `factorised_penalty`, by seed."""
    rows = of_net(frame, "linear", "linear")
    worst: dict[int, float] = {}
    for label in _LINEAR.values():
        full = final(rows, label, "full_loss")
        for law in ("fixed_size", "bernoulli"):
            masked = final(rows, label, f"masked_loss_{law}")
            for seed, (left, right) in _factors(rows, label).items():
                penalty = factorised_penalty(left, right, mask_covariance(left.shape[1], 0.5, law=law))
                off = abs(masked[seed] - full[seed] - penalty) / masked[seed]
                worst[seed] = max(worst.get(seed, 0.0), off)
    detail = (
        "largest of three trainings and two laws; all masks enumerated; what is left is rounding (rows of 6 digits)"
    )
    return over_seeds(pd.Series(worst), unit="relative", detail=detail)


def _balance(rows: pd.DataFrame, label: str) -> pd.Series:
    """n sum_i |u_i|^2 |v_i|^2 / |U V'|_*^2, at least 1, and 1 where all units share the product alike."""
    nuclear = final(rows, label, "nuclear_norm")
    found = {}
    for seed, (left, right) in _factors(rows, label).items():
        products = np.square(left).sum(0) * np.square(right).sum(0)
        found[seed] = float(left.shape[1] * products.sum() / nuclear[seed] ** 2)
    return pd.Series(found)


def balance(frame: pd.DataFrame, law: str) -> Measured:
    """`_balance` after training with masks of `law`."""
    rows = of_net(frame, "linear", "linear")
    whole = _balance(rows, "full").mean()
    detail = f"n sum |u_i|^2 |v_i|^2 over the squared nuclear norm; {whole:.3f} where the full net was trained"
    return over_seeds(_balance(rows, _LINEAR[law]), unit="times its least", detail=detail)


def nuclear_shrinkage(frame: pd.DataFrame, law: str) -> Measured:
    """Log of the nuclear norm of U V' after training with masks of `law` over that without, paired by seed."""
    ours, theirs = _pair(of_net(frame, "linear", "linear"), _LINEAR[law], "full", "nuclear_norm")
    logs = np.log(ours / theirs)
    detail = f"nuclear norms {ours.mean():.3f} and {theirs.mean():.3f}, a ratio of {np.exp(logs.mean()):.3f}"
    return over_seeds(logs, unit="ln(sampled / full)", detail=detail)


# The claims -----------------------------------------------------------------------------------------------------------

_BELOW, _ABOVE = (-inf, 0.0), (0.0, inf)
_NOT_WORSE = "final loss difference, paired by seed, no more than 0.01 (nats; of the variance)"
_LESS, _MORE = "final loss difference, paired by seed, below 0", "final loss difference, paired by seed, above 0"
_SMOOTH = "full net's loss at the evaluation after a transition minus that at it, largest of a run, no more than 0.05"
_REVIEW, _REVIEW_R = "not in the paper: its review", "not in the paper's text that could be read: its review"


def _claim(
    id: str, locus: str, statement: str, threshold: str, region: tuple[float, float],
    check: Callable[[pd.DataFrame], Measured],
) -> Claim:  # fmt: skip
    return Claim(
        id=id,
        paper=_EST if id.startswith("est.") else _RAPTR,
        locus=locus,
        statement=statement,
        threshold=threshold,
        region=region,
        recipe="first-experiments",
        check=check,
    )


def _mlp(task: str) -> list[Claim]:
    """EST's columns in a plain two-layer MLP."""

    def gap(ours: str, theirs: str) -> Callable[[pd.DataFrame], Measured]:
        return partial(loss_gap, task=task, net="mlp", ours=ours, theirs=theirs)

    first = "section 4.1, Table 2, asserts it of GPT-2; on a two-layer MLP it is the review's first experiment 1"
    where = f"a two-layer MLP on {WORDS[task]}"
    table = (
        (
            "mlp-loss",
            first,
            f"After equally many steps EST, sampling columns, ends no worse than the full net: {where}.",
            _NOT_WORSE,
            (-inf, 0.01),
            gap("est", "full"),
        ),
        (
            "mlp-flops",
            "abstract (saving without an increase in loss); the full net on fewer steps is a control of ours",
            f"At equal layer FLOPs EST ends better than the full net: {where}.",
            _LESS,
            _BELOW,
            gap("est", "short"),
        ),
        (
            "mlp-transition",
            "section 5.1 (there TinyLlama, Figure 2)",
            f"The subnetwork's loss drops at once when it grows, no weight changing: {where}.",
            "relative change of the subnetwork's held-out loss at the transition, below 0",
            _BELOW,
            partial(subnet_drop, task=task, net="mlp", method="est"),
        ),
        (
            "mlp-no-spike",
            f"{_REVIEW}, failure signatures (loss spikes at stage transitions)",
            f"The full net's loss does not jump up after EST's transition: {where}.",
            _SMOOTH,
            (-inf, 0.05),
            partial(full_jump, task=task, net="mlp", method="est"),
        ),
        (
            "mlp-unscaled",
            "section 3.2 (the normalisation 1/p is crucial)",
            f"Without 1/p EST ends at a higher loss: {where}.",
            _MORE,
            _ABOVE,
            gap("est/unscaled", "est"),
        ),
        (
            "dropout-equivalence",
            "section 5.1 says EST is Structural Dropout; of uniform dropout its review, next check 3, asks it",
            f"EST ends where dropout of single units with EST's rates and stages does: {where}.",
            "final loss difference, EST minus dropout, paired by seed, between -0.01 and 0.01",
            (-0.01, 0.01),
            gap("est", "dropout"),
        ),
        (
            "last-stage",
            "section 4.1, Table 3, EST-ONE-STAGE (a long enough stage 3 is vital; there GPT-2)",
            f"Half of the columns all the way, without a last stage of the full net, ends worse than EST: {where}.",
            _MORE,
            _ABOVE,
            gap("est/one-stage", "est"),
        ),
        (
            "growing",
            "section 3.3 (subnetworks increase); one rate all the way at the same cost is a control of ours",
            f"Growing from a quarter of the columns to all ends better than 5/8 of them all the way: {where}.",
            _LESS,
            _BELOW,
            gap("est/linear", "est/flat"),
        ),
        (
            "growth-exponential",
            "in neither paper: the review of RaPTr, next check 3, asks it of RaPTr; here of EST's columns",
            f"Exponential growth of the keep rate ends where linear growth of equal cost does: {where}.",
            "final loss difference, paired by seed, between -0.02 and 0.02",
            (-0.02, 0.02),
            gap("est/exponential", "est/linear"),
        ),
        (
            "growth-step",
            f"{_REVIEW}, break condition of mechanism 1 (stage transitions too sparse)",
            f"One step from a quarter of the columns to all ends worse than linear growth of equal cost: {where}.",
            _MORE,
            _ABOVE,
            gap("est/step", "est/linear"),
        ),
    )
    return [_claim(f"est.first.{topic}.{task}", *row) for topic, *row in table]


def _stack(task: str) -> list[Claim]:
    """EST's and RaPTr's layers in a stack of eight."""

    def gap(ours: str, theirs: str) -> Callable[[pd.DataFrame], Measured]:
        return partial(loss_gap, task=task, net="stack", ours=ours, theirs=theirs)

    where = f"a stack of eight on {WORDS[task]}"
    asked = "; digits are the review's next check 2 (image classification)" if task == "digits" else ""
    table = (
        (
            "est.first.stack-loss",
            f"{_REVIEW}, first experiment 2 (layer sampling alone; there GPT-2)",
            f"After equally many steps EST, sampling layers alone, ends no worse than the full net: {where}.",
            _NOT_WORSE,
            (-inf, 0.01),
            gap("est", "full"),
        ),
        (
            "raptr.first.stack-loss",
            f"BERT-base experiments (1.75 against 1.76){asked}",
            f"After equally many steps RaPTr ends no worse than the full net: {where}.",
            _NOT_WORSE,
            (-inf, 0.01),
            gap("raptr", "full"),
        ),
        (
            "raptr.first.stack-flops",
            f"a control that the paper does not show{asked}",
            f"At equal layer FLOPs RaPTr ends better than the full net: {where}.",
            _LESS,
            _BELOW,
            gap("raptr", "short"),
        ),
        (
            "raptr.first.smooth",
            f"{_REVIEW_R}, first experiment 1 (there 6-8-10-12 on BERT-base)",
            f"The full net's loss does not jump up after any of RaPTr's transitions: {where}.",
            _SMOOTH,
            (-inf, 0.05),
            partial(full_jump, task=task, net="stack", method="raptr"),
        ),
        (
            "raptr.first.warm-up",
            "UL2 experiments use a warm-up of the full model; that it helps is not asserted where we could read it",
            f"RaPTr ends better with two thirds of its full steps moved to the beginning: {where}.",
            _LESS,
            _BELOW,
            gap("raptr/warm-up", "raptr"),
        ),
        (
            "raptr.first.growth-exponential",
            f"{_REVIEW_R}, next check 3, and its key result that schedules matter little",
            f"Exponential growth of the mean depth ends where linear growth of equal cost does: {where}.",
            "final loss difference, paired by seed, between -0.02 and 0.02",
            (-0.02, 0.02),
            gap("raptr/exponential", "raptr/linear"),
        ),
        (
            "raptr.first.growth-step",
            f"{_REVIEW_R}, break condition of mechanism 1 (sizes jump too aggressively between stages)",
            f"One step from a quarter of the layers to all ends worse than linear growth of equal cost: {where}.",
            _MORE,
            _ABOVE,
            gap("raptr/step", "raptr/linear"),
        ),
        (
            "raptr.first.scaling-sqrt",
            f"{_REVIEW_R}, first experiment 3 (scaling functions and stability; the formula is our reading)",
            f"Square-root scaling of kept layers makes transitions smoother than none: {where}.",
            "size of the relative change of the subnetwork's loss, with minus without, paired by seed, below 0",
            _BELOW,
            partial(jump_gap, task=task, one=("stack", "raptr/sqrt_gap"), other=("stack", "raptr")),
        ),
        (
            "raptr.first.scaling-linear",
            f"{_REVIEW_R}, first experiment 3 (scaling functions and stability; the formula is our reading)",
            f"Linear scaling of kept layers makes transitions rougher than square-root scaling: {where}.",
            "size of the relative change of the subnetwork's loss, linear minus square root, paired by seed, above 0",
            _ABOVE,
            partial(jump_gap, task=task, one=("stack", "raptr/linear_gap"), other=("stack", "raptr/sqrt_gap")),
        ),
    )
    return [_claim(f"{topic}.{task}", *row) for topic, *row in table]


def _broken(task: str, method: str, part: str) -> list[Claim]:
    """A stack without `part` under layer sampling."""
    variant, missing = f"stack/no-{part}", {"norm": "layer norm", "residual": "residual connections"}[part]
    name = {"est": "EST", "raptr": "RaPTr"}[method]
    locus = f"theory of stage transitions (Omega(1) without {missing}); {_REVIEW_R}, mechanism 2 and next check 1"
    if method == "est":
        locus = (
            f"not EST's: RaPTr's theory of stage transitions (Omega(1) without {missing}), asked of EST's layer draw"
        )
    return [
        _claim(
            f"{method}.first.jump-no-{part}.{task}",
            locus,
            f"Without {missing} the subnetwork's loss changes more at {name}'s transitions: stacks on {WORDS[task]}.",
            f"size of the relative change, without minus with {missing}, paired by seed, above 0",
            _ABOVE,
            partial(jump_gap, task=task, one=(variant, method), other=("stack", method)),
        ),
        _claim(
            f"{method}.first.worse-no-{part}.{task}",
            locus,
            f"Without {missing} {name} costs more loss against the full net of its kind: stacks on {WORDS[task]}.",
            f"({method} minus full) without {missing} minus the same with, paired by seed, above 0",
            _ABOVE,
            partial(sampling_cost_gap, task=task, method=method, variant=variant),
        ),
    ]


_PAL = "section 5.1, through Pal et al. 2020 (arXiv 1910.14186), which it cites"


def _linear(law: str) -> list[Claim]:
    words = {"fixed_size": "EST's masks of a fixed size", "bernoulli": "independent masks"}[law]
    return [
        _claim(
            f"est.first.linear-balanced.{law}",
            f"{_PAL}, on minimisers; the form for {words} is our derivation",
            f"Trained with {words}, a linear net ends with units of equal |u_i||v_i|, where the penalty is least.",
            "n sum |u_i|^2 |v_i|^2 over the squared nuclear norm of U V', whose least is 1, below 1.05",
            (-inf, 1.05),
            partial(balance, law=law),
        ),
        _claim(
            f"est.first.linear-norm.{law}",
            f"{_PAL} (sampling introduces a regularisation term, a matrix norm)",
            f"Trained with {words}, a linear net ends with a smaller nuclear norm than without.",
            "logarithm of the ratio of nuclear norms of U V', paired by seed, below 0",
            _BELOW,
            partial(nuclear_shrinkage, law=law),
        ),
    ]


_TASKS = tuple(WORDS)
_CLAIMS = (
    *(claim for task in _TASKS for claim in _mlp(task)),
    _claim(
        "est.first.mlp-accuracy.digits",
        "section 4.1, Table 2, asserts such of GPT-2; on a two-layer MLP it is the review's first experiment 1",
        "After equally many steps EST's two-layer MLP is no less accurate on handwritten digits than the full net.",
        "difference of accuracies, paired by seed, above -0.5 percentage points",
        (-0.5, inf),
        partial(accuracy_gap, net="mlp", ours="est", theirs="full"),
    ),
    *(claim for task in _TASKS for claim in _stack(task)),
    *(
        claim
        for task in _TASKS
        for method in ("raptr", "est")
        for part in ("residual", "norm")
        for claim in _broken(task, method, part)
    ),
    _claim(
        "est.first.linear-penalty",
        f"{_PAL} (sampling introduces a regularisation term)",
        "In a linear net the mean loss over all masks is the full loss plus the penalty of theory, exactly.",
        "largest relative deviation of the enumerated mean, mean over seeds, below 1e-4",
        (-inf, 1e-4),
        penalty_error,
    ),
    *(claim for law in ("fixed_size", "bernoulli") for claim in _linear(law)),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
