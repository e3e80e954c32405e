"""A score and how sure it is."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a task found.

    Attributes:
        task: its name.
        metric: what was counted, such as `accuracy`.
        value: of the metric, between 0 and 1 (a correlation: -1 and 1).
        stderr: its standard error; None where there is none to tell.
        chance: what needs no model: a guess at random, or always the commonest answer; None where that is not defined.
        items: that were tested.
        over: what the standard error is over: the tested items, or the seeds of fine-tuning.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    chance: float | None
    items: int
    over: Literal["items", "seeds"] = "items"


def accuracy_score(task: str, correct: np.ndarray, *, chance: float, clusters: np.ndarray | None = None) -> Score:
    """The share of `correct` items and its standard error.

    Items of one cluster (windows of one file) are not independent: the error is then that of the ratio of two means
    over clusters, right answers over items.

    >>> round(accuracy_score("coin", np.array([True, True, False, False]), chance=0.5).stderr, 4)  # sqrt(1/4 / 3)
    0.2887

    Args:
        task: its name.
        correct: one truth value an item.
        chance: as in `Score`.
        clusters: which one each item belongs to; every item its own unless given.
    """
    right = np.asarray(correct, dtype=float)
    value = float(right.mean())
    _, member = np.unique(np.arange(len(right)) if clusters is None else clusters, return_inverse=True)
    residuals = np.bincount(member, weights=right - value)
    count = len(residuals)
    stderr = float(np.sqrt((residuals**2).sum() * count / (count - 1)) / len(right)) if count > 1 else None
    return Score(task=task, metric="accuracy", value=value, stderr=stderr, chance=chance, items=len(right))


def over_runs(task: str, metric: str, values: list[float], *, chance: float | None, items: int) -> Score:
    """The mean of one value a seed, with its standard error over seeds (None for one seed).

    >>> over_runs("cola", "matthews", [0.1, 0.2, 0.3], chance=0.0, items=5).stderr  # 0.1 / sqrt(3)
    0.057735026918962574
    """
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    mean = float(np.mean(values))
    return Score(task=task, metric=metric, value=mean, stderr=stderr, chance=chance, items=items, over="seeds")
