import numpy as np
import pytest
from scipy import stats

from est_analysis.errors import InputError
from est_analysis.theory.power_law import fit_power_law, seed_lines

DEPTHS = np.array([8.0, 16.0, 32.0, 64.0, 128.0])


def curves(generator, seeds, *, shared=0.05, own=0.02, tilt=0.03):
    """C = 3, c = 0.7, with noise correlated over the depths of a seed (an offset and a tilt) and independent noise."""
    logs = np.log(DEPTHS)
    noise = shared * generator.normal(size=(seeds, 1)) + own * generator.normal(size=(seeds, len(DEPTHS)))
    noise = noise + tilt * generator.normal(size=(seeds, 1)) * (logs - logs.mean())
    return 3.0 * DEPTHS**-0.7 * np.exp(noise)


def test_an_exact_law_is_recovered():
    law = fit_power_law(DEPTHS, np.tile(3.0 * DEPTHS**-0.7, (3, 1)))
    assert (law.exponent, law.constant, law.seeds) == pytest.approx((0.7, 3.0, 3))
    assert law.exponent_interval == pytest.approx((0.7, 0.7))
    assert law.constant_interval == pytest.approx((3.0, 3.0))
    assert fit_power_law(DEPTHS, DEPTHS[None] ** 0.2).exponent == pytest.approx(-0.2)


def test_lines_are_those_of_another_library():
    values = curves(np.random.default_rng(0), 3)
    for (slope, offset), row in zip(seed_lines(DEPTHS, values), values, strict=True):
        other = stats.linregress(np.log(DEPTHS), np.log(row))
        assert (slope, offset) == pytest.approx((other.slope, other.intercept))
    law = fit_power_law(DEPTHS, values)
    pooled = stats.linregress(np.tile(np.log(DEPTHS), 3), np.log(values).ravel())
    assert (law.exponent, law.constant) == pytest.approx((-pooled.slope, np.exp(pooled.intercept)))


def test_intervals_cover_as_often_as_they_say_and_pooled_points_do_not():
    generator, repeats, seeds = np.random.default_rng(0), 600, 5
    held = {"t": 0, "constant": 0, "pooled": 0}
    for _ in range(repeats):
        values = curves(generator, seeds)
        law = fit_power_law(DEPTHS, values)
        held["t"] += law.exponent_interval[0] < 0.7 < law.exponent_interval[1]
        held["constant"] += law.constant_interval[0] < 3.0 < law.constant_interval[1]
        # Planted: the textbook interval, which takes the points of a seed for independent.
        pooled = stats.linregress(np.tile(np.log(DEPTHS), seeds), np.log(values).ravel())
        held["pooled"] += abs(pooled.slope + 0.7) < stats.t.ppf(0.975, values.size - 2) * pooled.stderr
    rate = {name: count / repeats for name, count in held.items()}
    error = np.sqrt(0.95 * 0.05 / repeats)  # 0.009
    assert abs(rate["t"] - 0.95) < 4 * error
    assert abs(rate["constant"] - 0.95) < 4 * error
    assert rate["pooled"] < 0.95 - 4 * error


def test_a_wider_level_gives_a_wider_interval():
    values = curves(np.random.default_rng(1), 6)
    narrow, wide = (fit_power_law(DEPTHS, values, level=level).exponent_interval for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_one_seed_has_no_interval():
    law = fit_power_law(DEPTHS, curves(np.random.default_rng(2), 1))
    assert (law.exponent_interval, law.constant_interval, law.seeds) == (None, None, 1)


@pytest.mark.parametrize(
    ("depths", "values", "reason"),
    [
        ([8.0], [[1.0]], "at least two different"),
        ([8.0, 8.0], [[1.0, 1.0]], "at least two different"),
        ([8.0, 16.0], [1.0, 2.0], "a row a seed"),
        ([8.0, 16.0], [[1.0, 2.0, 3.0]], "a row a seed"),
        ([8.0, 16.0], [[1.0, 0.0]], "values hold a number that is not positive"),
        ([8.0, 16.0], [[1.0, np.nan]], "values hold a number that is not positive"),
        ([0.0, 16.0], [[1.0, 2.0]], "depths hold a number that is not positive"),
    ],
)
def test_what_holds_no_law_is_refused(depths, values, reason):
    with pytest.raises(InputError, match=reason):
        fit_power_law(np.array(depths), np.array(values))
