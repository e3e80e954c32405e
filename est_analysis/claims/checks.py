"""The checks that both papers' claims use, each for a method that its claim names."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from .claim import Claim, Measured, NotMeasured
from .statistics import final_pair, geometric_mean, over_seeds, speed_up, transitions
from .transition_losses import full_loss_changes, transition_falls


def final_loss_gap(frame: pd.DataFrame, ours: str, theirs: str = "full") -> Measured:
    """Final full-model validation loss of `ours` minus that of `theirs`, paired by seed."""
    one, other = final_pair(frame, ours, "validation_loss", theirs)
    detail = f"final validation loss {one.mean():.4f} ({ours}) against {other.mean():.4f} ({theirs})"
    return over_seeds(one - other, unit="nats", detail=detail)


def whole_run_speed_up(frame: pd.DataFrame, method: str) -> Measured:
    """Wall-clock speed-up of the whole run (geometric mean over seeds), beside what the FLOPs allow."""
    try:
        ours, theirs = final_pair(frame, method, "total_flops")
        allowed = f"the total FLOPs allow {float((theirs / ours).mean()):.3f}x"
    except NotMeasured as missing:
        allowed = f"what the FLOPs allow is unknown ({missing})"
    return geometric_mean(np.log(speed_up(frame, method)), unit="x", detail=allowed)


def transition_drop(frame: pd.DataFrame, method: str, *, beside: str = "") -> Measured:
    """How far the training loss falls below its own trend across a transition: the mean over a run's transitions.

    The loss falls anyway while a model trains; only what exceeds that is a drop. The interval is no narrower than the
    noise of the windows makes it (`transition_falls`): three seeds may agree by chance.

    Args:
        frame: tidy rows.
        method: whose transitions.
        beside: a method that has none at these steps; what its loss does there, on the same batches, is subtracted.
    """
    falls, errors = transition_falls(frame, method, beside=beside)
    noise = float(np.sqrt((errors**2).sum(axis=None))) / falls.size
    each = ", ".join(f"{change:+.4f} at step {step}" for step, change in falls.mean().items())
    less = f"the trend before it{f' and what {beside} does there' if beside else ''} subtracted"
    detail = f"mean over seeds at each transition, {less}: {each}; standard error of the windows {noise:.4f}"
    return over_seeds(falls.mean(axis=1), unit="nats", detail=detail, noise=noise)


def beside_the_full_model(claim: Claim, method: str) -> Claim:
    """The claim `claim` on `transition_drop`, with what the full model's loss does at the same steps subtracted.

    Added when the rows were known: most of what three windows show at a step is noise of the batches, which all methods
    share, so that in a few seeds it may hide a drop or look like one.
    """
    return replace(
        claim,
        id=f"{claim.id}-beside-full",
        known="the rows",
        statement=f"{claim.statement.removesuffix('.')}, beside the full model on the same batches.",
        threshold=claim.threshold.replace(", below", ", less the same of the full model, paired by seed, below"),
        check=partial(transition_drop, method=method, beside="full"),
    )


def transition_jump(frame: pd.DataFrame, method: str) -> Measured:
    """Full-model validation loss in the row after a transition minus that at it: the largest of a run's transitions."""
    per_seed = full_loss_changes(frame, method, transitions(frame, method))
    each = ", ".join(f"{change:+.4f} at step {step}" for step, change in per_seed.mean().items())
    detail = f"mean over seeds at each transition: {each}; the effect is the largest of a run"
    return over_seeds(per_seed.max(axis=1), unit="nats", detail=detail)
