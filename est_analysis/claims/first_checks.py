"""The checks of the first experiments, each for the nets and methods that its claim names.

Losses are cross-entropies of held-out digits in nats, and of polynomials the squared error in parts of the target's
variance.
"""

from math import log

import numpy as np
import pandas as pd

from est_analysis.theory.sampling_penalty import factorised_penalty, mask_covariance

from .claim import Measured, NotMeasured
from .statistics import common_seeds, final, final_pair, over_seeds, runs_of
from .transition_losses import full_loss_changes, means, sizes, subnet_changes

UNITS = {"digits": "nats", "polynomial": "of the variance"}
KNOWING_NOTHING = {"digits": log(10), "polynomial": 1.0}  # the loss of a constant guess


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


def loss_gap(frame: pd.DataFrame, task: str, net: str, ours: str, theirs: str) -> Measured:
    """Final held-out loss of `ours` minus that of `theirs`, paired by seed."""
    rows = of_net(frame, task, net)
    one, other = final_pair(rows, ours, "validation_loss", theirs)
    spent = [pair.mean() for pair in final_pair(rows, ours, "layer_flops", theirs)]
    detail = (
        f"final loss {one.mean():.4f} ({ours}) against {other.mean():.4f} ({theirs}), at {spent[0] / spent[1]:.3f} "
        "times its layer FLOPs"
    )
    return over_seeds(one - other, unit=UNITS[task], detail=detail)


def accuracy_gap(frame: pd.DataFrame, net: str, ours: str, theirs: str) -> Measured:
    """Final accuracy on held-out digits of `ours` minus that of `theirs`, paired by seed."""
    one, other = final_pair(of_net(frame, "digits", net), ours, "accuracy", theirs)
    detail = f"accuracy {one.mean():.2f} % ({ours}) against {other.mean():.2f} % ({theirs}) of 500 held-out digits"
    return over_seeds(one - other, unit="percentage points", detail=detail)


def sampling_cost_gap(frame: pd.DataFrame, task: str, method: str, variant: str, plain: str = "stack") -> Measured:
    """What `method` costs over the full net of its kind, in net `variant` minus in net `plain`, paired by seed."""
    costs = []
    for net in (variant, plain):
        one, other = final_pair(of_net(frame, task, net), method, "validation_loss")
        costs.append(one - other)
    seeds = common_seeds(*costs)
    detail = (
        f"{method} minus full: {costs[0][seeds].mean():+.4f} in {variant}, {costs[1][seeds].mean():+.4f} in {plain}"
    )
    return over_seeds(costs[0][seeds] - costs[1][seeds], unit=UNITS[task], detail=detail)


def _changes(frame: pd.DataFrame, task: str, net: str, method: str) -> dict[int, pd.Series]:
    rows = of_net(frame, task, net)
    return subnet_changes(rows, method, whole="validation_loss", nothing=KNOWING_NOTHING[task])


def subnet_drop(frame: pd.DataFrame, task: str, net: str, method: str) -> Measured:
    """The mean of `subnet_changes` over transitions, over seeds."""
    detail = "mean over a run's transitions of (subnetwork's loss after / before - 1), same weights, same samples"
    return over_seeds(means(_changes(frame, task, net, method)), unit="relative", detail=detail)


def jump_gap(frame: pd.DataFrame, task: str, one: tuple[str, str], other: tuple[str, str]) -> Measured:
    """Size of the relative changes at transitions of (net, method) `one` minus that of `other`, paired by seed."""
    changes = [_changes(frame, task, net, method) for net, method in (one, other)]
    ours, theirs = (sizes(found) for found in changes)
    signs = ", ".join(
        f"{means(found).mean():+.3f} ({net}: {method})"
        for found, (net, method) in zip(changes, (one, other), strict=True)
    )
    seeds = common_seeds(ours, theirs)
    detail = f"mean size of a run's changes; means with their signs: {signs}"
    return over_seeds(ours[seeds] - theirs[seeds], unit="relative", detail=detail)


def full_jump(frame: pd.DataFrame, task: str, net: str, method: str) -> Measured:
    """Full net's held-out loss at the evaluation after a transition minus that at it: the largest of a run's."""
    rows = of_net(frame, task, net)
    # The subnetwork was measured on both sides of each.
    transitions = {seed: list(run.index) for seed, run in runs_of(rows, method, "subnet_loss_before").items()}
    jumps = full_loss_changes(rows, method, transitions).max(axis=1)
    return over_seeds(jumps, unit=UNITS[task], detail="largest of a run's transitions, next evaluation")


# Linear nets ----------------------------------------------------------------------------------------------------------

_LINEAR = {"full": "full", "fixed_size": "est", "bernoulli": "est/bernoulli"}  # law of the training masks -> label


def _factors(rows: pd.DataFrame, label: str) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Seed -> (U, V) of one training."""
    runs = rows[(rows["method"] == label) & rows["metric"].str.fullmatch(r"(left|right)_\d+_\d+")]
    if runs.empty:
        raise NotMeasured(f"no matrices of the linear nets trained as '{label}'")
    parts = runs["metric"].str.split("_", expand=True)
    table = runs.assign(side=parts[0], row=parts[1].astype(int), unit=parts[2].astype(int))
    found = {
        int(seed): tuple(
            one[one["side"] == side].pivot(index="row", columns="unit", values="value").to_numpy()
            for side in ("left", "right")
        )
        for seed, one in table.groupby("seed")
    }
    if not all(np.isfinite(matrix).all() for pair in found.values() for matrix in pair):
        raise NotMeasured(
            f"a matrix of the linear nets trained as '{label}' has an entry that is missing or not finite"
        )
    return found


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
    ours, theirs = final_pair(of_net(frame, "linear", "linear"), _LINEAR[law], "nuclear_norm")
    logs = np.log(ours / theirs)
    detail = f"nuclear norms {ours.mean():.3f} and {theirs.mean():.3f}, a ratio of {np.exp(logs.mean()):.3f}"
    return over_seeds(logs, unit="ln(sampled / full)", detail=detail)
