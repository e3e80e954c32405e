"""Checks on traces along training: at equal loss, at the ends of decayed runs, over a last stage (`equal_loss`)."""

import numpy as np
import pandas as pd

from .claim import Measured, NotMeasured
from .equal_loss import NEAR, TRACE, logs_at_decayed_ends, logs_at_equal_loss, of_corpus, positive, rival, trajectories
from .est import last_stage_slope
from .statistics import common_seeds, final, over_seeds, transitions


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
    other = rival(rows, ours, theirs)
    found = logs_at_equal_loss(rows, ours, other, metrics, base)
    change = found["ours"] - found["theirs"]
    detail = (
        f"at {found['loss'].mean():.3f} nats {_geometric(found['ours'])} ({ours}) against "
        f"{_geometric(found['theirs'])} ({other}), a ratio of {np.exp(change.mean()):.2f}; "
        f"at the end of both runs, losses as they are, {np.exp(found['last'].mean()):.2f}"
        f"{_excess(rows, (ours, other))}{'; ' + remark if remark else ''}"
    )
    return over_seeds(change, unit=f"ln({ours} / {other})", detail=detail)


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
    half, whole = (rival(rows, "est", method) for method in theirs)
    found = logs_at_decayed_ends(rows, half, whole)
    change, outside = found["ours"] - found["theirs"], found.loc[found["outside"] > 0, "outside"]
    detail = (
        f"at EST's final losses, {found['loss'].mean():.3f} nats in the mean, a ratio of "
        f"{np.exp(change.mean()):.2f} to full models of half and all the steps, whose rates have decayed too"
    )
    if len(outside):
        detail += f"; {len(outside)} of {len(found)} end up to {outside.max():.3f} nats outside, read at the nearer end"
    return over_seeds(change, unit=f"ln(est / {whole})", detail=detail)


def at_equal_steps(frame: pd.DataFrame, *, corpus: str, theirs: str, last_stage: bool) -> Measured:
    """The largest log ratio of EST's trace to that of `theirs` at the same step.

    Args:
        frame: tidy rows.
        corpus: of `CORPORA`.
        theirs: the method beside EST.
        last_stage: over the measured steps of EST's last stage, its first weights included; else over those up to
            there, which training with masks has made.
    """
    rows = of_corpus(frame, corpus)
    other = rival(rows, "est", theirs)
    ours, others = (trajectories(rows, method, TRACE) for method in ("est", other))
    changes, ratios = transitions(rows, "est"), {}
    for seed in common_seeds(ours, others):
        begins = max(changes[seed])
        steps = ours[seed].index.intersection(others[seed].index)
        steps = steps[steps >= begins] if last_stage else steps[steps <= begins]
        ratios[seed] = {step: positive(ours[seed]["log"][step] - others[seed]["log"][step]) for step in steps}
    table = pd.DataFrame(ratios).T
    if table.shape[1] < 2:
        stage = "the last stage" if last_stage else "the sampled stages"
        raise NotMeasured(f"fewer than two checkpoints of {stage} were measured for both")
    if table.isna().any(axis=None):
        raise NotMeasured("not every seed was measured at the same steps: the largest of fewer is no match for others")
    each = ", ".join(f"{np.exp(value):.2f} at step {step}" for step, value in table.mean().items())
    detail = f"ratios at equal steps: {each}; losses differ there; the effect is the largest of a run"
    return over_seeds(table.max(axis=1), unit=f"ln(est / {other})", detail=detail)


def fisher_is_hessian(frame: pd.DataFrame, *, corpus: str) -> Measured:
    """Log of the ratio of Fisher to Hessian trace at the end of the baseline, whose loss must be near the least."""
    rows = of_corpus(frame, corpus)
    excess = _above_floor(rows, "full")
    if excess.max() > NEAR:
        raise NotMeasured(f"the baseline ends {excess.max():.3f} nats above the least possible loss (over {NEAR})")
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
