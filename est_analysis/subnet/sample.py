"""Drawing subnetworks: EST's fixed-size subsets, RaPTr's independent Bernoulli layers, PLD's that fall with depth.

All take what to keep and a generator, and return a `SubnetMask`. The laws differ in more than name: EST draws exactly
p*N units (eqs. 5-7), so every step of a stage costs the same; RaPTr and PLD keep each layer independently, so only the
expected cost is fixed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from est_analysis.errors import InputError, unknown_name
from est_analysis.subnet.mask import HeadSampling, LayerMask, StackShape, SubnetMask
from est_analysis.subnet.schedule import Rates

SamplingLaw = Literal["fixed_size", "bernoulli"]
OutputScale = Literal["none", "sqrt_gap", "inv_p", "linear_gap"]


def whole_count(rate: float, total: int, *, symbol: str, unit: str) -> int:
    """`rate * total` where that is a whole number of at least one unit.

    Raises:
        InputError: the rate does not give a whole number of units; the message says which rates do.

    >>> whole_count(0.5, 12, symbol="p_H", unit="heads")
    6
    """
    count = round(rate * total)
    # A rate such as 2/3 has been rounded to a double: allow its relative rounding error, no more.
    if count < 1 or not math.isclose(rate * total, count, rel_tol=1e-9):
        raise InputError(
            f"{symbol}={rate:.9g} of {total} {unit} is {rate * total:.9g} {unit}; use a multiple of 1/{total} above 0, "
            f"such as {max(1, count)}/{total}"
        )
    return count


def _subset(rate: float, total: int, generator: torch.Generator, *, symbol: str, unit: str) -> Tensor | None:
    """A sorted uniform subset of exactly `rate * total` of `total` units, or None when that is all of them."""
    count = whole_count(rate, total, symbol=symbol, unit=unit) if total else 0
    if count == total:
        return None
    return torch.randperm(total, generator=generator)[:count].sort().values


def _heads(
    shape: StackShape, rate: float, head_sampling: HeadSampling, generator: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    """(active heads, active key/value groups), None for all."""
    size = shape.heads_per_group
    if size == 1:
        return _subset(rate, shape.num_heads, generator, symbol="p_H", unit="heads"), None
    if head_sampling == "whole_groups":
        groups = _subset(rate, shape.num_kv_heads, generator, symbol="p_H", unit="key/value groups")
        return (None if groups is None else (groups[:, None] * size + torch.arange(size)).flatten()), groups
    unit = "heads of a key/value group"
    drawn = [_subset(rate, size, generator, symbol="p_H", unit=unit) for _ in range(shape.num_kv_heads)]
    if drawn[0] is None:
        return None, None
    return torch.cat([group * size + heads for group, heads in enumerate(drawn)]), None


def sample_fixed_size(
    shape: StackShape,
    rates: Rates,
    *,
    head_sampling: HeadSampling = "within_groups",
    generator: torch.Generator,
) -> SubnetMask:
    """EST's subnetwork (Algorithm 1): exactly p_L N_L layers, and in each its own p_H N_H heads and p_M N_M columns.

    Every subset of the given size is equally likely, layers are drawn first, and each active layer draws its heads and
    columns independently. Attention and MLP outputs are scaled by 1/p (eqs. 5, 6); layers are not (eq. 7).

    Where heads share keys and values the paper does not say which are drawn. Our reading keeps what it does say, p_H
    N_H heads, and spreads them evenly: `within_groups` draws a share p_H of every group and computes all keys and
    values; `whole_groups` draws a share p_H of the groups, each with all its heads, and leaves out the other keys and
    values.

    Raises:
        InputError: a rate does not give a whole number of units, or an unknown `head_sampling`.

    >>> mask = sample_fixed_size(
    ...     StackShape(num_layers=4, num_heads=2, mlp_columns=8),
    ...     Rates(heads=0.5, mlp=0.5, layers=0.5),
    ...     generator=torch.Generator().manual_seed(0),
    ... )
    >>> len(mask.active_layers), [len(layer.columns) for layer in mask.layers if layer]
    (2, [4, 4])
    """
    kept = _subset(rates.layers, shape.num_layers, generator, symbol="p_L", unit="layers")
    active = set(range(shape.num_layers)) if kept is None else set(kept.tolist())
    drawn = SubnetMask(layers=tuple(LayerMask() if i in active else None for i in range(shape.num_layers)))
    return sample_width(drawn, shape, rates, head_sampling=head_sampling, generator=generator)


def sample_width(
    mask: SubnetMask,
    shape: StackShape,
    rates: Rates,
    *,
    head_sampling: HeadSampling = "within_groups",
    generator: torch.Generator,
) -> SubnetMask:
    """`mask` with heads and columns drawn in each of its active layers, as `sample_fixed_size` draws them.

    It draws nothing on an axis whose rate is 1, so the generator is then left where it was.
    """
    if head_sampling not in get_args(HeadSampling):
        raise unknown_name("head sampling", head_sampling, get_args(HeadSampling))

    def narrowed(layer: LayerMask) -> LayerMask:
        heads, groups = _heads(shape, rates.heads, head_sampling, generator)
        columns = _subset(rates.mlp, shape.mlp_columns, generator, symbol="p_M", unit="MLP columns")
        return replace(
            layer,
            heads=heads,
            groups=groups,
            columns=columns,
            head_scale=1.0 if heads is None else 1.0 / rates.heads,
            column_scale=1.0 if columns is None else 1.0 / rates.mlp,
        )

    return SubnetMask(layers=tuple(layer and narrowed(layer) for layer in mask.layers))


def sample_independent(shape: StackShape, rates: Rates, *, generator: torch.Generator) -> SubnetMask:
    """EST's rates and scales, but every layer, head and column by itself, kept with probability p: a Bernoulli draw.

    Only expected sizes are EST's. A draw that keeps nothing of a module leaves its output bias, one that keeps no layer
    the embeddings.

    Raises:
        InputError: heads that share keys and values, of which every group needs equally many.

    >>> shape = StackShape(num_layers=4, num_heads=2, mlp_columns=8)
    >>> mask = sample_independent(shape, Rates(mlp=0.5), generator=torch.Generator().manual_seed(0))
    >>> [len(layer.columns) for layer in mask.layers]
    [5, 6, 3, 5]
    """
    if shape.heads_per_group > 1 and rates.heads < 1:
        raise InputError("law bernoulli draws every head by itself, but these share keys and values; use fixed_size")

    def kept(rate: float, total: int) -> Tensor | None:
        return None if rate == 1 else (torch.rand(total, generator=generator) < rate).nonzero().flatten()

    def layer() -> LayerMask:
        heads, columns = kept(rates.heads, shape.num_heads), kept(rates.mlp, shape.mlp_columns)
        return LayerMask(heads=heads, columns=columns, head_scale=1 / rates.heads, column_scale=1 / rates.mlp)

    drawn = kept(rates.layers, shape.num_layers)
    active = range(shape.num_layers) if drawn is None else drawn.tolist()
    return SubnetMask(layers=tuple(layer() if i in active else None for i in range(shape.num_layers)))


def sample_units(
    shape: StackShape, rates: Rates, *, law: SamplingLaw, head_sampling: HeadSampling, generator: torch.Generator
) -> SubnetMask:
    """EST's subnetwork by either law: `sample_fixed_size` or `sample_independent`."""
    if law not in get_args(SamplingLaw):
        raise unknown_name("sampling law", law, get_args(SamplingLaw))
    if law == "bernoulli":
        return sample_independent(shape, rates, generator=generator)
    return sample_fixed_size(shape, rates, head_sampling=head_sampling, generator=generator)


def bernoulli_keep_rate(mean_depth: float, num_layers: int, num_kept: int) -> float:
    """The p of a (p, I)-subnetwork of expected depth `mean_depth` when |I| = `num_kept`: (n - |I|) / (L - |I|).

    Raises:
        InputError: no p in [0, 1] gives that depth.

    >>> [round(bernoulli_keep_rate(n, 12, 2), 3) for n in (6, 8, 10, 12)]
    [0.4, 0.6, 0.8, 1.0]
    """
    free = num_layers - num_kept
    rate = min(max((mean_depth - num_kept) / free, 0.0), 1.0) if free else 1.0
    if not math.isclose(num_kept + rate * free, mean_depth, rel_tol=1e-9):
        raise InputError(
            f"a mean depth of {mean_depth:g} of {num_layers} layers cannot be met with {num_kept} of them always kept; "
            f"use a depth from {num_kept} to {num_layers}"
        )
    return rate


def _gaps(kept: list[int], num_layers: int) -> list[int]:
    """For each kept layer, the distance to the next kept one, or to the end of the stack."""
    return [following - layer for layer, following in zip(kept, [*kept, num_layers][1:], strict=True)]


def sample_bernoulli(
    shape: StackShape,
    mean_depth: float,
    *,
    always_kept: Iterable[int],
    scale: OutputScale = "none",
    generator: torch.Generator,
) -> SubnetMask:
    """RaPTr's (p, I)-subnetwork: layers in I always run, every other one runs independently with probability p.

    Args:
        shape: the stack.
        mean_depth: expected number of active layers; p follows from it (`bernoulli_keep_rate`).
        always_kept: the set I, 0-based; RaPTr's experiments keep the first and the last layer.
        scale: factor on a kept layer's branch. `none`: 1, the basic algorithm. `inv_p`: 1/p for sampled layers, keeps
            each branch's mean. `sqrt_gap`: sqrt of the distance to the next kept layer, so that the squares add up to L
            and the residual stream keeps its variance at initialisation. `linear_gap`: that distance itself.
            The paper names a square-root scaling without a formula that could be read; `sqrt_gap` is our reading.
        generator: source of randomness.

    Raises:
        InputError: an unknown scale, a layer outside the stack, or a depth no p can give.
    """
    if scale not in get_args(OutputScale):
        raise unknown_name("output scale", scale, get_args(OutputScale))
    fixed = set(always_kept)
    if not fixed <= set(range(shape.num_layers)):
        raise InputError(f"always-kept layers {sorted(fixed)} are not all among 0..{shape.num_layers - 1}")
    keep_rate = bernoulli_keep_rate(mean_depth, shape.num_layers, len(fixed))
    draws = torch.rand(shape.num_layers, generator=generator) < keep_rate
    kept = [i for i in range(shape.num_layers) if i in fixed or bool(draws[i])]
    factors = dict.fromkeys(kept, 1.0)
    if scale == "inv_p":
        factors = {i: 1.0 if i in fixed else 1.0 / keep_rate for i in kept}
    elif scale != "none":
        power = 0.5 if scale == "sqrt_gap" else 1.0
        factors = {i: gap**power for i, gap in zip(kept, _gaps(kept, shape.num_layers), strict=True)}
    return SubnetMask(
        layers=tuple(LayerMask(scale=factors[i]) if i in factors else None for i in range(shape.num_layers))
    )


def sample_gated(
    keep_rates: Sequence[float], *, sublayer_scales: Sequence[float], generator: torch.Generator
) -> SubnetMask:
    """PLD's subnetwork: one gate a layer, G_i ~ Bernoulli(p_i) independently, each layer with its own p_i.

    Args:
        keep_rates: p_i of every layer, first layer first.
        sublayer_scales: factor on attention and MLP output of a layer that is kept; 1/p_i in PLD.
        generator: source of randomness.

    >>> sample_gated([1, 0, 1], sublayer_scales=[1, 1, 2], generator=torch.Generator()).active_layers
    (0, 2)
    """
    draws = torch.rand(len(keep_rates), generator=generator).tolist()
    return SubnetMask(
        layers=tuple(
            LayerMask(sublayer_scale=scale) if draw < rate else None
            for draw, rate, scale in zip(draws, keep_rates, sublayer_scales, strict=True)
        )
    )
