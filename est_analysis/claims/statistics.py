"""What the checks share: reading one method's runs from a frame, and Student's t intervals over seeds."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy import stats

from .claim import Measured, NotMeasured


def t_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of the mean of independent `values`; None for fewer than two of them.

    >>> low, high = t_interval([1.0, 2.0, 3.0])  # 2 -+ 4.303 / sqrt(3)
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    sample = np.asarray(list(values), dtype=float)
    if len(sample) < 2:
        return None
    half = float(stats.t.ppf(0.5 + level / 2, df=len(sample) - 1) * stats.sem(sample))
    return float(sample.mean()) - half, float(sample.mean()) + half


def over_seeds(values: pd.Series, *, unit: str, detail: str) -> Measured:
    """The mean over seeds of `values` (one a seed) and its t interval."""
    mean = float(values.mean())
    return Measured(effect=mean, interval=t_interval(values), unit=unit, seeds=len(values), detail=detail)


def runs_of(frame: pd.DataFrame, method: str, metric: str) -> dict[int, pd.Series]:
    """One series a seed: `metric` of `method`, indexed by step.

    Raises:
        NotMeasured: the method or the metric is missing, a value is not finite, or the method was run with several
            schedules or twice with one seed, so that which run is meant is not clear.
    """
    runs = frame[frame["method"] == method]
    if runs.empty:
        raise NotMeasured(f"no run of method '{method}'")
    if runs["schedule"].nunique() > 1:
        raise NotMeasured(f"'{method}' was run with {runs['schedule'].nunique()} schedules: keep one in the frame")
    if (runs.groupby("seed")["run_id"].nunique() > 1).any():
        raise NotMeasured(f"'{method}' has several runs of one seed: keep one in the frame")
    rows = runs[runs["metric"] == metric].sort_values("step")
    if rows.empty:
        raise NotMeasured(f"{metric} of '{method}' was not recorded")
    if not np.isfinite(rows["value"]).all():
        raise NotMeasured(f"{metric} of '{method}' holds a value that is not finite")
    return {int(seed): run.set_index("step")["value"] for seed, run in rows.groupby("seed")}


def final(frame: pd.DataFrame, method: str, metric: str) -> pd.Series:
    """The last recorded value of `metric` for each seed of `method`, indexed by seed."""
    return pd.Series({seed: float(run.iloc[-1]) for seed, run in runs_of(frame, method, metric).items()})


def common_seeds(ours: pd.Series | dict, theirs: pd.Series | dict) -> list[int]:
    """The seeds that both have, in order; none in common is not measured."""
    seeds = sorted(set(ours.keys()) & set(theirs.keys()))
    if not seeds:
        raise NotMeasured("the two methods share no seed")
    return seeds


def final_pair(frame: pd.DataFrame, method: str, metric: str, baseline: str = "full") -> tuple[pd.Series, pd.Series]:
    """The final `metric` of `method` and of `baseline`, for the seeds that both have."""
    ours, theirs = final(frame, method, metric), final(frame, baseline, metric)
    seeds = common_seeds(ours, theirs)
    return ours[seeds], theirs[seeds]


def saving(frame: pd.DataFrame, method: str, metric: str = "layer_flops", baseline: str = "full") -> pd.Series:
    """The part of the baseline's operations that each seed of `method` did without, in percent."""
    ours, theirs = final_pair(frame, method, metric, baseline)
    return 100 * (1 - ours / theirs)


def run_seconds(frame: pd.DataFrame, method: str) -> pd.Series:
    """The optimizer time of each seed's whole run: the windows' median step times, times their lengths."""
    windows = runs_of(frame, method, "step_seconds")
    return pd.Series({seed: float(run @ np.diff(run.index, prepend=0)) for seed, run in windows.items()})


def speed_up(frame: pd.DataFrame, method: str, baseline: str = "full") -> pd.Series:
    """How many times faster each seed of `method` ran than the baseline's run of the same seed."""
    ours, theirs = run_seconds(frame, method), run_seconds(frame, baseline)
    seeds = common_seeds(ours, theirs)
    return theirs[seeds] / ours[seeds]


def transitions(frame: pd.DataFrame, method: str) -> dict[int, list[int]]:
    """The steps at which each seed of `method` changed stage: the last step of every stage but the last one."""
    found = {}
    for seed, stage in runs_of(frame, method, "stage").items():
        found[seed] = [int(step) for step in stage.index[:-1][np.diff(stage) > 0]]
    if not any(found.values()):
        raise NotMeasured(f"'{method}' has no stage transition")
    return found
