from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

from est_analysis.errors import InputError
from est_analysis.theory.two_block import (
    TwoBlock,
    best_loss,
    coefficients,
    convergence_rate,
    critical_keep_rate,
    expected_loss,
    gradient_flow,
    hessian,
    loss_gradient,
    network,
    pld,
    staged,
    stationary_degree_one,
    stationary_degree_two,
    stationary_weights,
)

CUBE = np.array(list(product([-1, 1], repeat=3)), dtype=float)
TOYS = [
    TwoBlock(),
    TwoBlock(scaled=True),
    TwoBlock(degree_one=-0.7, degree_two=1.9, gain=0.6),
    TwoBlock(degree_one=-0.7, degree_two=1.9, gain=2.5, scaled=True),
]
KEEPS = [(1.0, 1.0), (1.0, 0.5), (0.8, 0.6), (0.3, 0.9), (0.4, 0.4)]
every_toy = pytest.mark.parametrize("toy", TOYS, ids=str)
every_keep = pytest.mark.parametrize("keep", KEEPS, ids=str)


def enumerated_loss(toy, weights, keep):
    """The masked loss by running the net on all 8 inputs under all 4 masks."""
    target = toy.degree_one * CUBE[:, 0] + toy.degree_two * CUBE[:, 1] * CUBE[:, 2]
    scales = [1 / p if toy.scaled else 1.0 for p in keep]
    total = 0.0
    for mask in product([0, 1], repeat=2):
        chance = np.prod([p if on else 1 - p for on, p in zip(mask, keep, strict=True)])
        output = network(toy, weights, CUBE, tuple(on * s for on, s in zip(mask, scales, strict=True)))
        total += chance * np.mean((output - target) ** 2)
    return total


def some_weights(seed):
    return np.random.default_rng(seed).normal(size=(2, 2))


@every_toy
@every_keep
def test_loss_is_the_mean_over_all_inputs_and_masks(toy, keep):
    for seed in range(3):
        weights = some_weights(seed)
        assert expected_loss(toy, weights, keep) == pytest.approx(enumerated_loss(toy, weights, keep), rel=1e-12)


@every_toy
def test_coefficients_are_the_correlations_with_the_monomials(toy):
    weights, gates = some_weights(0), (0.7, 1.3)
    output = network(toy, weights, CUBE, gates)
    x1, x2, x3 = CUBE.T
    found = [[np.mean(output * x1), np.mean(output * x2)], [np.mean(output * x1 * x3), np.mean(output * x2 * x3)]]
    np.testing.assert_allclose(coefficients(toy, weights, gates), found, atol=1e-14)
    assert np.mean(output**2) == pytest.approx(np.sum(np.square(found)))  # no other monomial occurs


def test_degree_two_needs_both_blocks_and_degree_one_either():
    ones = np.ones((2, 2))
    for gates in [(1, 0), (0, 1)]:
        assert coefficients(TwoBlock(), ones, gates).tolist() == [[1, 1], [0, 0]]


@every_toy
@every_keep
def test_gradient_and_hessian_are_finite_differences(toy, keep):
    # Central differences of a quadratic are exact: what is left is rounding, 1e-16 * loss / step.
    weights, step = some_weights(1), 1e-3
    gradient = np.zeros((2, 2))
    for index in np.ndindex(2, 2):
        shift = np.zeros((2, 2))
        shift[index] = step
        ends = [enumerated_loss(toy, weights + sign * shift, keep) for sign in (1, -1)]
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
        change = loss_gradient(toy, weights + shift, keep) - loss_gradient(toy, weights - shift, keep)
        expected = np.zeros((2, 2))
        expected[:, index[1]] = hessian(toy, keep)[:, index[0]]
        np.testing.assert_allclose(change / (2 * step), expected, atol=1e-10)
    np.testing.assert_allclose(loss_gradient(toy, weights, keep), gradient, atol=1e-10)


@every_toy
@every_keep
def test_the_stationary_point_is_the_minimum(toy, keep):
    weights = stationary_weights(toy, keep)
    np.testing.assert_allclose(loss_gradient(toy, weights, keep), 0, atol=1e-12)
    assert convergence_rate(toy, keep) > 0  # strictly convex: there is no other
    full = coefficients(toy, weights)
    (p1, p2), (s1, s2) = keep, toy.scales(keep)
    big = s2 * toy.gain
    by_hand = toy.degree_two * p2 * big * toy.gain / (s1 * (1 - p1 * p2 + p2 * big**2))
    assert stationary_degree_two(toy, keep) == pytest.approx(by_hand)
    assert stationary_degree_two(toy, keep) == full[1, 1]
    assert stationary_degree_one(toy, keep) == full[0, 0]


@pytest.mark.parametrize("scaled", [False, True])
def test_dropping_shrinks_degree_two_and_no_dropping_learns_it(scaled):
    toy = TwoBlock(degree_one=0.5, degree_two=2.0, scaled=scaled)
    assert stationary_degree_two(toy, (1.0, 1.0)) == pytest.approx(2.0)
    rates = np.linspace(0.1, 1.0, 10)
    by_second = [stationary_degree_two(toy, (0.9, p)) for p in rates]
    by_first = [stationary_degree_two(toy, (p, 0.9)) for p in rates]
    # More dropping of block 2 always shrinks it further; with 1/p so does more dropping of block 1.
    assert np.all(np.diff(by_second) > 0)
    assert np.all(np.diff(by_first) > 0)
    assert max(by_second + by_first) < 2.0


def test_with_the_first_block_always_kept_only_degree_two_suffers():
    for p2 in (0.1, 0.5, 0.9):
        toy = TwoBlock(degree_one=0.5, degree_two=2.0)
        assert stationary_degree_two(toy, (1.0, p2)) == pytest.approx(2.0 * p2)
        assert stationary_degree_one(toy, (1.0, p2)) == pytest.approx(0.5)


def test_schedules_end_at_the_stationary_point_of_their_last_rates():
    toy, total = TwoBlock(degree_one=0.8, degree_two=1.2), 120.0
    rates = (0.4, 0.6, 0.8, 1.0)
    ends = {
        "full": (staged((1.0,), total), (1.0, 1.0)),
        "raptr": (staged(rates, total), (1.0, 1.0)),
        "pld": (pld(0.6, total), (0.8, 0.6)),
        "reversed": (staged(rates[::-1], total), (0.4, 0.4)),
    }
    learned = {}
    for name, (schedule, last) in ends.items():
        path = gradient_flow(toy, schedule)
        # Forgetting over the last stage: exp(-0.36 * 30) = 2e-5 at worst.
        np.testing.assert_allclose(path.weights[-1], stationary_weights(toy, last), atol=1e-4)
        assert (path.times[0], path.times[-1]) == (0.0, total)
        learned[name] = coefficients(toy, path.weights[-1])[1, 1]
    assert learned["full"] == pytest.approx(1.2, abs=1e-4)
    assert learned["raptr"] == pytest.approx(1.2, abs=1e-4)
    assert learned["pld"] == pytest.approx(1.2 * 0.6 / 1.12, abs=1e-4)
    assert learned["reversed"] == pytest.approx(1.2 * 0.4 / 1.24, abs=1e-4)


def test_flow_at_fixed_rates_is_the_matrix_exponential():
    toy, keep, start = TwoBlock(scaled=True), (0.7, 0.7), some_weights(2)
    path = gradient_flow(toy, staged((0.7,), 1.5), start=start, points=4)
    rates, modes = np.linalg.eigh(hessian(toy, keep))
    away = start - stationary_weights(toy, keep)
    for time, weights in zip(path.times, path.weights, strict=True):
        exact = stationary_weights(toy, keep) + modes @ (np.exp(-rates * time)[:, None] * (modes.T @ away))
        np.testing.assert_allclose(weights, exact, atol=1e-7)


@pytest.mark.parametrize("toy", [TwoBlock(), TwoBlock(scaled=True)], ids=str)
def test_gradient_descent_with_drawn_masks_lands_there(toy):
    # Masks do not depend on the weights, so the mean over replicas obeys the flow's equation step for step and settles
    # at the stationary point, whatever the step size; 3000 independent replicas, 300 steps at rate >= 0.04 * 0.36.
    keep, generator, replicas, size = (0.8, 0.6), np.random.default_rng(0), 3000, 0.04
    scales = toy.scales(keep)
    weights = np.zeros((replicas, 2, 2))
    u, v = weights[:, 0], weights[:, 1]
    alpha, beta = toy.targets
    for _ in range(600):
        z1, z2 = ((generator.random((replicas, 1)) < p) * s for p, s in zip(keep, scales, strict=True))
        linear, made = z1 * u + z2 * v - alpha, z1 * z2 * toy.gain * u - beta
        step_u, step_v = 2 * (z1 * linear + z1 * z2 * toy.gain * made), 2 * z2 * linear
        u -= size * step_u
        v -= size * step_v
    degree_two = coefficients(toy, weights)[:, 1, 1]
    error = degree_two.std() / np.sqrt(replicas)
    assert error < 0.01
    assert abs(degree_two.mean() - stationary_degree_two(toy, keep)) < 4 * error
    # Planted: scaling taken for none and the other way round is many standard errors away.
    wrong = TwoBlock(scaled=not toy.scaled)
    assert abs(degree_two.mean() - stationary_degree_two(wrong, keep)) > 10 * error


def test_best_loss_is_the_loss_at_the_stationary_point():
    for p2, gain in product((0.2, 0.7), (0.3, 1.0, 4.0)):
        toy = TwoBlock(degree_one=0.9, degree_two=1.4, gain=gain)
        assert best_loss(toy, p2) == pytest.approx(expected_loss(toy, stationary_weights(toy, (1.0, p2)), (1.0, p2)))


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 1.0), (0.5, 1.0)])
def test_a_free_gain_gives_degree_two_up_below_the_critical_rate(a, b):
    # Minimised over u, v and g together, with no closed form: g runs to 0 below the critical rate and away above it.
    critical = critical_keep_rate(TwoBlock(degree_one=a, degree_two=b))
    for p2, recovered in [(critical - 0.15, False), (critical + 0.15, True)]:

        def loss(flat, p2=p2):
            toy = TwoBlock(degree_one=a, degree_two=b, gain=float(np.exp(flat[4])))
            return enumerated_loss(toy, flat[:4].reshape(2, 2), (1.0, p2))

        found = minimize(loss, [0.1, 0.5, 0.5, -0.5, 0.0], method="BFGS", options={"maxiter": 300, "gtol": 1e-7})
        learned = np.exp(found.x[4]) * found.x[1]
        assert learned == pytest.approx(b if recovered else 0.0, abs=0.05 * b)


def test_what_is_no_rate_or_gain_is_refused():
    with pytest.raises(InputError, match=r"keep rate 0 must be above 0"):
        stationary_degree_two(TwoBlock(), (1.0, 0.0))
    with pytest.raises(InputError, match=r"gain=0 lets block 2 make no second degree"):
        TwoBlock(gain=0.0)
    with pytest.raises(InputError, match="without scaling"):
        best_loss(TwoBlock(scaled=True), 0.5)
