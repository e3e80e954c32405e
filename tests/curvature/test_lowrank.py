"""Hutch++ and XTrace: against their definitions by dense projectors, exactness, bias, calibration, budgets."""

import math

import pytest
import torch

from est_analysis.curvature.lowrank import hutch_pp, xtrace
from est_analysis.errors import InputError
from est_analysis.rng import stream

ESTIMATORS = [(hutch_pp, 12), (xtrace, 12)]


def symmetric(values, name="basis"):
    """A dense matrix with these eigenvalues, in a random basis."""
    values = torch.as_tensor(values, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=stream(0, name), dtype=torch.float64)).Q
    return q * values @ q.T


def indefinite(n=30):
    return symmetric([(-1) ** i * 0.8**i for i in range(n)])


def product_of(a):
    return lambda vector: a.to(vector) @ vector


def outside(basis):
    return torch.eye(len(basis), dtype=torch.float64) - basis @ basis.T


def orth(a):
    return torch.linalg.qr(a).Q


def leave_one_out(a, omega):
    """The estimates by definition, a new basis for each."""
    n, k = omega.shape
    values = []
    for i in range(k):
        q = orth(a @ torch.cat([omega[:, :i], omega[:, i + 1 :]], dim=1))
        rest = outside(q) @ omega[:, i]
        values.append((q.T @ a @ q).trace() + (n - k + 1) / (rest @ rest) * (rest @ a @ rest))
    return torch.stack(values)


@pytest.mark.parametrize("seed", range(3))
def test_xtrace_is_the_mean_over_left_out_vectors(seed):
    a = indefinite()
    omega = torch.randn(30, 7, generator=stream(seed, "omega"), dtype=torch.float64)
    omega *= math.sqrt(30) / omega.norm(dim=0)
    expected = leave_one_out(a, omega)
    estimate = xtrace(product_of(a), 30, budget=14, generator=stream(seed, "omega"))
    assert estimate.value == pytest.approx(expected.mean().item(), abs=1e-12)
    assert estimate.stderr == pytest.approx((expected.std() / math.sqrt(7)).item(), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_hutch_pp_is_an_exact_part_and_hutchinson_outside_it(seed):
    a, draws = indefinite(), stream(seed, "signs")
    sketch, probes = (2.0 * torch.randint(2, (30, 4), generator=draws).double() - 1 for _ in range(2))
    q = orth(a @ sketch)
    rest = outside(q) @ probes
    samples = (rest * (a @ rest)).sum(0)
    estimate = hutch_pp(product_of(a), 30, budget=12, generator=stream(seed, "signs"))
    assert estimate.value == pytest.approx(((q.T @ a @ q).trace() + samples.mean()).item(), abs=1e-12)
    assert estimate.stderr == pytest.approx((samples.std() / 2).item(), abs=1e-12)


@pytest.mark.parametrize("estimator", [hutch_pp, xtrace])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exact_where_the_rank_is_small(estimator, rank, dtype):
    a = symmetric([3.0, -2.0, 0.5][:rank] + [0.0] * (40 - rank))
    estimate = estimator(product_of(a), 40, budget=12, generator=stream(1, "draws"), dtype=dtype)
    # Rounding of vectors of length sqrt(40) |A| = 20.
    tolerance = 400 * torch.finfo(dtype).eps
    assert estimate.value == pytest.approx(a.trace().item(), abs=tolerance)
    assert estimate.stderr == pytest.approx(0.0, abs=tolerance)


@pytest.mark.parametrize(("estimator", "budget"), ESTIMATORS)
def test_the_mean_over_seeds_is_the_trace_and_biased_mutants_are_caught(estimator, budget):
    a, repeats = symmetric([(1.0 if i % 3 else -0.5) * 0.9**i for i in range(30)]), 400
    values = torch.tensor(
        [estimator(product_of(a), 30, budget=budget, generator=stream(s, "draws")).value for s in range(repeats)]
    )
    deviation = (values.std() / math.sqrt(repeats)).item()

    def agrees(value):
        return abs(value - a.trace().item()) < 4 * deviation

    assert agrees(values.mean().item())
    # Planted: the part outside the basis left out.
    k = budget // (3 if estimator is hutch_pp else 2)
    inside = []
    for s in range(repeats):
        q = orth(a @ torch.randn(30, k, generator=stream(s, "mutant"), dtype=torch.float64))
        inside.append((q.T @ a @ q).trace().item())
    assert not agrees(sum(inside) / repeats)


def rms_and_own(a, estimator, repeats=400):
    """Root mean square error, and that which the estimates tell of themselves."""
    estimates = [estimator(product_of(a), len(a), seed) for seed in range(repeats)]
    errors = torch.tensor([value - a.trace().item() for value, _ in estimates])
    return errors.square().mean().sqrt().item(), torch.tensor([e for _, e in estimates]).square().mean().sqrt().item()


def hutchinson(matvec, n, seed, budget=20):
    signs = 2.0 * torch.randint(2, (budget, n), generator=stream(seed, "signs")).double() - 1
    values = torch.stack([v @ matvec(v) for v in signs])
    return values.mean().item(), (values.std() / math.sqrt(budget)).item()


def xtrace_20(matvec, n, seed):
    estimate = xtrace(matvec, n, budget=20, generator=stream(seed, "draws"))
    assert estimate.matvecs == 20
    return estimate.value, estimate.stderr


def test_the_calibration_that_the_docstring_tells():
    """An RMS over 400 repeats has an error of 3.5 % (5 % with heavy tails): within four of them."""
    decaying, flat = symmetric([0.7**i for i in range(60)]), symmetric(torch.linspace(0.5, 1.0, 60))
    rms, own = rms_and_own(decaying, xtrace_20)
    plain, _ = rms_and_own(decaying, hutchinson)
    assert (rms, own, plain) == pytest.approx((0.055, 0.040, 0.415), rel=0.2)
    assert own < 0.85 * rms
    rms, own = rms_and_own(flat, xtrace_20)
    plain, _ = rms_and_own(flat, hutchinson)
    assert (rms, own, plain) == pytest.approx((0.51, 0.40, 0.353), rel=0.2)
    assert plain < rms, "on a flat spectrum Hutchinson wins"


@pytest.mark.parametrize(("estimator", "budget"), ESTIMATORS)
def test_the_budget_is_spent_exactly_and_draws_are_reproducible(estimator, budget):
    a, calls = indefinite(), []

    def matvec(vector):
        calls.append(vector)
        assert vector.shape == (30,)
        return a @ vector

    rng = torch.get_rng_state()
    estimate = estimator(matvec, 30, budget=budget, generator=stream(0, "draws"))
    assert len(calls) == estimate.matvecs == budget
    assert estimator(matvec, 30, budget=budget, generator=stream(0, "draws")) == estimate
    assert estimator(matvec, 30, budget=budget, generator=stream(1, "draws")) != estimate
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(
    ("estimator", "budget", "message"),
    [
        (hutch_pp, 10, "budget=10: hutch_pp needs a multiple of 3, at least 6"),
        (hutch_pp, 3, "budget=3: hutch_pp needs a multiple of 3, at least 6"),
        (hutch_pp, 0, "budget=0"),
        (hutch_pp, -6, "budget=-6"),
        (hutch_pp, 12, "budget=12 for dimension 11: 11 products with unit vectors give the trace exactly"),
        (xtrace, 7, "budget=7: xtrace needs a multiple of 2, at least 4"),
        (xtrace, 2, "budget=2: xtrace needs a multiple of 2, at least 4"),
        (xtrace, 12, "budget=12 for dimension 11"),
    ],
)
def test_bad_budgets_are_refused_before_anything_is_spent(estimator, budget, message):
    with pytest.raises(InputError, match=message):
        estimator(lambda vector: pytest.fail("spent"), 11, budget=budget, generator=stream(0))


@pytest.mark.parametrize(("estimator", "budget"), [(hutch_pp, 6), (xtrace, 6), (xtrace, 4)])
def test_the_smallest_and_the_largest_budget_work(estimator, budget):
    for n in (budget, 50):
        estimate = estimator(product_of(indefinite(n)), n, budget=budget, generator=stream(0))
        assert math.isfinite(estimate.value)
        assert estimate.stderr > 0
