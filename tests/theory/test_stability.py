import numpy as np
import pytest
from scipy.stats import multivariate_normal

from est_analysis.errors import InputError
from est_analysis.theory.stability import (
    gelu_kernel,
    loss_gap_bound,
    mean_psi_bound,
    psi_norm,
    psi_residual,
    psi_residual_norm,
    psi_residual_norm_kernel,
)

PREDICTED = {(True, True): psi_residual_norm, (True, False): psi_residual, (False, True): psi_norm}


def simulated_psi(depth, width, generator, *, residual, norm):
    """Psi_l of one random linear net, every bypassed net run from the input on, in float64."""
    weights = generator.normal(size=(depth, width, width)) / np.sqrt(width)
    x = generator.choice([-1.0, 1.0], size=width)

    def run(without):
        y = x
        for number, weight in enumerate(weights):
            if number != without:
                normed = (y - y.mean()) / y.std() if norm else y
                y = weight @ normed + (y if residual else 0)
        return y

    full = run(None)
    return np.array([np.linalg.norm(run(layer) - full) for layer in range(depth)]) / np.linalg.norm(full)


@pytest.mark.parametrize(("residual", "norm"), list(PREDICTED))
def test_the_limit_is_what_wide_random_nets_do(residual, norm):
    depth, width, nets = 6, 400, 24
    generator = np.random.default_rng(0)
    found = np.stack([simulated_psi(depth, width, generator, residual=residual, norm=norm) for _ in range(nets)])
    error = found.std(axis=0, ddof=1) / np.sqrt(nets)
    # The width leaves a bias of relative size depth / width, with a factor of order one.
    allowed = 4 * error + depth / width
    assert np.all(np.abs(found.mean(axis=0) - PREDICTED[residual, norm](depth)) < allowed)
    # Planted: the limits of the other variants lie outside.
    others = [law(depth) for variant, law in PREDICTED.items() if variant != (residual, norm)]
    assert all(np.any(np.abs(found.mean(axis=0) - other) > 2 * allowed) for other in others)


def gram(depth, layer, *, residual, norm):
    """Covariance (2, 2) of the full and the bypassed stream in the limit, layer by layer."""
    cov = np.ones((2, 2))
    for number in range(1, depth + 1):
        unit = np.sqrt(np.outer(np.diag(cov), np.diag(cov))) if norm else np.ones((2, 2))
        branch = cov / unit
        if number == layer:
            # The bypassed copy keeps its stream; the full one's branch is orthogonal to it.
            grown = cov[0, 0] * residual + branch[0, 0]
            cov = np.array([[grown, cov[0, 1] * residual], [cov[0, 1] * residual, cov[1, 1]]])
        else:
            cov = cov * residual + branch
    return cov


@pytest.mark.parametrize(("residual", "norm"), list(PREDICTED))
@pytest.mark.parametrize("depth", [1, 2, 7, 40])
def test_closed_forms_equal_the_recursion_of_the_covariance(residual, norm, depth):
    found = []
    for layer in range(1, depth + 1):
        cov = gram(depth, layer, residual=residual, norm=norm)
        found.append(np.sqrt((cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]) / cov[0, 0]))
    np.testing.assert_allclose(PREDICTED[residual, norm](depth), found, rtol=1e-9)


def test_a_single_layer_by_hand():
    assert psi_residual_norm(1) == pytest.approx([1 / np.sqrt(2)])
    # L = 2, layer 1 bypassed: q = 3, q' = 2, c = 1 + 1/sqrt(2).
    assert psi_residual_norm(2) == pytest.approx([np.sqrt((5 - 2 * (1 + np.sqrt(0.5))) / 3), np.sqrt(1 / 3)])


@pytest.mark.parametrize("depth", [1, 2, 8, 64, 1000])
def test_bounds_of_the_derivation_hold(depth):
    layer, psi = np.arange(1, depth + 1), psi_residual_norm(depth)
    assert np.all(psi**2 < 2 / (2 * layer + 1))
    assert psi[-1] == pytest.approx(1 / np.sqrt(depth + 1))
    assert psi.mean() < mean_psi_bound(depth)


def test_the_bounds_are_reached_in_the_limit():
    depths = np.array([100, 400, 1600, 6400])
    short = [1 - psi_residual_norm(depth).mean() / mean_psi_bound(depth) for depth in depths]
    # 2/sqrt(L) - 2/L: the relative gap is 1/sqrt(L), up to a factor near one.
    assert np.asarray(short) * np.sqrt(depths) == pytest.approx(1.0, abs=0.1)
    psi = psi_residual_norm(6400)
    assert 1000 * psi[999] ** 2 == pytest.approx(1, abs=1e-3)  # off by -1/(2 l) and -1/(2 L)


def test_gelu_kernel_is_the_bivariate_expectation():
    def gelu(z):
        return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))

    # A sum over a grid of step 0.1 integrates a smooth, fast-decaying function to rounding; 8 sigma hold all but 1e-15.
    grid = np.arange(-8, 8.05, 0.1)
    z, other = np.meshgrid(grid, grid)
    for rho in (-0.5, 0.0, 0.6, 0.9):
        density = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).pdf(np.dstack([z, other]))
        integral = np.sum(gelu(z) * gelu(other) * density) * 0.1**2
        assert np.polynomial.polynomial.polyval(rho, gelu_kernel()) == pytest.approx(integral, abs=1e-10)


def test_gelu_nets_do_what_their_kernel_says():
    generator, depth, width, nets = np.random.default_rng(1), 4, 400, 16
    found = []
    for _ in range(nets):
        first, second = generator.normal(size=(2, depth, width, width)) / np.sqrt(width)
        x = generator.choice([-1.0, 1.0], size=width)

        def run(without, first=first, second=second, x=x):
            y = x
            for number in range(depth):
                if number != without:
                    z = first[number] @ ((y - y.mean()) / y.std())
                    y = y + second[number] @ (0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))))
            return y

        full = run(None)
        found.append([np.linalg.norm(run(layer) - full) / np.linalg.norm(full) for layer in range(depth)])
    found = np.array(found)
    allowed = 4 * found.std(axis=0, ddof=1) / np.sqrt(nets) + depth / width
    assert np.all(np.abs(found.mean(axis=0) - psi_residual_norm_kernel(depth, gelu_kernel())) < allowed)
    assert np.any(np.abs(found.mean(axis=0) - psi_residual_norm(depth)) > 2 * allowed)  # planted: the linear kernel


def test_the_theorem_holds_on_nets_whose_loss_is_relatively_lipschitz():
    generator = np.random.default_rng(2)
    for _ in range(20):
        full, target = generator.normal(size=(2, 30))
        bypassed = full + generator.normal(size=(9, 30)) * generator.uniform(0, 2)
        # The distance to a target is 1-Lipschitz, so relative to ||F|| its constant is ||F||.
        loss, losses = np.linalg.norm(full - target), np.linalg.norm(bypassed - target, axis=1)
        psi = np.linalg.norm(bypassed - full, axis=1) / np.linalg.norm(full)
        assert abs(loss - losses.mean()) <= loss_gap_bound(np.linalg.norm(full), psi) + 1e-12
    # Attained where every bypassed output moves straight away from the target.
    full, target = np.array([3.0, 4.0]), np.zeros(2)
    bypassed = full * np.array([[1.1], [1.3]])
    gap = np.linalg.norm(bypassed - target, axis=1).mean() - np.linalg.norm(full)
    assert gap == pytest.approx(loss_gap_bound(5.0, np.array([0.1, 0.3])))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(InputError, match="depth=0 has no layer to bypass"):
        psi_residual_norm(0)
    with pytest.raises(InputError, match="mu=-1 is no Lipschitz constant"):
        loss_gap_bound(-1.0, np.ones(2))
