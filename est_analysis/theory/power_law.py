"""A power law y = C L^(-c), fitted on logarithmic axes, with intervals that allow a seed's points to be correlated."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from est_analysis.errors import InputError

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = C L^(-c).

    Attributes:
        exponent: c; positive where y falls.
        exponent_interval: None where there is one seed only.
        constant: C, a geometric mean over seeds.
        constant_interval: as for the exponent.
        seeds: how many.
    """

    exponent: float
    exponent_interval: Interval | None
    constant: float
    constant_interval: Interval | None
    seeds: int


def fit_power_law(depths: np.ndarray, values: np.ndarray, *, level: float = 0.95) -> PowerLaw:
    """Least squares of log y on log L for every seed, then Student's t over the seeds.

    All seeds have the same depths, so the mean of the seeds' lines is the line through all points. The t interval needs
    the seeds to be independent, and nothing of the depths within one: their noise may be correlated and of any size.

    Args:
        depths: (D,), L.
        values: (S, D), y, a row a seed.
        level: of the intervals.

    >>> law = fit_power_law(np.array([4.0, 16.0, 64.0]), np.array([[1.0, 0.5, 0.25], [2.0, 1.0, 0.5]]))
    >>> round(law.exponent, 6), round(law.constant, 6)  # 2 / sqrt(L) and 4 / sqrt(L)
    (0.5, 2.828427)
    """
    lines = seed_lines(depths, values)
    slope, offset = lines.mean(axis=0)
    exponents, constants = _t_interval(-lines[:, 0], level), _t_interval(lines[:, 1], level)
    return PowerLaw(
        exponent=-float(slope),
        exponent_interval=exponents,
        constant=float(np.exp(offset)),
        constant_interval=None if constants is None else (float(np.exp(constants[0])), float(np.exp(constants[1]))),
        seeds=len(lines),
    )


def seed_lines(depths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(S, 2): slope and offset of the least-squares line of log y on log L for each seed.

    Raises:
        InputError: fewer than two depths, shapes that do not fit, or numbers that have no logarithm.
    """
    depths, values = np.asarray(depths, dtype=float), np.asarray(values, dtype=float)
    if depths.ndim != 1 or len(np.unique(depths)) < 2:
        raise InputError(f"depths of shape {depths.shape} hold no line; give at least two different ones")
    if values.ndim != 2 or values.shape[1] != len(depths) or not len(values):
        raise InputError(f"values of shape {values.shape} do not fit {len(depths)} depths; give a row a seed")
    for name, numbers in (("depths", depths), ("values", values)):
        if not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise InputError(
                f"{name} hold a number that is not positive and finite; a power law has logarithms only of such"
            )
    centred = np.log(depths) - np.log(depths).mean()
    logs = np.log(values)
    slopes = logs @ centred / (centred @ centred)
    return np.stack([slopes, logs.mean(axis=1) - slopes * np.log(depths).mean()], axis=1)


def _t_interval(sample: np.ndarray, level: float) -> Interval | None:
    if len(sample) < 2:
        return None
    half = float(stats.t.ppf(0.5 + level / 2, df=len(sample) - 1) * stats.sem(sample))
    return float(sample.mean()) - half, float(sample.mean()) + half
