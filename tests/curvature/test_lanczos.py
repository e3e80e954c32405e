"""Lanczos: against dense eigenvalues, exact moments, and Krylov spaces that end early."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import nn

from est_analysis.curvature.hvp import HessianOperator
from est_analysis.curvature.lanczos import spectral_density, top_eigenvalues
from est_analysis.curvature.loss import CallableObjective
from est_analysis.errors import InputError
from est_analysis.rng import stream


def symmetric(values):
    """A dense matrix with these eigenvalues, in a random basis."""
    values = torch.as_tensor(values, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=stream(0, "basis"), dtype=torch.float64)).Q
    return q * values @ q.T


def product_of(a):
    return lambda vector: a @ vector


def moment(density, power):
    return ((density.grid**power * density.density).sum() * (density.grid[1] - density.grid[0])).item()


# --- the largest ------------------------------------------------------------------------------------------------------


def test_top_eigenvalues_are_the_largest_in_magnitude_of_the_dense_matrix():
    values = [5.0, -4.0, 3.0, 0.5, -0.2, *([0.1] * 25)]
    a = symmetric(values)
    pairs = top_eigenvalues(product_of(a), 30, count=3, generator=stream(0), tolerance=1e-12)
    torch.testing.assert_close(pairs.values, torch.tensor([5.0, -4.0, 3.0]).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(a @ pairs.vectors, pairs.vectors * pairs.values, atol=1e-8, rtol=0)
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(3).double(), atol=1e-10, rtol=0)


def test_the_cost_is_counted_and_the_draws_are_reproducible():
    a, calls = symmetric(torch.linspace(-1, 3, 60)), []

    def matvec(vector):
        assert vector.shape == (60,)
        calls.append(1)
        return a @ vector

    rng = torch.get_rng_state()
    pairs = top_eigenvalues(matvec, 60, count=2, generator=stream(0))
    assert pairs.matvecs == len(calls)
    again = top_eigenvalues(matvec, 60, count=2, generator=stream(0))
    assert torch.equal(pairs.values, again.values)
    assert torch.equal(pairs.vectors, again.vectors)
    assert torch.equal(torch.get_rng_state(), rng)


def test_an_ended_krylov_space_draws_nothing_from_outside():
    """Identity: ARPACK must go on from another vector, and from the same one every time."""
    pairs = [top_eigenvalues(lambda v: v, 30, count=3, generator=stream(0)) for _ in range(2)]
    torch.testing.assert_close(pairs[0].values, torch.ones(3).double(), atol=1e-12, rtol=0)
    assert torch.equal(pairs[0].vectors, pairs[1].vectors)


def test_an_operator_that_is_zero_is_told_in_one_line():
    with pytest.raises(InputError, match="all its eigenvalues are 0"):
        top_eigenvalues(torch.zeros_like, 30, count=3, generator=stream(0))


def test_products_in_float32_reach_the_default_tolerance():
    a = symmetric([5.0, -4.0, 3.0, *torch.linspace(-1, 1, 97).tolist()])
    pairs = top_eigenvalues(lambda v: (a.float() @ v.float()).double(), 100, count=3, generator=stream(0))
    torch.testing.assert_close(pairs.values, torch.tensor([5.0, -4.0, 3.0]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [0, -1, 5, 6])
def test_a_count_that_no_matrix_of_this_size_has_is_refused(count):
    with pytest.raises(InputError, match=f"count={count} eigenvalues of a matrix of dimension 5; use 1 to 4"):
        top_eigenvalues(product_of(torch.eye(5).double()), 5, count=count, generator=stream(0))


def test_no_convergence_is_told_in_one_line(monkeypatch):
    """A real one would take 10 n restarts; the error is ARPACK's own, after one."""
    monkeypatch.setattr("est_analysis.curvature.lanczos.eigsh", functools.partial(eigsh, maxiter=1))
    a = symmetric(torch.linspace(0, 1, 400))
    with pytest.raises(InputError, match=r"tolerance=1e-14: \d of 3 converged; use a larger") as caught:
        top_eigenvalues(product_of(a), 400, count=3, generator=stream(0), tolerance=1e-14)
    assert len(str(caught.value).splitlines()) == 1


# --- the density ------------------------------------------------------------------------------------------------------


def test_all_steps_find_all_eigenvalues_and_their_weights():
    values = torch.tensor([-2.0, -0.5, 0.1, 0.7, 1.0, 4.0], dtype=torch.float64)
    a = symmetric(values)
    found = spectral_density(product_of(a), 6, steps=6, probes=3, generator=stream(0, "v"))
    torch.testing.assert_close(found.nodes, values.expand(3, 6), atol=1e-12, rtol=0)
    draws, (_, vectors) = stream(0, "v"), torch.linalg.eigh(a)
    for weights in found.weights:
        signs = 2.0 * torch.randint(2, (6,), generator=draws).double() - 1
        torch.testing.assert_close(weights, (vectors.T @ signs).square() / 6, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [2, 5, 12])
def test_moments_up_to_twice_the_steps_are_exact(steps):
    a = symmetric(torch.linspace(-1, 2, 40))
    found = spectral_density(product_of(a), 40, steps=steps, probes=4, generator=stream(0, "v"))
    draws = stream(0, "v")
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        v = (2.0 * torch.randint(2, (40,), generator=draws).double() - 1) / math.sqrt(40)
        for power in range(2 * steps):
            exact = v @ torch.linalg.matrix_power(a, power) @ v
            # Powers up to 2^23 of eigenvalues up to 2, in float64.
            torch.testing.assert_close(weights @ nodes**power, exact, atol=1e-12, rtol=1e-11)


def test_over_all_sign_vectors_the_moments_are_the_traces(monkeypatch):
    """2^6 probes, every sign vector once: mean weight 1 / n, so the first three moments are the matrix's."""
    a = symmetric([-1.0, 0.3, 0.4, 0.5, 2.0, 3.0])
    every = iter(torch.tensor(list(itertools.product((0, 1), repeat=6))))
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: next(every))
    found = spectral_density(product_of(a), 6, steps=2, probes=64, generator=stream(0))
    assert found.traces.mean().item() == pytest.approx(a.trace().item(), rel=1e-12)
    off_diagonal = a - a.diag().diag()
    assert found.traces.var(correction=0).item() == pytest.approx(2 * off_diagonal.square().sum().item(), rel=1e-11)
    second = (found.weights * found.nodes**2).sum(1).mean().item()
    assert 6 * second == pytest.approx((a @ a).trace().item(), rel=1e-12)


def test_the_density_integrates_to_one_and_its_first_moment_is_the_trace():
    a = symmetric([10.0, *torch.linspace(-1, 1, 99).tolist()])
    found = spectral_density(product_of(a), 100, steps=30, probes=8, generator=stream(0))
    assert moment(found, 0) == pytest.approx(1.0, abs=1e-7)
    assert 100 * moment(found, 1) == pytest.approx(found.traces.mean().item(), rel=1e-6)
    deviation = found.traces.std().item() / math.sqrt(8)
    assert abs(found.traces.mean().item() - 10) < 4 * deviation
    spacing = (found.grid[1] - found.grid[0]).item()
    # The second moment grows by the Gaussian's variance and by that of a cell (Sheppard's correction).
    broadened = (found.weights * found.nodes**2).sum(1).mean().item() + found.width**2 + spacing**2 / 12
    assert moment(found, 2) == pytest.approx(broadened, rel=1e-6)


def test_the_density_shows_a_bulk_and_an_outlier():
    a = symmetric([10.0, *torch.linspace(-1, 1, 399).tolist()])
    found = spectral_density(product_of(a), 400, steps=60, probes=20, generator=stream(0), width=0.1)
    in_bulk = (found.grid > -0.5) & (found.grid < 0.5)
    # 399 / 400 over [-1, 1]: one half; 4 % is several deviations of 20 probes.
    mass = torch.trapezoid(found.density[in_bulk], found.grid[in_bulk]).item()
    assert mass == pytest.approx(0.5, abs=0.04)
    outlier = found.grid > 9
    assert torch.trapezoid(found.density[outlier], found.grid[outlier]).item() == pytest.approx(1 / 400, rel=0.9)
    gap = (found.grid > 2) & (found.grid < 9)
    assert found.density[gap].max() < 1e-8


@pytest.mark.parametrize(("values", "distinct"), [([3.0] * 20, 1), ([0.0] * 20, 1), ([1.0] * 12 + [-2.0] * 8, 2)])
def test_an_invariant_space_ends_the_steps(values, distinct):
    calls = []

    def matvec(vector):
        calls.append(1)
        return symmetric(values) @ vector

    found = spectral_density(matvec, 20, steps=15, probes=2, generator=stream(0))
    assert len(calls) == found.matvecs == 2 * distinct
    assert set(found.nodes[found.weights > 0].round(decimals=10).tolist()) == set(values)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(2).double(), atol=1e-12, rtol=0)
    assert moment(found, 0) == pytest.approx(1.0, abs=1e-7)


def test_no_ghosts_of_a_converged_eigenvalue():
    """Without orthogonalisation the outlier would come back; after a single pass there are negative nodes (-0.01)."""
    a = symmetric([1e8, *torch.linspace(0, 1, 299).tolist()])
    found = spectral_density(product_of(a), 300, steps=100, probes=2, generator=stream(0))
    assert (found.nodes > 2).sum(1).tolist() == [1, 1]
    assert found.nodes.min() > -1e-6  # products with 1e8 are rounded to 1e-8


def test_the_hessian_of_a_network():
    x, y = (torch.randn(8, 3, generator=stream(0, name), dtype=torch.float64) for name in "xy")
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(generator=stream(0, name))
    operator = HessianOperator(CallableObjective(model, lambda model, batch: F.mse_loss(model(x), y)), [None])
    dense = torch.stack([operator.matvec(unit) for unit in torch.eye(operator.n, dtype=torch.float64)])
    values = torch.linalg.eigvalsh((dense + dense.T) / 2)
    expected = values[values.abs().argsort(descending=True)][:4]
    pairs = top_eigenvalues(operator.matvec, operator.n, count=4, generator=stream(0), tolerance=1e-12)
    torch.testing.assert_close(pairs.values, expected, atol=1e-9, rtol=0)
    found = spectral_density(operator.matvec, operator.n, steps=operator.n, probes=1, generator=stream(0))
    torch.testing.assert_close(found.nodes[0, -1], values[-1], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 6}, "steps=6 for dimension 5; use 1 to 5"),
        ({"steps": 0}, "steps=0"),
        ({"probes": 0}, "probes=0; use at least 1"),
        ({"grid_points": 0}, "grid_points=0; use at least 1"),
        ({"width": 0.0}, "width=0.0; use a positive one"),
        ({"width": math.nan}, "width=nan"),
    ],
)
def test_bad_options_are_refused_before_anything_is_spent(options, message):
    given = {"steps": 3, "probes": 1} | options
    with pytest.raises(InputError, match=message):
        spectral_density(lambda vector: pytest.fail("spent"), 5, generator=stream(0), **given)


@pytest.mark.parametrize("points", [3, 50, 5000])
def test_no_mass_is_lost_between_the_points_of_a_coarse_grid(points):
    a = symmetric(torch.linspace(0, 1, 10))
    found = spectral_density(product_of(a), 10, steps=5, probes=1, generator=stream(0), grid_points=points, width=1e-4)
    assert moment(found, 0) == pytest.approx(1.0, abs=1e-7)
    assert moment(found, 1) == pytest.approx(found.traces.item() / 10, abs=0.5 / points)
