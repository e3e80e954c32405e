"""Stability of a network when one layer is left out (RaPTr, arXiv 2402.05913), measured on batches of text.

    L2 = loss(F)    L1 = (1/L) sum_l loss(F_-l)    Psi_l = ||F_-l(x) - F(x)|| / ||F(x)||
    |L2 - L1| <= (mu/L) sum_l E Psi_l

for a loss that is mu-Lipschitz in relative changes of the network's output: L1 is what training with one uniformly
drawn layer left out sees, L2 what it sees after the transition to all layers. F(x) is here what the output matrix reads
at a token that has a target, the norm is that token's, and E is the mean over those tokens; the paper's own convention
for the norm is not verified.

No mu of a real model is known. Two numbers stand in for it, and they are not of one kind:

- `mu` is *measured*: the smallest constant that no layer on any batch contradicts. With it `bound` holds on these
  batches by construction; what it says is how far from tight the theorem is.
- `mu_predicted` is a *prediction* from the full network's gradients, to first order in the change of the output:
  |loss(F_-l) - loss(F)| <= ||grad_F loss|| ||F|| Psi_l at each token. `bound_predicted` is the mean of the right-hand
  side over layers and tokens, and `mu_predicted` the constant that puts it into the theorem's form: the mean of
  ||grad_F loss|| ||F||, weighted with Psi. It may fail where a layer moves the output far: cross entropy is convex in
  the output of a linear head, so a fall of the loss never exceeds it, a rise may.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from est_analysis.curvature.loss import Batch, LanguageModelObjective, TokenStates
from est_analysis.errors import InputError
from est_analysis.stability.layers import ResidualLayer, bypass

_CHUNK = 1 << 24  # logits whose gradient is held at once


@dataclass(frozen=True, kw_only=True)
class BatchStability:
    """One batch, each layer bypassed in turn; means over its targets.

    Attributes:
        weight: targets.
        loss: of the full network, nats.
        losses: (L,), without layer l.
        psi: (L,).
        first_order: (L,), of ||grad_F loss|| ||F|| Psi_l.
    """

    weight: int
    loss: float
    losses: np.ndarray
    psi: np.ndarray
    first_order: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LayerStability:
    """One layer bypassed.

    Attributes:
        name: of the layer.
        psi: mean relative change of the output.
        psi_stderr: its standard error over batches.
        loss_change: loss without the layer minus loss with it, on the same batches, nats.
        loss_change_stderr: its standard error.
    """

    name: str
    psi: float
    psi_stderr: float
    loss_change: float
    loss_change_stderr: float


@dataclass(frozen=True, kw_only=True)
class Stability:
    """A network with one layer left out; the module's text defines the symbols.

    Attributes:
        layers: in the order in which they run.
        loss_full: L2, nats.
        loss_full_stderr: its standard error.
        loss_one_dropped: L1, nats.
        gap: L1 - L2: how much the loss falls when the missing layer comes back.
        gap_stderr: its standard error, on the same batches.
        gap_inner: the same if the first and the last layer of each stack always stay, as in RaPTr's experiments; NaN
            if there are no others.
        gap_inner_stderr: its standard error.
        mu: measured, nats.
        bound: (mu/L) sum_l E Psi_l, measured, nats.
        mu_predicted: to first order, from the full network's gradients, nats.
        bound_predicted: (mu_predicted/L) sum_l E Psi_l, nats.
        batches: how many.
        targets: tokens whose loss was measured.
        seconds: wall time.
    """

    layers: tuple[LayerStability, ...]
    loss_full: float
    loss_full_stderr: float
    loss_one_dropped: float
    gap: float
    gap_stderr: float
    gap_inner: float
    gap_inner_stderr: float
    mu: float
    bound: float
    mu_predicted: float
    bound_predicted: float
    batches: int
    targets: int
    seconds: float


def measure_stability(
    objective: LanguageModelObjective,
    layers: Sequence[ResidualLayer],
    batches: Iterable[Batch],
    *,
    on_batch: Callable[[int, BatchStability], None] = lambda number, found: None,
) -> Stability:
    """Bypass every layer on every batch: L + 1 forward passes each.

    Args:
        objective: the loss.
        layers: from `residual_layers`.
        batches: at least two.
        on_batch: told after each batch, with how many there were.

    Raises:
        InputError: too few batches, or a result that is not finite.
    """
    began, samples = time.perf_counter(), []
    for batch in batches:
        samples.append(measure_batch(objective, layers, batch))
        on_batch(len(samples), samples[-1])
    return summarise(samples, layers, seconds=time.perf_counter() - began)


@torch.no_grad()
def measure_batch(objective: LanguageModelObjective, layers: Sequence[ResidualLayer], batch: Batch) -> BatchStability:
    """Measure one batch.

    Raises:
        InputError: the output is zero or not finite.
    """
    full = objective.token_states(objective.parameters, batch)
    full_losses, size = full.losses(full.hidden, full.targets).double(), _norm(full.hidden)
    if not (size > 0).all() or not torch.isfinite(full_losses).all():
        raise InputError(
            "the final hidden states of a token are zero, or its loss is not finite; no change is relative"
        )
    slope = _gradient_norm(full) * size
    rows = []
    for layer in layers:
        with bypass(layer):
            states = objective.token_states(objective.parameters, batch)
        losses = states.losses(states.hidden, states.targets).double()
        psi = _norm(_wide(states.hidden) - _wide(full.hidden)) / size
        rows.append([losses.mean().item(), psi.mean().item(), (slope * psi).mean().item()])
        if not np.isfinite(rows[-1]).all():
            raise InputError(f"without '{layer.name}' the loss is not finite; use --dtype float32 or float64")
    losses, psi, first_order = np.array(rows).T
    return BatchStability(
        weight=len(full.targets), loss=full_losses.mean().item(), losses=losses, psi=psi, first_order=first_order
    )


def summarise(samples: Sequence[BatchStability], layers: Sequence[ResidualLayer], *, seconds: float) -> Stability:
    """Means over the targets of all batches, with standard errors over batches.

    Raises:
        InputError: fewer than two batches.
    """
    if len(samples) < 2:
        raise InputError(f"{len(samples)} batches give no standard error; give more text, or shorter sequences")
    weights = np.array([one.weight for one in samples], dtype=float)
    full = np.array([one.loss for one in samples])
    psi, first_order = (np.stack([getattr(one, name) for one in samples]) for name in ("psi", "first_order"))
    changes = np.stack([one.losses for one in samples]) - full[:, None]  # (batches, L)
    means = [_mean(values, weights) for values in (full, changes.mean(1), psi, changes)]
    errors = [_stderr(values, weights) for values in (full, changes.mean(1), psi, changes)]
    columns = zip([layer.name for layer in layers], means[2], errors[2], means[3], errors[3], strict=True)
    inner = _inner(layers)
    gap_inner = changes[:, inner].mean(1) if inner else np.full(len(samples), math.nan)
    mean_psi, bound_predicted = float(means[2].mean()), float(_mean(first_order, weights).mean())
    # Where a layer leaves the output exactly as it is, it leaves the loss so.
    mu = float(np.divide(np.abs(changes), psi, out=np.zeros_like(psi), where=psi > 0).max())
    return Stability(
        layers=tuple(LayerStability(name=name, **_floats(*rest)) for name, *rest in columns),
        loss_full=float(means[0]),
        loss_full_stderr=float(errors[0]),
        loss_one_dropped=float(means[0] + means[1]),
        gap=float(means[1]),
        gap_stderr=float(errors[1]),
        gap_inner=float(_mean(gap_inner, weights)),
        gap_inner_stderr=float(_stderr(gap_inner, weights)),
        mu=mu,
        bound=mu * mean_psi,
        mu_predicted=bound_predicted / mean_psi if mean_psi else math.nan,
        bound_predicted=bound_predicted,
        batches=len(samples),
        targets=int(weights.sum()),
        seconds=seconds,
    )


def _inner(layers: Sequence[ResidualLayer]) -> list[int]:
    """Which layers are neither the first nor the last of their stack."""
    stacks = [layer.stack for layer in layers]
    return [i for i, stack in enumerate(stacks) if stack in stacks[:i] and stack in stacks[i + 1 :]]


def _floats(psi: float, psi_stderr: float, loss_change: float, loss_change_stderr: float) -> dict[str, float]:
    return {
        "psi": float(psi),
        "psi_stderr": float(psi_stderr),
        "loss_change": float(loss_change),
        "loss_change_stderr": float(loss_change_stderr),
    }


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _norm(rows: Tensor) -> Tensor:
    return _wide(rows).norm(dim=-1).double()


def _gradient_norm(states: TokenStates) -> Tensor:
    """(N,) norms of the gradient of each token's loss in its own final hidden states."""
    norms, rows = [], max(1, _CHUNK // states.vocabulary)
    for hidden, targets in zip(states.hidden.split(rows), states.targets.split(rows), strict=True):
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(states.losses(leaf, targets).sum(), leaf)
        norms.append(_norm(gradient))
    return torch.cat(norms)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.average(values, axis=0, weights=weights)


def _stderr(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of the weighted mean over batches, a ratio of sums (Cochran 1977, section 6.3), as for the trace."""
    n = len(weights)
    residuals = (values - _mean(values, weights)).T * weights  # (..., batches)
    return np.sqrt(n / (n - 1) * (residuals**2).sum(-1)) / weights.sum()
