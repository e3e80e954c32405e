"""What the checks share: reading one method's runs from a frame, Student's t intervals and tests over seeds."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

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


def p_value(
    effect: float, interval: tuple[float, float], region: tuple[float, float], seeds: int, *, ratio: bool = False
) -> float | None:
    """Two-sided p of Student's t test of `effect` against the nearest bound of `region`.

    The standard error is read back from the 95 % interval, so p < 0.05 exactly where that bound is outside of it, which
    is where the claim is called supported or refuted.

    Args:
        effect: a mean over seeds.
        interval: its `t_interval`.
        region: the open interval of effects that agree with the claim.
        seeds: how many; None follows for fewer than two.
        ratio: effect and interval are those of logarithms, turned back.

    Returns:
        p, or None where chance has no part in it: the interval has no width, or the region no bound.

    >>> round(p_value(2.0, t_interval([1.0, 2.0, 3.0]), (0.0, np.inf), 3), 4)  # t = 2 sqrt(3)
    0.0742
    """
    numbers = np.array([effect, *interval, *(bound for bound in region if np.isfinite(bound))], dtype=float)
    if ratio:
        numbers = np.log(numbers)
    centre, low, high, *bounds = numbers
    width = high - low
    if seeds < 2 or not bounds or width <= 1e-12 * max(abs(low), abs(high)):
        return None
    error = width / 2 / stats.t.ppf(0.975, df=seeds - 1)
    return float(2 * stats.t.sf(min(abs(centre - bound) for bound in bounds) / error, df=seeds - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for one another (Holm 1979): below 0.05, the chance of any false call is at most 5 %.

    The smallest of n is multiplied by n, the next by n - 1, and so on; none may fall below one before it.

    >>> [round(p, 3) for p in holm([0.04, 0.001, 0.03])]
    [0.06, 0.003, 0.06]
    """
    order = np.argsort(p_values)
    stepped = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def over_seeds(values: pd.Series, *, unit: str, detail: str, noise: float = 0.0) -> Measured:
    """The mean over seeds of `values` (one a seed) and its t interval, no narrower than `noise` makes it.

    Args:
        values: one a seed.
        unit: of them.
        detail: as in `Measured`.
        noise: a standard error of the mean that is known otherwise, well enough for a normal interval.
    """
    mean, interval = float(values.mean()), t_interval(values)
    if interval is not None:
        half = max(mean - interval[0], float(stats.norm.ppf(0.975)) * noise)
        interval = (mean - half, mean + half)
    return Measured(effect=mean, interval=interval, unit=unit, seeds=len(values), detail=detail)


def geometric_mean(logs: pd.Series, *, unit: str, detail: str) -> Measured:
    """The geometric mean over seeds and its interval, from t statistics of the logarithms.

    Args:
        logs: logarithms, one a seed.
        unit: of what they are the logarithms of.
        detail: as in `Measured`.
    """
    found = over_seeds(logs, unit=unit, detail=detail)
    interval = None if found.interval is None else (float(np.exp(found.interval[0])), float(np.exp(found.interval[1])))
    return replace(found, effect=float(np.exp(found.effect)), interval=interval)


_READ: ContextVar[set[str] | None] = ContextVar("runs read", default=None)


@contextmanager
def runs_read() -> Iterator[set[str]]:
    """The ids of all runs that `runs_of` reads while it is open: what a check makes use of."""
    found: set[str] = set()
    token = _READ.set(found)
    try:
        yield found
    finally:
        _READ.reset(token)


def runs_of(frame: pd.DataFrame, method: str, metric: str) -> dict[int, pd.Series]:
    """One series a seed: `metric` of `method`, indexed by step.

    Raises:
        NotMeasured: the method or the metric is missing, a value is not finite, or the method was run with several
            schedules or twice with one seed, so that which run is meant is not clear.
    """
    runs = frame[frame["method"] == method]
    if runs.empty:
        raise NotMeasured(f"no run of method '{method}' at this scale")
    if runs["schedule"].nunique() > 1:
        raise NotMeasured(f"'{method}' was run with {runs['schedule'].nunique()} schedules: keep one in the frame")
    if (runs.groupby("seed")["run_id"].nunique() > 1).any():
        raise NotMeasured(f"'{method}' has several runs of one seed: keep one in the frame")
    rows = runs[runs["metric"] == metric].sort_values("step")
    if rows.empty:
        raise NotMeasured(f"{metric} of '{method}' was not recorded")
    if not np.isfinite(rows["value"]).all():
        raise NotMeasured(f"{metric} of '{method}' holds a value that is not finite")
    if (read := _READ.get()) is not None:
        read.update(rows["run_id"])
    return {
        int(seed): pd.Series(run["value"].to_numpy(), index=pd.Index(run["step"], name="step"), name="value")
        for seed, run in rows.groupby("seed")
    }


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
    """The final `metric` of `method` and of `baseline`, for the seeds that both have.

    Raises:
        NotMeasured: no seed in common, or one of them has rows for more steps, so that its end is not the other's; but
            for runs of `short`, which are meant to be shorter.
    """
    ours, theirs = runs_of(frame, method, metric), runs_of(frame, baseline, metric)
    seeds = common_seeds(ours, theirs)
    ends = [{int(runs[seed].index[-1]) for seed in seeds} for runs in (ours, theirs)]
    if ends[0] != ends[1] and not any(name.startswith("short") for name in (method, baseline)):
        steps = (" and ".join(map(str, sorted(found))) for found in ends)
        raise NotMeasured(f"{metric} of '{method}' ends at step {next(steps)}, that of '{baseline}' at {next(steps)}")
    one, other = (pd.Series({seed: float(runs[seed].iloc[-1]) for seed in seeds}) for runs in (ours, theirs))
    return one, other


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
    if not all(found.values()):
        raise NotMeasured(f"'{method}' has no stage transition")
    return found
