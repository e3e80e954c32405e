"""Why dropping more layers *later* loses the higher-degree term: two residual blocks on {-1, +1}^3, solved exactly.

RaPTr (arXiv 2402.05913) has such a statement about a small two-layer residual net on a Boolean polynomial; its text
was not available to us. **The model here is our own construction**, the smallest we know in which it can be proved.

Target f*(x) = a x1 + b x2 x3. One scalar residual stream h (h0 = 0), to which both blocks add and whose end is the
output:

    h1 = z1 (u1 x1 + u2 x2),    f = h2 = h1 + z2 (v1 x1 + v2 x2 + g x3 h1),    z_i = zeta_i s_i

with independent gates zeta_i ~ Bernoulli(p_i), s_i = 1, or s_i = 1/p_i as PLD scales (`scaled`). Either block alone can
learn a x1. Only both together make x2 x3: block 1 writes x2 into the stream and block 2 multiplies the stream by g x3.
What block 1 writes is also read out when block 2 is missing: that is what dropping costs.

Expanded in monomials, with U = s1 u_i, V = s2 v_i, G = s2 g, the loss E (f - f*)^2 over uniform x and over gates is the
sum over the inputs i = 1, 2, with targets (alpha, beta) = (a, 0) and (0, b), of

    E (zeta1 U + zeta2 V - alpha)^2 + E (zeta1 zeta2 G U - beta)^2,

a convex quadratic in (U, V) for a fixed gain g. All that follows is its algebra:

1. Its only stationary point is U = (alpha (1 - p2) + p2 G beta) / (1 - p1 p2 + p2 G^2), V = alpha - p1 U.
   The full net then carries the degree-two coefficient g u2, `stationary_degree_two`. At g = 1, without scaling, it is
   b p2 / (1 + p2 (1 - p1)): below b unless p1 = p2 = 1, and exactly b p2 at p1 = 1, where degree one is exact at any
   p2.
2. Gradient flow forgets its start at `convergence_rate`, so what a schedule leaves behind is its *last* keep rates:
   growing to p = 1 ends at b, falling to p < 1 or running the same stages backwards ends below it.
3. If the gain is learned too, at p1 = 1 and without scaling the least loss either recovers degree two or gives it up
   altogether, depending on whether p2 exceeds `critical_keep_rate`.

What the model leaves out: more than two blocks; a stream of several coordinates, in which a feature can hide from the
readout; noise of minibatches. The flow keeps the gain fixed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp

from est_analysis.errors import InputError

Keep = tuple[float, float]  # p1, p2


@dataclass(frozen=True, kw_only=True)
class TwoBlock:
    """The target and the fixed parts of the net.

    Attributes:
        degree_one: a, coefficient of x1.
        degree_two: b, coefficient of x2 x3.
        gain: g > 0, with which block 2 multiplies the stream by x3.
        scaled: kept blocks are scaled by 1/p_i in training; the full net never is.
    """

    degree_one: float = 1.0
    degree_two: float = 1.0
    gain: float = 1.0
    scaled: bool = False

    def __post_init__(self) -> None:
        if not (self.gain > 0 and math.isfinite(self.gain)):
            raise InputError(f"gain={self.gain:g} lets block 2 make no second degree; use a positive number")

    def scales(self, keep: Keep) -> tuple[float, float]:
        """s1, s2 at these keep rates.

        Raises:
            InputError: a keep rate outside (0, 1].
        """
        for rate in keep:
            if not 0 < rate <= 1:
                raise InputError(f"keep rate {rate:g} must be above 0 and at most 1")
        return (1 / keep[0], 1 / keep[1]) if self.scaled else (1.0, 1.0)

    @property
    def targets(self) -> np.ndarray:
        """(2, 2): alpha (degree one) and beta (degree two, times x3) of the inputs x1 and x2."""
        return np.array([[self.degree_one, 0.0], [0.0, self.degree_two]])


def network(toy: TwoBlock, weights: np.ndarray, x: np.ndarray, gates: Keep = (1.0, 1.0)) -> np.ndarray:
    """The net's output, block after block: the definition, which the closed forms below are expansions of.

    Args:
        toy: the gain.
        weights: (2, 2), u = (u1, u2) of block 1, then v of block 2.
        x: (n, 3) of -1 and +1.
        gates: z1, z2; ones are the full net, 0 bypasses a block.

    Returns:
        (n,)

    >>> float(network(TwoBlock(), np.array([[0.0, 2.0], [1.0, -2.0]]), np.array([[1, -1, -1]]))[0])  # x1 + 2 x2 x3
    3.0
    """
    first = gates[0] * (x[:, :2] @ weights[0])
    return first + gates[1] * (x[:, :2] @ weights[1] + toy.gain * x[:, 2] * first)


def coefficients(toy: TwoBlock, weights: np.ndarray, gates: Keep = (1.0, 1.0)) -> np.ndarray:
    """The output as a polynomial.

    Returns:
        (..., 2, 2): coefficients of x1, x2, and of x1 x3, x2 x3, for weights (..., 2, 2). Other monomials do not occur.

    >>> coefficients(TwoBlock(gain=2.0), np.array([[0.0, 1.0], [1.0, -1.0]])).tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    u, v = weights[..., 0, :], weights[..., 1, :]
    return np.stack([gates[0] * u + gates[1] * v, gates[0] * gates[1] * toy.gain * u], axis=-2)


def expected_loss(toy: TwoBlock, weights: np.ndarray, keep: Keep) -> float:
    """E (f - f*)^2 over uniform inputs and over the gates, in closed form.

    Monomials are orthonormal under the uniform law, so it is the sum of squared coefficient errors, and
    E zeta_i^2 = p_i, E zeta1 zeta2 = p1 p2 leave second moments only.

    >>> expected_loss(TwoBlock(), np.array([[0.0, 1.0], [1.0, -1.0]]), (1.0, 1.0))  # the full net has learned f*
    0.0
    >>> expected_loss(TwoBlock(), np.array([[0.0, 1.0], [1.0, -1.0]]), (1.0, 0.5))  # block 2 missing: x1, x2 and x2 x3
    1.5
    """
    (p1, p2), (s1, s2) = keep, toy.scales(keep)
    big_u, big_v = s1 * weights[0], s2 * weights[1]
    alpha, beta = toy.targets
    made = s2 * toy.gain * big_u
    linear = p1 * big_u**2 + p2 * big_v**2 + 2 * p1 * p2 * big_u * big_v - 2 * alpha * (p1 * big_u + p2 * big_v)
    return float((linear + alpha**2 + p1 * p2 * (made**2 - 2 * beta * made) + beta**2).sum())


def hessian(toy: TwoBlock, keep: Keep) -> np.ndarray:
    """Second derivative of `expected_loss` in (u_i, v_i), the same for both inputs i: (2, 2).

    >>> hessian(TwoBlock(), (1.0, 1.0)).tolist()
    [[4.0, 2.0], [2.0, 2.0]]
    """
    (p1, p2), (s1, s2) = keep, toy.scales(keep)
    cross = p1 * p2 * s1 * s2
    return 2 * np.array([[p1 * s1**2 * (1 + p2 * (s2 * toy.gain) ** 2), cross], [cross, p2 * s2**2]])


def loss_gradient(toy: TwoBlock, weights: np.ndarray, keep: Keep) -> np.ndarray:
    """Gradient of `expected_loss`: (2, 2) like the weights.

    >>> loss_gradient(TwoBlock(), np.array([[0.0, 1.0], [1.0, -1.0]]), (1.0, 1.0)).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    (p1, p2), (s1, s2) = keep, toy.scales(keep)
    alpha, beta = toy.targets
    pull = np.stack([p1 * s1 * (alpha + p2 * s2 * toy.gain * beta), p2 * s2 * alpha])
    return hessian(toy, keep) @ weights - 2 * pull


def stationary_weights(toy: TwoBlock, keep: Keep) -> np.ndarray:
    """The only weights, (2, 2), at which the gradient of the masked loss vanishes: its minimum.

    >>> (stationary_weights(TwoBlock(), (1.0, 1.0)) + 0.0).tolist()
    [[0.0, 1.0], [1.0, -1.0]]
    """
    (p1, p2), (s1, s2) = keep, toy.scales(keep)
    alpha, beta = toy.targets
    big_gain = s2 * toy.gain
    big_u = (alpha * (1 - p2) + p2 * big_gain * beta) / (1 - p1 * p2 + p2 * big_gain**2)
    return np.stack([big_u / s1, (alpha - p1 * big_u) / s2])


def stationary_degree_two(toy: TwoBlock, keep: Keep) -> float:
    """Coefficient of x2 x3 in the *full* net at the masked loss's stationary point.

    It is b p2 G g / (s1 (1 - p1 p2 + p2 G^2)).
    Without scaling and at g = 1 it is b p2 / (1 + p2 (1 - p1)): at p1 = 1 the second degree shrinks by exactly p2.

    >>> [stationary_degree_two(TwoBlock(), keep) for keep in [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)]]
    [1.0, 0.5, 0.6666666666666666]
    >>> stationary_degree_two(TwoBlock(scaled=True), (1.0, 0.5))  # 1/p makes it worse
    0.4
    """
    return float(coefficients(toy, stationary_weights(toy, keep))[1, 1])


def stationary_degree_one(toy: TwoBlock, keep: Keep) -> float:
    """Coefficient of x1 in the *full* net at the stationary point: without scaling exactly a if p1 = 1 or p2 = 1.

    >>> [stationary_degree_one(TwoBlock(), keep) for keep in [(1.0, 0.25), (0.25, 1.0)]]
    [1.0, 1.0]
    """
    return float(coefficients(toy, stationary_weights(toy, keep))[0, 0])


def best_loss(toy: TwoBlock, second_keep: float) -> float:
    """Least masked loss over the weights at p1 = 1, p2 = `second_keep`, without scaling.

    It is (1 - p2) b^2, what block 1 alone cannot have, plus p2 (1 - p2) (a^2 g^2 + b^2) / (1 - p2 + p2 g^2). It is
    monotone in g^2, from b^2 at g = 0 to (1 - p2) (a^2 + b^2) as g grows: that makes `critical_keep_rate` sharp.

    >>> toy = TwoBlock(degree_two=2.0)
    >>> best_loss(toy, 0.5), round(expected_loss(toy, stationary_weights(toy, (1.0, 0.5)), (1.0, 0.5)), 12)
    (3.25, 3.25)

    Raises:
        InputError: the toy is scaled.
    """
    if toy.scaled:
        raise InputError("best_loss is derived without scaling; use scaled=False")
    p2, square = second_keep, toy.gain**2
    excess = toy.degree_one**2 * square + toy.degree_two**2
    return (1 - p2) * (toy.degree_two**2 + p2 * excess / (1 - p2 + p2 * square))


def critical_keep_rate(toy: TwoBlock) -> float:
    """The p2 below which a learned gain loses the second degree altogether: a^2 / (a^2 + b^2), at p1 = 1, unscaled.

    The derivative of `best_loss` in g^2 has the sign of a^2 (1 - p2) - b^2 p2. Below the critical rate the loss is
    least as g -> 0, where the full net's coefficient b p2 g^2 / (1 - p2 + p2 g^2) vanishes; above it as g grows, where
    the coefficient tends to b. The larger degree one is, the sooner degree two is given up for it.

    >>> critical_keep_rate(TwoBlock(degree_one=2.0, degree_two=1.0))
    0.8
    """
    return toy.degree_one**2 / (toy.degree_one**2 + toy.degree_two**2)


def convergence_rate(toy: TwoBlock, keep: Keep) -> float:
    """Rate at which gradient flow at fixed `keep` forgets where it was: the smallest eigenvalue of the Hessian.

    The distance to the stationary point shrinks at least as exp(-rate t).

    >>> round(convergence_rate(TwoBlock(), (1.0, 1.0)), 4)  # 3 - sqrt(5)
    0.7639
    """
    return float(np.linalg.eigvalsh(hessian(toy, keep))[0])


@dataclass(frozen=True, kw_only=True)
class KeepSchedule:
    """Keep rates over training time.

    Attributes:
        total_time: T.
        keep: time -> (p1, p2).
        breaks: times inside (0, T) at which the rates jump; `keep` at a break is the later stage's.
    """

    total_time: float
    keep: Callable[[float], Keep]
    breaks: tuple[float, ...] = ()


def staged(rates: Sequence[float], total_time: float) -> KeepSchedule:
    """Equal stages, in each of which both blocks are kept with the same rate.

    (1.0,) is the full net; 0.4, 0.6, 0.8, 1.0 is RaPTr's 6-8-10-12 of twelve layers, backwards the order control.

    >>> schedule = staged((0.4, 1.0), 10.0)
    >>> schedule.keep(4.9), schedule.keep(5.0), schedule.breaks
    ((0.4, 0.4), (1.0, 1.0), (5.0,))
    """
    count = len(rates)
    breaks = tuple(total_time * i / count for i in range(1, count))

    def keep(time: float) -> Keep:
        rate = rates[sum(time >= end for end in breaks)]
        return rate, rate

    return KeepSchedule(total_time=total_time, keep=keep, breaks=breaks)


def pld(theta: float, total_time: float) -> KeepSchedule:
    """PLD (arXiv 2010.13369) on two layers: p_i = 1 - (i/2) (1 - theta(t)).

    theta(t) falls from 1 to `theta` at the rate gamma = 100/T.

    theta = 0.6 keeps as many blocks in the limit, 0.7 of them, as 0.4, 0.6, 0.8, 1.0 does over time.

    >>> [round(rate, 6) for rate in pld(0.6, 10.0).keep(10.0)]
    [0.8, 0.6]
    """

    def keep(time: float) -> Keep:
        dropped = (1 - theta) * -math.expm1(-100 * time / total_time)
        return 1 - dropped / 2, 1 - dropped

    return KeepSchedule(total_time=total_time, keep=keep)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A path of gradient flow.

    Attributes:
        times: (n,).
        weights: (n, 2, 2).
    """

    times: np.ndarray
    weights: np.ndarray


def gradient_flow(toy: TwoBlock, schedule: KeepSchedule, *, start: np.ndarray | None = None, points: int = 201) -> Flow:
    """d weights / dt = -grad of the loss at the keep rates of time t, from `start` (zeros).

    Between jumps of the rates the right-hand side is smooth; integration starts anew at each.

    >>> path = gradient_flow(TwoBlock(), staged((0.5, 1.0), 60.0))
    >>> bool(abs(coefficients(TwoBlock(), path.weights[-1])[1, 1] - 1) < 1e-6)
    True
    """
    state = np.zeros(4) if start is None else np.asarray(start, dtype=float).ravel()
    grid = np.linspace(0.0, schedule.total_time, points)
    ends = [0.0, *schedule.breaks, schedule.total_time]
    times, states = [np.zeros(1)], [state[None]]
    for begin, end in pairwise(ends):
        inside = np.append(grid[(grid > begin) & (grid < end)], end)

        def velocity(time: float, flat: np.ndarray, last: float = math.nextafter(end, 0.0)) -> np.ndarray:
            # At the segment's own end the rates are those of the stage that ends there.
            return -loss_gradient(toy, flat.reshape(2, 2), schedule.keep(min(time, last))).ravel()

        found = solve_ivp(velocity, (begin, end), state, method="LSODA", t_eval=inside, rtol=1e-9, atol=1e-11)
        state = found.y[:, -1]
        times.append(found.t)
        states.append(found.y.T)
    return Flow(times=np.concatenate(times), weights=np.concatenate(states).reshape(-1, 2, 2))
