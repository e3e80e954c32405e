"""RaPTr's theory, computed: the theorem on stage transitions, the lemma on depth, and why dropping late loses a degree.

No run is read. The theorem (arXiv 2402.05913) is tried on random nets and a loss whose constant is known beforehand.
The lemma is sharpened to exact values at infinite width (`theory.stability`), and the two residual blocks are our own
construction, solved exactly (`theory.two_block`). All of it was known when these thresholds were written.
"""

from functools import partial
from math import inf, sqrt
from typing import Any

import numpy as np

from .analytic import exact_claim
from .claim import Measured

_PAPER = "RaPTr, arXiv 2402.05913"
_LEMMA = "ours: exact values at infinite width for the lemma on linear residual nets at random initialisation"
_BLOCKS = "ours: the smallest net in which what the paper says of PLD and higher degrees can be solved exactly"
_DEPTHS = tuple(2**power for power in range(1, 13))
_KINDS = {"residual + norm": (True, True), "no norm": (True, False), "no residual": (False, True)}
_TIME = 100.0  # of gradient flow: stages long enough to forget their start
_KEEP_RATES, _GAINS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.5, 1.0, 2.0)


def _exact(effect: float, unit: str, detail: str) -> Measured:
    return Measured(effect=effect, interval=(effect, effect), unit=unit, seeds=0, detail=detail)


def run_net(
    weights: np.ndarray, x: np.ndarray, *, residual: bool, norm: bool, bypassed: int | None = None
) -> np.ndarray:
    """The end of a linear net whose layers add W LN(y) to y.

    Args:
        weights: (L, width, width).
        x: (n, width) inputs.
        residual: False: layers replace y.
        norm: False: layers read y itself.
        bypassed: the layer that is left out.

    Returns:
        (n, width)
    """
    for layer, matrix in enumerate(weights):
        if layer != bypassed:
            read = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True)) if norm else x
            x = (x if residual else 0) + read @ matrix.T
    return x


def bound_used(evidence: Any) -> Measured:
    """The largest |L2 - L1| over mu / L sum Psi among random nets; the loss is the distance to a target.

    Its relative Lipschitz constant is the longest output: | |F' - t| - |F - t| | <= |F' - F| <= max |F| |F' - F| / |F|.
    """
    from est_analysis.theory.stability import loss_gap_bound

    random, used, width, points = np.random.default_rng(0), {}, 32, 16
    for kind, (residual, norm) in _KINDS.items():
        for depth in (2, 6, 12, 24):
            weights = random.normal(size=(depth, width, width)) / sqrt(width)
            x, target = random.normal(size=(2, points, width))
            ends = [
                run_net(weights, x, residual=residual, norm=norm, bypassed=layer) for layer in (None, *range(depth))
            ]
            lengths = np.linalg.norm(ends[0], axis=1)
            psi = [np.mean(np.linalg.norm(end - ends[0], axis=1) / lengths) for end in ends[1:]]
            losses = [np.mean(np.linalg.norm(end - target, axis=1)) for end in ends]
            gap = abs(losses[0] - np.mean(losses[1:]))
            used[f"{kind}, {depth} layers"] = gap / loss_gap_bound(lengths.max(), np.array(psi))
    most = max(used, key=used.__getitem__)
    detail = f"{len(used)} random nets of 2 to 24 layers; most in {most}"
    return _exact(used[most], "of the bound", detail)


def depth_factor(evidence: Any) -> Measured:
    """The largest mean Psi times sqrt(L), with residual connections and norm."""
    from est_analysis.theory.stability import psi_residual_norm

    factors = {depth: sqrt(depth) * float(psi_residual_norm(depth).mean()) for depth in _DEPTHS}
    each = ", ".join(f"{factors[depth]:.3f} at {depth}" for depth in (8, 64, 512, 4096))
    return _exact(max(factors.values()), "mean Psi times sqrt(L)", f"of {len(factors)} depths: {each} layers")


def depth_without(evidence: Any) -> Measured:
    """The least mean Psi over depths where residual connections or norm are missing."""
    from est_analysis.theory.stability import psi_norm, psi_residual

    least = {
        name: min(float(psi(depth).mean()) for depth in _DEPTHS)
        for name, psi in (("no norm", psi_residual), ("no residual connections", psi_norm))
    }
    each = ", ".join(f"{value:.4f} ({name})" for name, value in least.items())
    return _exact(min(least.values()), "mean Psi", f"up to {_DEPTHS[-1]} layers at least {each}")


def second_degree(evidence: Any, *, method: str) -> Measured:
    """The coefficient of x2 x3 where a method ends, over the target's: of all settings the one that decides, and all.

    Args:
        evidence: not read.
        method: `pld`, whose settings are keep rates and gains; `raptr` or `raptr_reversed`, whose are gains.
    """
    from est_analysis.theory.two_block import TwoBlock, coefficients, gradient_flow, pld, staged

    growing = (0.4, 0.6, 0.8, 1.0)
    schedules = {
        "pld": {f"keep rate {rate:g}": pld(rate, _TIME) for rate in _KEEP_RATES},
        "raptr": {"keep rates 0.4 to 1": staged(growing, _TIME)},
        "raptr_reversed": {"keep rates 1 to 0.4": staged(growing[::-1], _TIME)},
    }[method]
    found = {}
    for gain in _GAINS:
        toy = TwoBlock(gain=gain, scaled=method == "pld")
        for name, schedule in schedules.items():
            end = gradient_flow(toy, schedule, points=2).weights[-1]
            found[f"{name} at gain {gain:g}"] = float(coefficients(toy, end)[1, 1]) / toy.degree_two
    least, most = (end(found, key=found.__getitem__) for end in (min, max))
    detail = f"gradient flow: {found[least]:.3f} ({least}) to {found[most]:.3f} ({most})"
    decides = found[least if method == "raptr" else most]
    ends = found[least], found[most]
    return Measured(effect=decides, interval=ends, unit="of the degree", seeds=0, detail=detail)


_theory = partial(exact_claim, paper=_PAPER, by_hand="est claims raptr.theory", known="the values")
_CLAIMS = (
    _theory(
        "raptr.theory.bound",
        "Theorem on stage transitions, as reported: |L2 - L1| <= mu / L sum Psi; the norm in Psi is our reading",
        "Bypassing one layer at random changes the loss by no more than the theorem allows.",
        "the change over the bound, largest of random nets whose loss has a known constant, no more than 1 (by the "
        "triangle inequality)",
        (-inf, 1.0),
        bound_used,
    ),
    _theory(
        "raptr.theory.depth",
        _LEMMA,
        "With residual connections and layer norm the mean of Psi stays below 2 over the root of the depth.",
        "mean Psi times the root of the depth, largest over depths of 2 to 4096, below 2",
        (-inf, 2.0),
        depth_factor,
    ),
    _theory(
        "raptr.theory.depth-without",
        _LEMMA,
        "Without residual connections or without layer norm the mean of Psi does not fall with depth.",
        "mean Psi, least over depths of 2 to 4096, above 0.7",
        (0.7, inf),
        depth_without,
    ),
    _theory(
        "raptr.theory.pld",
        _BLOCKS,
        "Two residual blocks trained by progressive layer dropping end without a part of the higher degree.",
        "coefficient of the second degree over the target's, at every final keep rate and gain tried, below 0.98",
        (-inf, 0.98),
        partial(second_degree, method="pld"),
    ),
    _theory(
        "raptr.theory.growing",
        _BLOCKS,
        "Two residual blocks trained by growing stages end with the whole higher degree.",
        "coefficient of the second degree over the target's, at every gain tried, within 0.01 of 1",
        (0.99, 1.01),
        partial(second_degree, method="raptr"),
    ),
    _theory(
        "raptr.theory.shrinking",
        _BLOCKS,
        "Two residual blocks trained by the same stages in reverse order end without a part of the higher degree.",
        "coefficient of the second degree over the target's, at every gain tried, below 0.98",
        (-inf, 0.98),
        partial(second_degree, method="raptr_reversed"),
    ),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
GROUPS = {"raptr.theory": "What RaPTr's theory says of transitions, of depth and of higher degrees, computed."}
