"""The checks that both papers' claims use, each for a method that its claim names."""

import numpy as np
import pandas as pd

from .claim import Measured, NotMeasured
from .statistics import common_seeds, final_pair, over_seeds, runs_of, transitions


def final_loss_gap(frame: pd.DataFrame, method: str) -> Measured:
    """Final full-model validation loss of `method` minus the baseline's, paired by seed."""
    ours, theirs = final_pair(frame, method, "validation_loss")
    detail = f"final validation loss {ours.mean():.4f} ({method}) against {theirs.mean():.4f} (full)"
    return over_seeds(ours - theirs, unit="nats", detail=detail)


def transition_drop(frame: pd.DataFrame, method: str) -> Measured:
    """Training loss in the window after a transition minus that before it: the mean over the transitions of a run."""
    losses, steps = runs_of(frame, method, "train_loss"), transitions(frame, method)
    drops, trends = {}, {}
    for seed in common_seeds(losses, steps):
        loss = losses[seed]
        change = loss.diff()  # each window minus the one before it
        drops[seed] = {step: change[loss.index > step].iloc[0] for step in steps[seed] if (loss.index > step).any()}
        trends[seed] = change.reindex(steps[seed]).mean()
    per_seed = pd.DataFrame(drops).T
    each = ", ".join(f"{change:+.4f} at step {step}" for step, change in per_seed.mean().items())
    detail = (
        f"mean over seeds at each transition: {each}. The change over the window before them was "
        f"{np.mean(list(trends.values())):+.4f} on average, which is the trend to subtract"
    )
    return over_seeds(per_seed.mean(axis=1), unit="nats", detail=detail)


def transition_jump(frame: pd.DataFrame, method: str) -> Measured:
    """Full-model validation loss in the row after a transition minus that at it: the largest of a run's transitions."""
    losses, steps = runs_of(frame, method, "validation_loss"), transitions(frame, method)
    jumps = {}
    for seed in common_seeds(losses, steps):
        loss = losses[seed]
        if not set(steps[seed]) <= set(loss.index):
            raise NotMeasured(f"validation_loss of '{method}' was not recorded at every transition")
        jumps[seed] = {
            step: loss[loss.index > step].iloc[0] - loss[step] for step in steps[seed] if step < loss.index[-1]
        }
    per_seed = pd.DataFrame(jumps).T
    each = ", ".join(f"{change:+.4f} at step {step}" for step, change in per_seed.mean().items())
    detail = f"mean over seeds at each transition: {each}; the effect is the largest of a run"
    return over_seeds(per_seed.max(axis=1), unit="nats", detail=detail)
