"""Statistics of measurements: against brute force, on synthetic samples of a known law, and by repeated simulation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from est_analysis.curvature.engine import Measurement
from est_analysis.curvature.estimate import Sample, compare, estimate
from est_analysis.curvature.trace import Budget, hutchinson
from est_analysis.errors import InputError

NO_LOSS = SimpleNamespace(weight=lambda batch: 1)  # the objective of an engine that draws its values
# What intervals of 95 % may cover. The share seen in 1,500 simulations deviates by sqrt(0.95 * 0.05 / 1500) = 0.0056.
COVERS = (0.93, 0.97)


def make(values, weights=None, batches=None, pairs=2):
    """Measurements, one a row of `values`."""
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    weights = np.ones(len(values), dtype=int) if weights is None else weights
    batches = range(len(values)) if batches is None else batches
    rows = zip(values, weights, batches, strict=True)
    return [
        Sample(index=i, batch=int(b), weight=int(w), loss=float(b), pairs=pairs, values=tuple(v), seconds=0.5)
        for i, (v, w, b) in enumerate(rows)
    ]


def found(samples, **options):
    return estimate(samples, engine="taylor", **options)


# --- against brute force ----------------------------------------------------------------------------------------------


def test_the_ratio_estimator_by_brute_force():
    draw = np.random.default_rng(0)
    weights, q = draw.integers(1, 60, 12), draw.normal(5, 2, 12)
    got = found(make(q, weights))
    value = sum(w * x for w, x in zip(weights, q, strict=True)) / sum(weights)
    squares = sum((w * (x - value)) ** 2 for w, x in zip(weights, q, strict=True))
    assert got.value == pytest.approx(value, rel=1e-14)
    assert got.stderr == pytest.approx(math.sqrt(12 / 11 * squares) / sum(weights), rel=1e-13)
    assert (got.pairs, got.batches, got.targets, got.seconds) == (24, 12, sum(weights), 6.0)
    assert got.loss == pytest.approx(sum(weights * np.arange(12)) / sum(weights), rel=1e-14)
    low, high = got.interval()
    assert (low + high) / 2 == pytest.approx(got.value)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 11) * got.stderr)


def test_equal_weights_give_the_textbook_standard_error():
    q = np.random.default_rng(1).normal(5, 2, 20)
    assert found(make(q)).stderr == pytest.approx(np.std(q, ddof=1) / math.sqrt(20), rel=1e-13)


def test_a_mean_of_batch_means_would_be_another_number():
    """Long batches have the larger curvature here: 900 targets of trace 10 and 100 of trace 2."""
    samples = make([10.0, 2.0] * 3, [300, 33] * 3)
    assert found(samples).value == pytest.approx((300 * 10 + 33 * 2) / 333, rel=1e-14)
    assert abs(found(samples).value - 6.0) > 3


def test_the_order_of_measurements_does_not_matter():
    samples = make(np.random.default_rng(2).normal(5, 2, (30, 2)), batches=[i % 7 for i in range(30)])
    one, other = found(samples), found(samples[::-1])
    assert (one.value, one.stderr) == pytest.approx((other.value, other.stderr), rel=1e-14)


@pytest.mark.parametrize("target", ["distribution", "batches"])
def test_one_batch_has_no_error_of_data(target):
    got = found(make([[3.0, 5.0]]), target=target)
    assert got.value == 4
    assert got.stderr_probes == pytest.approx(1.0)  # two values of variance 2
    assert got.stderr == pytest.approx(1.0) if target == "batches" else math.isnan(got.stderr)


def test_a_trace_of_zero_is_never_sure():
    assert found(make([1.0, -1.0])).relative_stderr == math.inf


# --- data and probes --------------------------------------------------------------------------------------------------


def synthetic(draw, *, batches, values, data, probes, sweeps=1):
    """q = 10 + data * z_batch + probes * z for each of `values` of each sweep."""
    centre = np.tile(10 + data * draw.normal(size=batches), sweeps)
    rows = centre[:, None] + probes * draw.normal(size=(batches * sweeps, values))
    return make(rows, batches=np.tile(np.arange(batches), sweeps))


@pytest.mark.parametrize(("data", "probes"), [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)])
def test_the_error_splits_into_data_and_probes(data, probes):
    n = 2000
    got = found(synthetic(np.random.default_rng(3), batches=n, values=2, data=data, probes=probes))
    # A variance from n normal values has the relative deviation sqrt(2 / n) = 0.032, a standard deviation half of that;
    # the data's variance is a difference, at worst (data 1, probes 3 of variance 4.5 a batch) with the deviation
    # sqrt(2 / n) * hypot(5.5, 4.5) = 0.22 of 1, so 0.11 of its root.
    assert got.stderr_probes == pytest.approx(probes / math.sqrt(2 * n), rel=4 * 0.016)
    assert got.stderr_data == pytest.approx(data / math.sqrt(n), rel=4 * 0.11 if data < probes else 4 * 0.04)
    assert got.stderr == pytest.approx(math.sqrt((data**2 + probes**2 / 2) / n), rel=4 * 0.016)
    assert math.hypot(got.stderr_data, got.stderr_probes) == pytest.approx(got.stderr, rel=1e-12)


def test_a_single_value_a_batch_tells_no_split():
    got = found(make(np.arange(20.0)))
    assert math.isnan(got.stderr_data)
    assert math.isnan(got.stderr_probes)
    assert got.stderr > 0


def test_sweeps_over_the_same_batches_shrink_the_probes_part_alone():
    """32 batches seen 1 and 64 times: the error stays that of 32 batches."""
    errors = {}
    for sweeps in (1, 64):
        runs = [
            found(synthetic(np.random.default_rng(s), batches=32, values=2, data=3.0, probes=6.0, sweeps=sweeps))
            for s in range(40)
        ]
        errors[sweeps] = (
            np.sqrt(np.mean([run.stderr**2 for run in runs])),
            np.sqrt(np.mean([run.stderr_probes**2 for run in runs])),
        )
        assert runs[0].batches == 32
    # Root mean squares over 40 runs of 31 degrees of freedom: relative deviation sqrt(1 / (2 * 40 * 31)) = 0.02.
    assert errors[1][0] == pytest.approx(math.sqrt((9 + 18) / 32), rel=0.08)
    assert errors[64][0] == pytest.approx(math.sqrt((9 + 18 / 64) / 32), rel=0.08)
    assert errors[64][1] == pytest.approx(math.sqrt(18 / 64 / 32), rel=0.08)
    # What taking each of the 2,048 measurements for a new batch would claim.
    assert errors[64][0] > 4 * math.sqrt((9 + 18) / 2048)


def test_exactly_these_batches_have_only_the_probes_error():
    samples = synthetic(np.random.default_rng(5), batches=50, values=2, data=100.0, probes=0.1)
    got, random = found(samples, target="batches"), found(samples)
    assert got.stderr == got.stderr_probes == random.stderr_probes
    assert got.stderr_data == 0
    # A standard deviation of 50 differences: relative deviation 1 / sqrt(100) = 0.1.
    assert got.stderr == pytest.approx(0.1 / math.sqrt(100), rel=0.4)
    assert random.stderr > 1000 * got.stderr


# --- coverage ---------------------------------------------------------------------------------------------------------

LAWS = {
    "normal": lambda draw, n: draw.normal(1, 0.3, n),
    "skewed": lambda draw, n: draw.gamma(2, 0.5, n),  # skewness 1.4
}


class Drawing:
    """An engine whose values come from a known law of mean 1."""

    name = "drawing"

    def __init__(self, values):
        self.values = values

    def measure(self, objective, batch, probes):
        return Measurement(loss=0.0, values=torch.tensor([self.values[batch]], dtype=torch.float64))


def covered(low, high, truth=1.0):
    return np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high)))


@pytest.mark.parametrize("law", LAWS)
def test_intervals_from_a_fixed_number_of_batches_cover(law):
    draw, ends = np.random.default_rng(6), []
    for _ in range(2500):
        ends.append(found(make(LAWS[law](draw, 48))).interval())
    assert COVERS[0] < covered(*zip(*ends, strict=True)) < COVERS[1]


def stopped(values, rel_se, reached=None):
    """The estimate where `hutchinson` stops, by its own rule or by `reached`."""
    budget = Budget(rel_se=rel_se, max_pairs=len(values), probes=1)
    if reached is not None:
        object.__setattr__(budget, "reached", reached)
    return hutchinson(NO_LOSS, iter(range(len(values))), engine=Drawing(values), seed=0, budget=budget)


def stalled(change):
    """Planted: the rule of PyHessian and of nncf (issue 2155), to stop when one more probe moves the mean little."""
    last = [math.inf]

    def reached(got, num_batches):
        before, last[0] = last[0], got.value
        return got.batches > 2 and abs(got.value - before) < change * abs(before)

    return reached


def kept_promise(estimates, rel_se):
    """How often the truth is as near as a relative standard error of `rel_se` says it is 95 % of the time."""
    values = np.array([got.value for got in estimates])
    return covered(*(values * (1 + sign * 1.96 * rel_se) for sign in (-1, 1)))


@pytest.fixture(scope="module", params=LAWS)
def law(request):
    """1,500 rows of draws, and the error asked for: reached after 56 batches, had all rows the same spread."""
    draw = np.random.default_rng(7)
    spread = {"normal": 0.3, "skewed": math.sqrt(0.5)}[request.param]
    return LAWS[request.param](draw, (1500, 200)), spread / math.sqrt(56)


def test_where_the_rule_stops_the_interval_covers_and_the_error_is_as_asked(law):
    values, rel_se = law
    estimates = [stopped(row, rel_se) for row in values]
    ends = zip(*(got.interval() for got in estimates), strict=True)
    assert COVERS[0] < covered(*ends) < COVERS[1]
    assert kept_promise(estimates, rel_se) > COVERS[0]
    batches = [got.batches for got in estimates]
    assert max(batches) < 200
    assert len(set(batches)) > 10, "it stopped everywhere at the same batch, so the test shows nothing"


@pytest.mark.parametrize("change", [1e-2, 1e-3])
def test_a_rule_that_waits_for_the_mean_to_stall_breaks_its_promise(law, change):
    values, _ = law
    assert kept_promise([stopped(row, change, stalled(change)) for row in values[:500]], change) < 0.5


# --- comparisons ------------------------------------------------------------------------------------------------------


def pairs(draw, n, *, ratio=2.0, shared=0.9, spread=0.5):
    """Two checkpoints on the same batches: traces `ratio` and 1, batch means with the correlation `shared`**2."""
    common, own = draw.normal(size=n), draw.normal(size=(2, n))
    a, b = (1 + spread * (shared * common + math.sqrt(1 - shared**2) * own[i]) for i in (0, 1))
    return make(ratio * a), make(b)


def test_the_error_of_a_difference_by_brute_force():
    """With equal weights the paired error is that of the mean of differences, the unpaired one a sum of squares."""
    other, baseline = pairs(np.random.default_rng(8), 40)
    a, b = (np.array([sample.values[0] for sample in samples]) for samples in (other, baseline))
    paired, unpaired = compare(other, baseline), compare(other, baseline, paired=False)
    assert paired.difference == unpaired.difference == pytest.approx(np.mean(a - b), rel=1e-13)
    assert paired.ratio == pytest.approx(np.mean(a) / np.mean(b), rel=1e-13)
    assert paired.difference_stderr == pytest.approx(np.std(a - b, ddof=1) / math.sqrt(40), rel=1e-10)
    assert paired.correlation == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-10)
    expected = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 40)
    assert unpaired.difference_stderr == pytest.approx(expected, rel=1e-12)
    assert unpaired.correlation == 0


def test_pairing_makes_the_error_smaller():
    other, baseline = pairs(np.random.default_rng(9), 60, ratio=1.1, shared=0.98)
    paired, unpaired = compare(other, baseline), compare(other, baseline, paired=False)
    assert paired.difference_stderr < unpaired.difference_stderr / 3
    narrow, wide = (one.ratio_ci[1] - one.ratio_ci[0] for one in (paired, unpaired))
    assert narrow < wide / 3


def test_beside_a_trace_of_zero_there_is_no_ratio():
    found = compare(make([1.0, 2.0, 3.0]), make([0.0, 0.0, 0.0]))
    assert (found.difference, found.ratio_ci) == (2, (-math.inf, math.inf))
    assert math.isnan(found.ratio)
    assert not found.ratio_margin <= 1e9


@pytest.mark.parametrize("number", [4, 400])
def test_the_margin_of_a_ratio_is_students_where_errors_are_small(number):
    """So many standard errors of the delta method as t's law has of so few measurements."""
    draw = np.random.default_rng(16)
    a, b = draw.normal(5, 1e-3, number), draw.normal(4, 1e-3, number)
    found = compare(make(a), make(b))
    logs = np.std(a / a.mean() - b / b.mean(), ddof=1) / math.sqrt(number)
    assert found.ratio_margin == pytest.approx(stats.t.ppf(0.975, number - 1) * logs, rel=1e-2)


def test_weights_count_in_comparisons():
    weights = [10, 40, 20, 30]
    found = compare(make([1.0, 2.0, 3.0, 4.0], weights), make([1.0, 1.0, 2.0, 1.0], weights))
    assert found.difference == pytest.approx((0 * 10 + 1 * 40 + 1 * 20 + 3 * 30) / 100)


@pytest.mark.parametrize("paired", [True, False])
def test_ratio_intervals_cover(paired):
    """Fieller's interval where the baseline's trace has an error of 10 %, so that a symmetric one would not do."""
    draw, ends = np.random.default_rng(10), []
    for _ in range(2000):
        ends.append(compare(*pairs(draw, 25, shared=0.9 if paired else 0.0), paired=paired).ratio_ci)
    assert COVERS[0] < covered(*zip(*ends, strict=True), truth=2.0) < COVERS[1]


def test_differences_cover():
    draw, ends = np.random.default_rng(11), []
    for _ in range(2000):
        found = compare(*pairs(draw, 25))
        half = stats.t.ppf(0.975, 24) * found.difference_stderr
        ends.append((found.difference - half, found.difference + half))
    assert COVERS[0] < covered(*zip(*ends, strict=True), truth=1.0) < COVERS[1]


def test_a_ratio_to_what_may_be_zero_is_unbounded():
    draw = np.random.default_rng(12)
    near_zero = make(draw.normal(0.05, 1, 20))
    assert compare(make(draw.normal(5, 1, 20)), near_zero).ratio_ci == (-math.inf, math.inf)


def test_a_checkpoint_against_a_multiple_of_itself():
    baseline = make(np.random.default_rng(13).normal(5, 1, 20))
    found = compare(make([3 * sample.values[0] for sample in baseline]), baseline)
    # Cancellation of numbers of order 10 in float64, under a root: 1e-7.
    assert found.ratio_ci == pytest.approx((3, 3), abs=1e-6)
    assert found.correlation == pytest.approx(1)


def test_pairs_are_the_measurements_that_both_have():
    draw = np.random.default_rng(14)
    other, baseline = pairs(draw, 40)
    kept = other[5:30], baseline[10:]
    assert compare(*kept) == compare(other[10:30], baseline[10:30])
    alone = compare(*kept, paired=False)
    assert alone.difference == pytest.approx(found(kept[0]).value - found(kept[1]).value, rel=1e-13)


def test_checkpoints_with_nothing_in_common():
    other, baseline = pairs(np.random.default_rng(15), 20)
    with pytest.raises(InputError, match="0 measurements in common"):
        compare(other[:5], baseline[5:])


def test_the_interval_of_one_batch_has_the_probes_degrees_of_freedom():
    """One batch, eight values: all freedom is the probes', and the interval is that of their mean."""
    values = np.random.default_rng(3).normal(5, 2, 8)
    one = Sample(index=0, batch=0, weight=3, loss=1.0, pairs=8, values=tuple(values), seconds=0.0)
    got = estimate([one], engine="hvp", target="batches")
    assert got.interval() == pytest.approx(stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values)))
