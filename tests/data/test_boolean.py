"""Polynomials on the cube against enumeration of its points, estimates against their exact mean and variance."""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.stats import chi2

from est_analysis.data import boolean
from est_analysis.data.boolean import (
    BooleanPolynomial,
    ComponentSums,
    component_errors,
    component_errors_exact,
    exact_coefficients,
    hypercube,
    num_basis_polynomials,
    random_polynomial,
    walsh_hadamard,
)
from est_analysis.errors import InputError
from est_analysis.rng import stream


def _polynomial(dimension=6, max_degree=4, terms=3, seed=0, **more):
    generator = stream(seed, "polynomial")
    return random_polynomial(dimension=dimension, max_degree=max_degree, terms=terms, generator=generator, **more)


def _truncated(f, max_degree):
    """Its terms of degree up to `max_degree`: what a network knows that has learned those and no others."""
    supports = tuple(support for support in f.supports if len(support) <= max_degree)
    kept = f.coefficients[f.degrees <= max_degree]
    return BooleanPolynomial(dimension=f.dimension, supports=supports, coefficients=kept)


def _subsets(dimension):
    """Every S, in the order of the bits of its number."""
    return [tuple(i for i in range(dimension) if number >> i & 1) for number in range(2**dimension)]


def _points(dimension):
    """Every point, in an order of its own."""
    return torch.tensor(list(itertools.product((1.0, -1.0), repeat=dimension)), dtype=torch.float64)


def _monomial(x, support):
    return x[..., list(support)].prod(-1)


def _random_points(*shape, seed=0):
    return torch.randint(2, shape, generator=stream(seed, "points")).double() * 2 - 1


# --- the polynomial ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8])
def test_the_basis_is_the_products_of_the_coordinates_exactly(dtype):
    f, x = _polynomial(include_constant=True), _points(6).to(dtype)
    expected = torch.stack([_monomial(x, support) for support in f.supports], dim=1)
    basis = f.basis(x)
    assert basis.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(basis.double(), expected.double())
    # 13 terms of order one: a few roundings.
    rounding = 1e-14 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(f(x).double(), expected.double() @ f.coefficients, rtol=0, atol=rounding)


def test_parity_is_exact_in_high_dimension():
    supports = (tuple(range(1000)), tuple(range(0, 1000, 2)), (999,))
    f = BooleanPolynomial(dimension=1000, supports=supports, coefficients=torch.ones(3).double())
    x = _random_points(50, 1000).float()
    assert torch.equal(f.basis(x), torch.stack([_monomial(x, support) for support in supports], dim=1))


def test_leading_axes():
    f, x = _polynomial(), _random_points(2, 3, 5, 6)
    assert f.basis(x).shape == (2, 3, 5, 12)
    alone = torch.stack([f(one) for one in x.flatten(0, 1)])
    torch.testing.assert_close(f(x).flatten(0, 1), alone, rtol=0, atol=1e-13)  # sums in another order


def test_degrees_and_variance():
    f = _polynomial(max_degree=4, terms=3, include_constant=True)
    assert f.degree == 4
    assert f.degrees.tolist() == [0] + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    values = f(_points(6))
    assert f.variance == pytest.approx(values.var(correction=0).item(), rel=1e-12)
    nothing = _truncated(_polynomial(), 0)
    assert (nothing.degree, nothing.variance) == (0, 0)
    assert not nothing(_points(6)).any()


# --- drawing one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "degree", "terms"), [(6, 6, 1), (5, 4, 5), (30, 5, 6), (100, 10, 20), (7, 6, 7)])
def test_every_degree_has_that_many_distinct_supports(dimension, degree, terms):
    f = _polynomial(dimension, degree, terms)
    assert Counter(map(len, f.supports)) == dict.fromkeys(range(1, degree + 1), terms)
    assert len(set(f.supports)) == degree * terms


def _uniform(sets, dimension, degree, terms):
    """Chi-square at level 1e-5 of the sets of supports against the uniform law over all such sets."""
    cells = list(itertools.combinations(itertools.combinations(range(dimension), degree), terms))
    counts, mean = Counter(frozenset(each) for each in sets), len(sets) / len(cells)
    statistic = sum((counts[frozenset(cell)] - mean) ** 2 / mean for cell in cells)
    return statistic < chi2.ppf(1 - 1e-5, len(cells) - 1)


@pytest.mark.parametrize("terms", [2, 4], ids=["drawn again", "shuffled"])
def test_supports_are_uniform_without_replacement(terms):
    """Of the 6 pairs of 4 variables: 15 sets of two and 15 of four, each way of drawing them."""
    drawn = [_polynomial(4, 2, terms, seed=seed).supports[terms:] for seed in range(900)]
    assert _uniform(drawn, 4, 2, terms)
    # Planted: one of the sets takes the place of another.
    favourite, victim = frozenset(drawn[0]), frozenset(next(each for each in drawn if set(each) != set(drawn[0])))
    assert not _uniform([favourite if set(each) == victim else each for each in drawn], 4, 2, terms)


def test_laws_of_coefficients():
    normal = _polynomial(40, 4, 25).coefficients
    # 100 numbers: mean 0 +- 0.1, mean square 1 +- 0.14.
    assert abs(normal.mean()) < 0.45
    assert normal.square().mean().item() == pytest.approx(1, abs=0.63)
    signs = _polynomial(40, 4, 25, law="sign").coefficients
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.45
    assert set(_polynomial(law="equal").coefficients.tolist()) == {1.0}


def test_the_generator_decides_and_nothing_else():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = (_polynomial(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.supports == again.supports
    assert torch.equal(one.coefficients, again.coefficients)
    assert one.supports != other.supports


@pytest.mark.parametrize(("d", "degree", "count"), [(5, 0, 1), (5, 2, 10), (5, 5, 1), (5, 6, 0), (100, 2, 4950)])
def test_num_basis_polynomials(d, degree, count):
    assert num_basis_polynomials(d, degree) == count


# --- the whole cube ---------------------------------------------------------------------------------------------------


def test_the_hypercube_holds_every_point_once():
    points = hypercube(5)
    assert points.shape == (32, 5)
    assert set(map(tuple, points.tolist())) == set(itertools.product((1.0, -1.0), repeat=5))
    for number, point in enumerate(points):
        assert [value < 0 for value in point] == [bool(number >> i & 1) for i in range(5)]


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_walsh_hadamard_is_the_sum_over_points(dimension):
    values = torch.randn(3, 2**dimension, dtype=torch.float64, generator=stream(0, "values"))
    kept, points = values.clone(), hypercube(dimension).double()
    expected = torch.stack([(values * _monomial(points, s)).sum(-1) for s in _subsets(dimension)], dim=-1)
    torch.testing.assert_close(walsh_hadamard(values), expected, rtol=0, atol=1e-13)
    assert torch.equal(values, kept)
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(values)), 2**dimension * values, rtol=0, atol=1e-12)


def test_walsh_hadamard_of_integers_is_exact_and_takes_any_layout():
    values = torch.randint(-9, 9, (16, 3), generator=stream(0, "values"))
    assert torch.equal(walsh_hadamard(walsh_hadamard(values.T)), 16 * values.T)
    assert walsh_hadamard(torch.ones(1)).tolist() == [1]


@pytest.mark.parametrize("dimension", [1, 4, 6])
@pytest.mark.parametrize("chunk", [1000, 7])
def test_exact_coefficients_against_enumeration(dimension, chunk):
    weights = torch.randn(dimension, dtype=torch.float64, generator=stream(0, "w"))

    def function(x):  # has every monomial
        return torch.exp(0.3 * x.double() @ weights) + x[:, 0]

    points = _points(dimension)
    expected = [(function(points) * _monomial(points, s)).mean().item() for s in _subsets(dimension)]
    found = exact_coefficients(function, dimension, chunk=chunk)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)


def test_exact_coefficients_of_a_polynomial_are_its_own():
    f = _polynomial(include_constant=True)
    own = dict(zip(f.supports, f.coefficients.tolist(), strict=True))
    for support, found in zip(_subsets(6), exact_coefficients(f, 6).tolist(), strict=True):
        assert found == pytest.approx(own.get(support, 0.0), abs=1e-6)  # evaluated in float32


def test_exact_errors():
    f = _polynomial()
    extra = BooleanPolynomial(
        dimension=6, supports=((), (0, 1, 2, 3, 4)), coefficients=torch.tensor([2.0, 0.5]).double()
    )
    assert not set(extra.supports) & set(f.supports)

    def functions(x):  # all of it; degrees 1 and 2; half of each coefficient and something else; nothing
        x = x.double()
        return torch.stack([f(x), _truncated(f, 2)(x), 0.5 * f(x) + extra(x), torch.zeros(len(x)).double()])

    found = component_errors_exact(functions, f, chunk=10)
    assert found.degrees == (1, 2, 3, 4)
    expected = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0.25] * 4, [1] * 4], dtype=torch.float64)
    torch.testing.assert_close(found.error, expected, rtol=0, atol=1e-13)
    assert found.off_support.tolist() == pytest.approx([0, 0, 4.25, 0], abs=1e-13)
    high = f.variance - _truncated(f, 2).variance
    assert found.mse.tolist() == pytest.approx([0, high, f.variance / 4 + 4.25, f.variance], abs=1e-12)
    assert not found.stderr.any()
    assert found.samples == 64


# --- estimates --------------------------------------------------------------------------------------------------------


def _learner():
    """A polynomial of degree 3 and a function that knows degree 1, half knows degree 2 and adds things of its own."""
    f = _polynomial(7, 3, 4, seed=3)
    factors = torch.tensor([1.0] * 4 + [0.6] * 4 + [0.0] * 4, dtype=torch.float64)
    off = [s for s in _subsets(7) if s not in f.supports][::9]
    known = BooleanPolynomial(dimension=7, supports=f.supports, coefficients=factors * f.coefficients)
    noise = torch.linspace(-0.5, 0.6, len(off), dtype=torch.float64)
    return f, known, BooleanPolynomial(dimension=7, supports=tuple(off), coefficients=noise)


def _exact_variance(f, function, degree, n):
    """Variance of the unbiased estimate of |delta|^2 / |c|^2 for `degree` from n points: that of a U-statistic.

    Its kernel v.v' has projection v.delta: 4 (n - 2) Var(v.delta) / (n (n - 1)) + 2 Var(v.v') / (n (n - 1)), by
    enumerating all points and all pairs of points.
    """
    x, block = _points(f.dimension), f.degrees == degree
    v = (function(x) - f(x))[:, None] * f.basis(x)[:, block]
    projection, kernel = (v @ v.mean(0)).var(correction=0), (v @ v.T).var(correction=0)
    variance = (4 * (n - 2) * projection + 2 * kernel) / (n * (n - 1))
    return variance.item() / f.coefficients[block].square().sum().item() ** 2


def _unbiased(estimates, truth, variance):
    """The mean of independent estimates of known variance is within 4.5 standard errors of the truth."""
    return abs(estimates.mean().item() - truth) < 4.5 * math.sqrt(variance / len(estimates))


N, REPEATS = 60, 3000


@pytest.fixture(scope="module")
def repeated():
    """The estimates of 3000 independent sets of 60 points, and the exact answer."""
    f, known, off = _learner()

    def function(x):
        return known(x.double()) + off(x.double())

    x = _random_points(REPEATS, N, 7)
    return f, function, x, component_errors(function(x), x, f), component_errors_exact(function, f)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_error_is_unbiased_and_the_square_of_the_estimate_is_not(repeated, index):
    f, function, x, found, exact = repeated
    truth, variance = exact.error[index].item(), _exact_variance(f, function, index + 1, N)
    assert truth == pytest.approx([0, 0.16, 1][index], abs=1e-12)
    assert _unbiased(found.error[:, index], truth, variance)
    # Planted: (c_hat - c)^2 as it is.
    block = f.degrees == index + 1
    means = ((function(x) - f(x))[..., None] * f.basis(x)).mean(-2)[:, block]
    mutant = means.square().sum(-1) / f.coefficients[block].square().sum()
    assert not _unbiased(mutant, truth, variance)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_stderr_is_the_spread_of_the_estimates(repeated, index):
    f, function, _, found, _ = repeated
    variance = _exact_variance(f, function, index + 1, N)
    # The variance of 3000 estimates with heavy tails is known to about 5 %.
    assert found.error[:, index].var().item() == pytest.approx(variance, rel=0.15)
    estimated = found.stderr[:, index].square().mean().item() / variance
    # Degree 1 is learned: what is left of its noise is never taken to be less than it is, and with 4 terms often more.
    assert (1 if index == 0 else 0.75) < estimated < (2 if index == 0 else 1.25)


def test_off_support_and_mse_are_unbiased(repeated):
    _, _, _, found, exact = repeated
    for name in ("off_support", "mse"):
        values, truth = getattr(found, name), getattr(exact, name).item()
        assert _unbiased(values, truth, values.var().item())
        assert not _unbiased(values + 0.05 * truth, truth, values.var().item())
    assert exact.off_support.item() > 0.5


def test_stderr_of_many_points_falls_as_their_root(repeated):
    f, function, *_ = repeated
    few, many = (component_errors(function(x), x, f) for x in (_random_points(n, 7) for n in (4000, 64_000)))
    assert (few.stderr / many.stderr)[1:].tolist() == pytest.approx([4, 4], rel=0.1)
    exact = [_exact_variance(f, function, degree, 64_000) ** 0.5 for degree in (1, 2, 3)]
    assert many.stderr.tolist() == pytest.approx(exact, rel=0.1)
    truth = torch.tensor([0, 0.16, 1], dtype=torch.float64)
    assert ((many.error - truth).abs() < 4.5 * many.stderr).all()


def test_each_point_once_gives_the_closed_form():
    """Over the whole cube D_S is delta_S itself, so U_S = (n delta_S^2 - E r^2) / (n - 1) without chance."""
    f = _polynomial()
    low = _truncated(f, 2)
    found, x = component_errors(low(_points(6)), _points(6), f), _points(6)
    rest, n = f.variance - low.variance, 64
    norms = torch.stack([f.coefficients[f.degrees == degree].square().sum() for degree in (1, 2, 3, 4)])
    delta = torch.tensor([0.0, 0.0, 1.0, 1.0]).double() * norms
    torch.testing.assert_close(found.error, (n * delta - 3 * rest) / (n - 1) / norms, rtol=0, atol=1e-12)
    assert found.mse.item() == pytest.approx(rest, rel=1e-12)
    assert found.samples == len(x)


def test_what_is_learned_perfectly_has_error_0_without_any_doubt():
    f, x = _polynomial(30, 5, 6), _random_points(100, 30)
    found = component_errors(f(x), x, f)
    for value in (found.error, found.stderr, found.off_support, found.mse):
        assert value.abs().max() < 1e-14


def test_a_truncated_polynomial_in_a_dimension_too_large_to_enumerate():
    f = _polynomial(100, 6, 10)
    x = _random_points(20_000, 100).float()
    found = component_errors(_truncated(f, 3)(x), x, f)
    truth = torch.tensor([0, 0, 0, 1, 1, 1]).double()
    assert ((found.error - truth).abs() < 4.5 * found.stderr).all()
    assert found.stderr.max() < 0.06
    assert abs(found.off_support) < 0.05 * found.mse


@pytest.mark.parametrize("chunk", [1, 100, 10**9])
def test_neither_chunks_nor_company_change_an_estimate(monkeypatch, chunk):
    f, x = _polynomial(), _random_points(4, 50, 6)
    outputs = torch.randn(4, 50, dtype=torch.float64, generator=stream(0, "outputs"))
    one_by_one = [component_errors(o, p, f) for o, p in zip(outputs, x, strict=True)]
    monkeypatch.setattr(boolean, "_CHUNK", chunk)
    together, shared = component_errors(outputs, x, f), component_errors(outputs, x[0], f)
    assert together.samples == 50
    for name in ("error", "stderr", "off_support", "mse"):
        alone = torch.stack([getattr(each, name) for each in one_by_one])
        torch.testing.assert_close(getattr(together, name), alone, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(getattr(shared, name)[0], alone[0], rtol=1e-10, atol=1e-12)


def test_sums_may_be_added_to_at_any_time():
    f, x = _polynomial(), _random_points(50, 6)
    sums, outputs = ComponentSums(f), torch.cos(x @ torch.arange(6).double())
    sums.add(outputs[:20], x[:20]).result()
    found, whole = sums.add(outputs[20:], x[20:]).result(), component_errors(outputs, x, f)
    torch.testing.assert_close(found.error, whole.error, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.stderr, whole.stderr, rtol=1e-12, atol=1e-12)


# --- refusals ---------------------------------------------------------------------------------------------------------

ONE = torch.ones(1).double()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _polynomial(5, 6, 1), "degree 6 is above the dimension; use at most 5"),
        (lambda: _polynomial(5, 3, 6), "5 variables have 5 monomials of degree 1, not 6; use at most 5 terms"),
        (lambda: _polynomial(5, 5, 5), "5 variables have 1 monomials of degree 5, not 5; use at most 1 terms"),
        (lambda: _polynomial(5, 3, 0), "0 terms of degrees up to 3 make no polynomial; use at least 1 of each"),
        (lambda: _polynomial(5, 0, 1), "1 terms of degrees up to 0 make no polynomial"),
        (lambda: _polynomial(law="norml"), "unknown coefficient law 'norml': did you mean 'normal'"),
        (lambda: BooleanPolynomial(dimension=2, supports=((2,),), coefficients=ONE), "(2,) is not a support in 2"),
        (lambda: BooleanPolynomial(dimension=2, supports=((1, 0),), coefficients=ONE), "(1, 0) is not a support"),
        (lambda: BooleanPolynomial(dimension=2, supports=((0, 0),), coefficients=ONE), "(0, 0) is not a support"),
        (lambda: BooleanPolynomial(dimension=2, supports=((-1,),), coefficients=ONE), "(-1,) is not a support"),
        (lambda: BooleanPolynomial(dimension=0, supports=(), coefficients=ONE), "a cube of dimension 0 has no points"),
        (
            lambda: BooleanPolynomial(dimension=2, supports=((0,), (0,)), coefficients=torch.ones(2).double()),
            "a support occurs twice",
        ),
        (lambda: BooleanPolynomial(dimension=2, supports=((0,), (1,)), coefficients=ONE), "do not fit 2 supports"),
        (lambda: BooleanPolynomial(dimension=2, supports=((0,),), coefficients=ONE.float()), "one float64 number"),
        (lambda: hypercube(17), "dimension 17 is not enumerated; use 1 to 16, or component_errors"),
        (lambda: hypercube(0), "dimension 0 is not enumerated"),
        (lambda: exact_coefficients(lambda x: x[:, 0], 20), "dimension 20 is not enumerated"),
        (lambda: walsh_hadamard(torch.ones(6)), "6 values are not those of a cube; their number must be a power of 2"),
        (lambda: walsh_hadamard(torch.ones(0)), "0 values are not those of a cube"),
        (lambda: component_errors(torch.ones(1), _random_points(1, 6), _polynomial()), "1 points give no unbiased"),
        (lambda: component_errors(torch.ones(4), _random_points(5, 6), _polynomial()), "4 values do not belong to"),
        (lambda: component_errors(torch.ones(5), _random_points(5, 7), _polynomial()), "in 6 dimensions"),
        (
            lambda: component_errors(torch.ones(3, 5), _random_points(2, 5, 6), _polynomial()),
            "values of shape (3, 5) do not belong to points of shape (2, 5, 6)",
        ),
        (
            lambda: component_errors(torch.ones(5), _random_points(5, 6), _truncated(_polynomial(), 0)),
            "zero polynomial",
        ),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(InputError) as caught:
        build()
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
