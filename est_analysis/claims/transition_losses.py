"""Losses at stage transitions: the training curve's beyond its trend, and the subnetwork's before and after.

The curve's comes with the noise of the windows that it is read from; the subnetwork's is of the same weights.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .claim import NotMeasured
from .statistics import common_seeds, runs_of, transitions

# What was known of the rows by the claims that are judged so.
WINDOWS = "the rows at quick scale: the interval first held only the spread over seeds, not the windows' noise"
SIZES = "the rows: sizes were first taken of a run's mean change, in which rises and falls cancel"
_LEARNED_NOTHING = 0.9  # of the loss of knowing nothing: a net above it has nothing that a transition could break
_SIGMAS = 1.4826  # standard deviations of a normal law in its median deviation


def _windows(loss: pd.Series, step: int) -> tuple[float, float]:
    """`excess_fall`, and its variance where the mean of n steps has variance 1 / n."""
    ends = loss.index.to_numpy(dtype=float)
    starts = np.concatenate([[0.0], ends[:-1]])
    centres, lengths = (ends + starts) / 2, ends - starts
    after = int(np.searchsorted(ends, step, side="right"))
    if not 2 <= after < len(ends):
        raise NotMeasured(f"too few windows of train_loss around the transition at step {step}")
    older, before = after - 2, after - 1
    ahead = (centres[after] - centres[before]) / (centres[before] - centres[older])
    weights = {after: 1.0, before: -(1 + ahead), older: ahead}
    fall = sum(weight * loss.iloc[place] for place, weight in weights.items())
    return float(fall), float(sum(weight**2 / lengths[place] for place, weight in weights.items()))


def excess_fall(loss: pd.Series, step: int) -> float:
    """The loss of the window after `step` minus what the two windows up to `step` predict for it in a straight line.

    Windows may differ in length, so the line runs through their centres.
    """
    return _windows(loss, step)[0]


def full_loss_changes(frame: pd.DataFrame, method: str, at: Mapping[int, Sequence[int]]) -> pd.DataFrame:
    """Full-model validation loss at the evaluation after a transition minus that at it: seed by step.

    Args:
        frame: tidy rows.
        method: whose.
        at: the steps of the transitions of each seed; one after which nothing was evaluated is left out.
    """
    losses = runs_of(frame, method, "validation_loss")
    changes = {}
    for seed in common_seeds(losses, dict(at)):
        loss = losses[seed]
        if not set(at[seed]) <= set(loss.index):
            raise NotMeasured(f"validation_loss of '{method}' was not recorded at every transition")
        changes[seed] = {
            step: loss[loss.index > step].iloc[0] - loss[step] for step in at[seed] if step < loss.index[-1]
        }
    return pd.DataFrame(changes).T


def transition_falls(frame: pd.DataFrame, method: str, *, beside: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """`excess_fall` of the training loss at every transition, and its standard error: seed by step.

    The error is that of the batches and masks of three windows. It is measured where nothing changes: at all steps
    whose windows hold no transition, from the median size of what the same formula finds there.

    Args:
        frame: tidy rows.
        method: whose transitions.
        beside: a method that has none at these steps; what its loss does there, on the same batches, is subtracted.
    """
    losses, steps = runs_of(frame, method, "train_loss"), transitions(frame, method)
    rival = runs_of(frame, beside, "train_loss") if beside else losses
    falls, variances, elsewhere = {}, {}, []
    for seed in sorted(set(common_seeds(losses, rival)) & set(steps)):

        def found(step: int, seed: int = seed) -> tuple[float, float]:
            fall, variance = _windows(losses[seed], step)
            return fall - (excess_fall(rival[seed], step) if beside else 0.0), variance

        at = {step: found(step) for step in steps[seed]}
        falls[seed], variances[seed] = ({step: pair[which] for step, pair in at.items()} for which in (0, 1))
        elsewhere += [found(step) for step in _undisturbed(losses[seed].index, rival[seed].index, steps[seed])]
    scaled = [abs(fall) / np.sqrt(variance) for fall, variance in elsewhere]
    one_step = _SIGMAS * float(np.median(scaled)) if scaled else 0.0
    return pd.DataFrame(falls).T, one_step * np.sqrt(pd.DataFrame(variances).T)


def _undisturbed(ours: pd.Index, theirs: pd.Index, transitions: list[int]) -> list[int]:
    """Steps that end a window of both runs and whose three windows hold no transition."""
    ends = [0, *ours]
    triples = zip(ends, ends[2:], ends[3:], strict=False)
    return [
        step
        for first, step, last in triples
        if step in theirs[1:-1] and not any(first < change < last for change in transitions)
    ]


def subnet_changes(frame: pd.DataFrame, method: str, *, whole: str, nothing: float) -> dict[int, pd.Series]:
    """Relative change of the subnetwork's held-out loss at every transition, weights unchanged: seed -> by step.

    Args:
        frame: tidy rows.
        method: whose transitions.
        whole: the metric of the full net's loss.
        nothing: the loss of knowing nothing.

    Raises:
        NotMeasured: nothing was measured around transitions, or a net has learned nothing that could change.
    """
    before, after = (runs_of(frame, method, f"subnet_loss_{side}") for side in ("before", "after"))
    losses, found = runs_of(frame, method, whole), {}
    for seed in common_seeds(before, after):
        steps = before[seed].index.intersection(after[seed].index)
        if steps.empty or seed not in losses or not steps.isin(losses[seed].index).all():
            raise NotMeasured(f"{whole} of '{method}', seed {seed}, was not recorded at its transitions")
        least = losses[seed][steps].min() / nothing
        if least > _LEARNED_NOTHING:
            raise NotMeasured(
                f"the loss of '{method}', seed {seed}, is still {least:.2f} of that of knowing nothing at all of "
                "its transitions: it has learned nothing that could be lost"
            )
        found[seed] = after[seed][steps] / before[seed][steps] - 1
    return found


def means(changes: dict[int, pd.Series]) -> pd.Series:
    """The mean of each seed's changes, rises less falls."""
    return pd.Series({seed: float(change.mean()) for seed, change in changes.items()})


def sizes(changes: dict[int, pd.Series]) -> pd.Series:
    """The mean size of each seed's changes."""
    return pd.Series({seed: float(change.abs().mean()) for seed, change in changes.items()})
