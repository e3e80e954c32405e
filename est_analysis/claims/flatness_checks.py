"""Checks on traces along training: at equal loss, at the ends of decayed runs, over a last stage.

Table 5 compares at almost the same loss; where two runs end further apart than nothing, the one that ended lower is
read where it last passed the other's final loss, the logarithm of its trace interpolated in the loss.
"""

import numpy as np
import pandas as pd

from .claim import Measured, NotMeasured
from .est import last_stage_slope
from .statistics import common_seeds, final, over_seeds, runs_of, transitions

CORPORA = {"text": "Python source", "hmm": "a hidden Markov model's language"}
_BRACKET = 0.5  # nats between the two checkpoints that an interpolation may lie between
_NEAR = 0.05  # nats that count as equal where nothing can be interpolated; `est.flatness` has the same
TRACE = ("hessian_trace",)
SAMPLED = ("hessian_trace_attention", "hessian_trace_mlp")
EMBEDDINGS = ("hessian_trace_tokens", "hessian_trace_positions")


def of_corpus(frame: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """The rows of one language.

    Raises:
        NotMeasured: the frame is of another recipe, or has none.
    """
    if "corpus" not in frame.columns:
        raise NotMeasured("the runs are not those of the recipe: est run flatness makes them")
    rows = frame[frame["corpus"] == corpus]
    if rows.empty:
        raise NotMeasured(f"no run on '{corpus}'")
    return rows


def trajectories(frame: pd.DataFrame, method: str, metrics: tuple[str, ...]) -> dict[int, pd.DataFrame]:
    """One frame a seed, by step: validation `loss`, and the logarithm of the sum of `metrics` as `log`.

    The logarithm is missing where the sum is not positive.

    Raises:
        NotMeasured: something was not measured.
    """
    parts, losses = [runs_of(frame, method, metric) for metric in metrics], runs_of(frame, method, "validation_loss")
    found = {}
    for seed in common_seeds(parts[0], losses):
        total = sum(part[seed] for part in parts)
        at = total.index.intersection(losses[seed].index)
        logs = np.log(total[at].where(total[at] > 0))
        found[seed] = pd.DataFrame({"loss": losses[seed][at], "log": logs})
        if found[seed].empty:
            raise NotMeasured(f"{metrics[0]} of '{method}' was measured at no step with a validation loss")
    return found


def log_at(points: pd.DataFrame, level: float) -> float:
    """The logarithm where the run last passed the loss `level`, linear in the loss between its checkpoints.

    Args:
        points: columns loss and log, in the order of steps.
        level: no lower than the last loss.

    Raises:
        NotMeasured: no checkpoint was above it, or those around it are too far apart, or a logarithm is missing there.

    >>> log_at(pd.DataFrame({"loss": [3.0, 2.75, 2.25], "log": [9.0, 8.0, 6.0]}), 2.5)
    7.0
    """
    losses, logs = points["loss"].to_numpy(), points["log"].to_numpy()
    if level == losses[-1]:
        return _positive(logs[-1])
    above = np.flatnonzero(losses[:-1] >= level)
    if level < losses[-1] or not len(above):
        raise NotMeasured(f"no checkpoints around a loss of {level:.3f}: the losses are too far apart")
    before = above[-1]
    if (gap := losses[before] - losses[before + 1]) > _BRACKET:
        raise NotMeasured(f"the checkpoints around a loss of {level:.3f} are {gap:.2f} nats apart (over {_BRACKET})")
    return _positive(np.interp(level, losses[[before + 1, before]], logs[[before + 1, before]]))


def _positive(log: float) -> float:
    if np.isnan(log):
        raise NotMeasured("what is compared is not positive there: its logarithm does not exist")
    return float(log)


def logs_at_equal_loss(
    frame: pd.DataFrame, ours: str, theirs: str, metrics: tuple[str, ...], base: tuple[str, ...] = ()
) -> pd.DataFrame:
    """One row a seed: `loss`, where both are read; `ours`, `theirs`, the logarithms there; `last`, their difference at
    the end of both runs.

    Args:
        frame: rows of one language.
        ours: a contender.
        theirs: its rival.
        metrics: whose sum is compared.
        base: the sum is divided by that of these.
    """
    mine, rival = (_relative(frame, method, metrics, base) for method in (ours, theirs))
    rows = {}
    for seed in common_seeds(mine, rival):
        one, other = mine[seed], rival[seed]
        level = max(one["loss"].iloc[-1], other["loss"].iloc[-1])
        rows[seed] = {
            "loss": level,
            "ours": log_at(one, level),
            "theirs": log_at(other, level),
            "last": one["log"].iloc[-1] - other["log"].iloc[-1],
        }
    return pd.DataFrame(rows).T


def _relative(
    frame: pd.DataFrame, method: str, metrics: tuple[str, ...], base: tuple[str, ...]
) -> dict[int, pd.DataFrame]:
    found = trajectories(frame, method, metrics)
    if not base:
        return found
    below = trajectories(frame, method, base)
    return {seed: found[seed].assign(log=found[seed]["log"] - below[seed]["log"]) for seed in found}


# The full model at EST's rate -> the same at its own.
_AT_BOTH_RATES = {"full/est-rate": "full", "full/est-rate-half": "full/half"}


def at_equal_loss(
    frame: pd.DataFrame,
    *,
    corpus: str,
    ours: str,
    theirs: str,
    metrics: tuple[str, ...] = TRACE,
    base: tuple[str, ...] = (),
    remark: str = "",
) -> Measured:
    """Log of the ratio of `ours` to `theirs` at equal loss, paired by seed."""
    rows = of_corpus(frame, corpus)
    rival = _rival(rows, ours, theirs)
    found = logs_at_equal_loss(rows, ours, rival, metrics, base)
    change = found["ours"] - found["theirs"]
    detail = (
        f"at {found['loss'].mean():.3f} nats {_geometric(found['ours'])} ({ours}) against "
        f"{_geometric(found['theirs'])} ({rival}), a ratio of {np.exp(change.mean()):.2f}; "
        f"at the end of both runs, losses as they are, {np.exp(found['last'].mean()):.2f}"
        f"{_excess(rows, (ours, rival))}{'; ' + remark if remark else ''}"
    )
    return over_seeds(change, unit=f"ln({ours} / {rival})", detail=detail)


def _rival(rows: pd.DataFrame, ours: str, theirs: str) -> str:
    """`theirs`; the full model's own run for one at EST's rate where both have that rate anyway and one run is both."""
    if theirs not in _AT_BOTH_RATES or (rows["method"] == theirs).any() or "lr" not in rows.columns:
        return theirs
    own = _AT_BOTH_RATES[theirs]
    rates = [set(rows.loc[rows["method"] == method, "lr"]) for method in (ours, own)]
    return own if rates[0] == rates[1] else theirs


def _geometric(logs: pd.Series) -> str:
    return f"{np.exp(logs.mean()):.4g}"


def _excess(rows: pd.DataFrame, methods: tuple[str, ...]) -> str:
    """How far above the least possible loss the runs ended, where that is known."""
    if not (rows["metric"] == "best_loss").any():
        return ""
    parts = [f"{_above_floor(rows, method).mean():.3f} ({method})" for method in methods]
    return f"; above the least possible loss by {' and '.join(parts)} nats"


def _above_floor(rows: pd.DataFrame, method: str) -> pd.Series:
    return final(rows, method, "validation_loss") - final(rows, method, "best_loss")


def both_decayed(frame: pd.DataFrame, *, corpus: str, theirs: tuple[str, str]) -> Measured:
    """Log of the ratio of EST's final trace to that of full models trained to their own end, at EST's final loss.

    The full model's is read between the ends of `theirs`, its runs of half and of all the steps.
    """
    rows = of_corpus(frame, corpus)
    rivals = [_rival(rows, "est", method) for method in theirs]
    ours, short, whole = (trajectories(rows, method, TRACE) for method in ("est", *rivals))
    changes, levels, outside = {}, {}, []
    for seed in sorted(set(common_seeds(ours, short)) & set(whole)):
        ends = pd.concat([short[seed].iloc[[-1]], whole[seed].iloc[[-1]]], ignore_index=True)
        level, log = ours[seed].iloc[-1]
        high, low = ends["loss"]
        if high <= low or not low - _NEAR <= level <= high + _NEAR:
            raise NotMeasured(
                f"EST ends at {level:.3f} and full models of half and all the steps at {high:.3f} and {low:.3f}: "
                f"not between them, nor within {_NEAR} of one"
            )
        changes[seed], levels[seed] = _positive(log) - log_at(ends, float(np.clip(level, low, high))), level
        outside += [max(level - high, low - level)] if not low <= level <= high else []
    if not changes:
        raise NotMeasured("the three share no seed")
    change = pd.Series(changes)
    detail = (
        f"at EST's final losses, {np.mean(list(levels.values())):.3f} nats in the mean, a ratio of "
        f"{np.exp(change.mean()):.2f} to full models of half and all the steps, whose rates have decayed too"
    )
    if outside:
        detail += (
            f"; {len(outside)} of {len(changes)} end up to {max(outside):.3f} nats outside, read at the nearer end"
        )
    return over_seeds(change, unit=f"ln(est / {rivals[1]})", detail=detail)


def persists(frame: pd.DataFrame, *, corpus: str, theirs: str) -> Measured:
    """The largest log ratio of EST's trace to that of `theirs` at the same step, over the steps of EST's last stage."""
    rows = of_corpus(frame, corpus)
    ours, others = (trajectories(rows, method, TRACE) for method in ("est", _rival(rows, "est", theirs)))
    changes, ratios = transitions(rows, "est"), {}
    for seed in common_seeds(ours, others):
        last_stage = max(changes.get(seed) or [0])
        steps = ours[seed].index.intersection(others[seed].index)
        steps = steps[steps >= last_stage]
        ratios[seed] = {step: _positive(ours[seed]["log"][step] - others[seed]["log"][step]) for step in steps}
    table = pd.DataFrame(ratios).T
    if table.shape[1] < 2:
        raise NotMeasured("fewer than two checkpoints of the last stage were measured for both")
    each = ", ".join(f"{np.exp(value):.2f} at step {step}" for step, value in table.mean().items())
    detail = f"ratios at equal steps: {each}; losses differ there; the effect is the largest of a run"
    return over_seeds(table.max(axis=1), unit=f"ln(est / {theirs})", detail=detail)


def fisher_is_hessian(frame: pd.DataFrame, *, corpus: str) -> Measured:
    """Log of the ratio of Fisher to Hessian trace at the end of the baseline, whose loss must be near the least."""
    rows = of_corpus(frame, corpus)
    excess = _above_floor(rows, "full")
    if excess.max() > _NEAR:
        raise NotMeasured(f"the baseline ends {excess.max():.3f} nats above the least possible loss (over {_NEAR})")
    fisher, hessian = (final(rows, "full", metric) for metric in ("fisher_trace", "hessian_trace"))
    if (hessian <= 0).any():
        raise NotMeasured("a Hessian trace is not positive: its logarithm does not exist")
    ends = {m: np.log(final(rows, m, "fisher_trace") / final(rows, m, "hessian_trace")).mean() for m in ("full", "est")}
    detail = (
        f"Fisher over Hessian {np.exp(ends['full']):.3f} (full) and {np.exp(ends['est']):.3f} (est), the baseline "
        f"{excess.mean():.3f} nats above the least possible loss; the interval holds no noise of the probes, which all "
        "seeds share"
    )
    return over_seeds(np.log(fisher / hessian), unit="ln(Fisher / Hessian)", detail=detail)


def slope_at_constant_rate(frame: pd.DataFrame) -> Measured:
    """`last_stage_slope` of the pair whose learning rate is constant and the same for both."""
    rows = of_corpus(frame, "text")
    pair = rows[rows["method"].isin(("full/constant-lr", "est/constant-lr"))]
    plain = pair.assign(method=pair["method"].str.removesuffix("/constant-lr"))
    return last_stage_slope(plain, remark="both at one and the same constant rate, that which is best for EST")
