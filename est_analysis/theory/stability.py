"""How far the output of a deep net at initialisation moves when one layer is bypassed (RaPTr, arXiv 2402.05913).

    Psi_l = ||F_-l(x) - F(x)|| / ||F(x)||,    |L2 - L1| <= (mu / L) sum_l E Psi_l

L1 is the mean loss with one uniformly chosen layer bypassed, L2 the full net's. The norm in Psi_l is as we recall it,
not verified in the paper. The paper's lemma for linear residual nets at random initialisation: the right-hand side is
O(1/sqrt L) with residual connections and layer norms, and Omega(1) if either is missing.

Here the lemma is sharpened to exact values at infinite width (our derivation). In layer j,
y_j = y_{j-1} + W_j LN(y_{j-1}) with W_j ~ N(0, 1/width). Let q = |y|^2 / width, q' the same of the copy y' that
bypasses layer l, and c = <y, y'> / width. In wide layers <W a, W b> / width tends to <a, b> / width and <W a, b> /
width to 0, since W is independent of all before it. So (q, q', c) becomes deterministic, and as |LN y|^2 = width a
layer adds (1, 1, c / sqrt(q q')) to it. Inputs have q = 1. F is the end of the residual stream; a final norm
is left out.
"""

import math

import numpy as np

from est_analysis.errors import InputError


def psi_residual_norm(depth: int) -> np.ndarray:
    """Psi_1..Psi_L of y + W LN(y), (L,): sqrt((2 L + 1 - 2 c) / (L + 1)), c = l prod_{j=l+1}^{L} (1 + 1/sqrt(j (j-1))).

    q_j = j + 1 in the full net. Where layer l is bypassed, y' = y_{l-1} and y_l = y' + something orthogonal, so that
    q' = c = l. From there q' = j and q = j + 1 after layer j, which multiplies c by
    1 + 1/sqrt(q_{j-1} q'_{j-1}) = 1 + 1/sqrt(j (j-1)).

    Since 1/sqrt(j (j-1)) >= 1/(j - 1/2), the product is at least (2 L + 1)/(2 l + 1), hence
    Psi_l^2 < 2/(2 l + 1) < 1/l; and l Psi_l^2 -> 1 as l grows.

    >>> psi_residual_norm(64)[[0, 31, 63]].round(3).tolist()
    [0.783, 0.174, 0.124]
    """
    layer = np.arange(1, _checked(depth) + 1)
    factors = 1 + 1 / np.sqrt(layer[1:] * (layer[1:] - 1.0))
    grown = np.append(np.cumprod(factors[::-1])[::-1], 1.0)  # over the layers after l
    # The last layer's difference is exactly 1, the others' are far from 0: no cancellation to speak of.
    return np.sqrt((2 * depth + 1 - 2 * layer * grown) / (depth + 1))


def psi_residual(depth: int) -> np.ndarray:
    """Psi_1..Psi_L of y + W y (no norm), (L,): 1/sqrt(2), whatever the depth.

    Each layer doubles q, q' and c alike, so Psi_l^2 = (q + q' - 2 c)/q keeps the value it has at layer l, where
    q = 2 q' = 2 c.

    >>> psi_residual(2).round(4).tolist()
    [0.7071, 0.7071]
    """
    return np.full(_checked(depth), math.sqrt(0.5))


def psi_norm(depth: int) -> np.ndarray:
    """Psi_1..Psi_L of W LN(y) (no residual connection), (L,): sqrt(2), whatever the depth.

    Where layer l is bypassed, y_l = W LN(y_{l-1}) is orthogonal to y' = y_{l-1}, both of q = 1; linear layers keep
    c = 0.

    >>> psi_norm(2).round(4).tolist()
    [1.4142, 1.4142]
    """
    return np.full(_checked(depth), math.sqrt(2.0))


def psi_residual_norm_kernel(depth: int, kernel: np.ndarray) -> np.ndarray:
    """Psi_1..Psi_L of y + B(LN(y)) for any random branch, (L,), from the branch's covariance function.

    A layer adds (K(1), K(1), K(rho)) to (q, q', c), rho = c / sqrt(q q') being the correlation of the two streams.

    Args:
        depth: L.
        kernel: K as coefficients of 1, rho, rho^2, ...; [0, 1] is the linear branch W LN(y).

    >>> bool(np.allclose(psi_residual_norm_kernel(32, np.array([0.0, 1.0])), psi_residual_norm(32)))
    True
    """
    step = float(np.sum(kernel))  # K(1)
    full, bypassed, cross = 1.0, np.zeros(_checked(depth)), np.zeros(depth)
    for layer in range(depth):
        rho = cross[:layer] / np.sqrt(full * bypassed[:layer])
        cross[:layer] += np.polynomial.polynomial.polyval(rho, kernel)
        bypassed[:layer] += step
        bypassed[layer] = cross[layer] = full
        full += step
    return np.sqrt((full + bypassed - 2 * cross) / full)


def gelu_kernel(order: int = 60) -> np.ndarray:
    """Covariance of the MLP branch W2 gelu(W1 LN(y)), weights N(0, 1/fan_in), as coefficients of powers of rho.

    E gelu(z) gelu(z') = sum_k a_k^2 rho^k for standard normal z, z' of correlation rho (Mehler's formula), a_k being
    gelu's coefficients in normalised Hermite polynomials, by Gauss-Hermite quadrature. GELU in the tanh form of GPT-2.

    >>> gelu_kernel()[:3].round(4).tolist()  # (E gelu)^2, then 1/4: the part odd in z is z/2
    [0.0795, 0.25, 0.0895]
    """
    z, weight = np.polynomial.hermite_e.hermegauss(150)
    values = weight / weight.sum() * 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    polynomial, lower, found = np.ones_like(z), np.zeros_like(z), []
    for k in range(order):
        found.append(values @ polynomial)
        polynomial, lower = (z * polynomial - math.sqrt(k) * lower) / math.sqrt(k + 1), polynomial
    return np.square(found)


def mean_psi_bound(depth: int) -> float:
    """2/sqrt(L): at infinite width no less than the mean of `psi_residual_norm`, and its leading term for large L.

    (1/L) sum_l Psi_l < (1/L) sum_l 1/sqrt(l) < 2/sqrt(L). The mean falls more slowly at first, about as
    2/sqrt(L) - 2/L, so that a power law fitted to depths below a hundred has an exponent nearer to 0.4 than to 1/2.

    >>> mean_psi_bound(64), round(float(psi_residual_norm(64).mean()), 3)
    (0.25, 0.218)
    """
    return 2 / math.sqrt(_checked(depth))


def loss_gap_bound(mu: float, psi: np.ndarray) -> float:
    """The theorem: (mu / L) sum_l E Psi_l, which |L2 - L1| does not exceed.

    The loss is relatively Lipschitz, |loss(F_-l) - loss(F)| <= mu ||F_-l - F|| / ||F||, and L2 - L1 is the mean over l
    of loss(F) - loss(F_-l): the triangle inequality. It bounds the gap's size and says nothing about its sign.

    Args:
        mu: the Lipschitz constant, in the loss's unit.
        psi: (L,), E Psi_l.

    >>> loss_gap_bound(3.0, np.array([0.1, 0.3]))
    0.6000000000000001
    """
    if mu < 0:
        raise InputError(f"mu={mu:g} is no Lipschitz constant; use 0 or more")
    return mu * float(np.mean(psi))


def _checked(depth: int) -> int:
    if depth < 1:
        raise InputError(f"depth={depth} has no layer to bypass; use at least 1")
    return depth
