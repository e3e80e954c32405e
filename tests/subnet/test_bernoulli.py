"""RaPTr's sampler: (p, I)-subnetworks and the factors on kept layers."""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.stats import chi2

from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.sample import bernoulli_keep_rate, sample_bernoulli


def _stack(num_layers):
    return StackShape(num_layers=num_layers, num_heads=2, mlp_columns=4)


def _many(num_layers, mean_depth, always_kept, draws, scale="none"):
    return [
        sample_bernoulli(
            _stack(num_layers), mean_depth, always_kept=always_kept, scale=scale, generator=stream(0, "mask", step)
        )
        for step in range(draws)
    ]


def _factors(mask):
    """Layer -> factor of the active ones."""
    return {i: mask.layers[i].scale for i in mask.active_layers}


@pytest.mark.parametrize(
    ("depth", "layers", "kept", "rate"),
    [
        (6, 12, 2, 0.4),
        (8, 12, 2, 0.6),
        (10, 12, 2, 0.8),
        (12, 12, 2, 1.0),
        (12, 24, 2, 10 / 22),
        (16, 24, 2, 14 / 22),
        (20, 24, 2, 18 / 22),
        (2, 12, 2, 0.0),
        (3, 6, 0, 0.5),
        (2, 2, 2, 1.0),
        (1, 1, 1, 1.0),
        (8 / 12 * 6, 6, 2, 0.5),
    ],
)
def test_keep_rate_gives_the_mean_depth(depth, layers, kept, rate):
    assert bernoulli_keep_rate(depth, layers, kept) == pytest.approx(rate, abs=1e-15)


@pytest.mark.parametrize(("depth", "layers", "kept"), [(1, 12, 2), (13, 12, 2), (1, 2, 2), (1.9, 12, 2), (-1, 4, 0)])
def test_a_depth_no_rate_can_give_is_refused(depth, layers, kept):
    with pytest.raises(InputError) as caught:
        bernoulli_keep_rate(depth, layers, kept)
    message = str(caught.value)
    assert message.startswith(f"a mean depth of {depth:g} of {layers} layers cannot be met with {kept}")
    assert message.endswith(f"use a depth from {kept} to {layers}")


# --- the law ----------------------------------------------------------------------------------------------------------


def _follows_independent_law(sets, free, p):
    """Chi-square at level 1e-5 of the subsets of `free` against p^k (1-p)^(n-k)."""
    counts, total = Counter(frozenset(s) & frozenset(free) for s in sets), len(sets)
    cells = [frozenset(c) for k in range(len(free) + 1) for c in itertools.combinations(free, k)]
    expected = {cell: total * p ** len(cell) * (1 - p) ** (len(free) - len(cell)) for cell in cells}
    assert math.isclose(sum(expected.values()), total)
    statistic = sum((counts[cell] - mean) ** 2 / mean for cell, mean in expected.items())
    return statistic < chi2.ppf(1 - 1e-5, len(cells) - 1)


def test_free_layers_are_independent_and_kept_layers_always_on():
    sets = [mask.active_layers for mask in _many(6, 2 + 4 * 0.3, {0, 5}, 2000)]
    assert all({0, 5} <= set(kept) for kept in sets)
    assert _follows_independent_law(sets, [1, 2, 3, 4], 0.3)
    # Planted: the same mean depth from subsets of nearly fixed size, and a slightly wrong rate.
    assert not _follows_independent_law(sets, [1, 2, 3, 4], 0.36)
    rotated = [{0, 5, 1 + step % 4} for step in range(2000)]
    assert not _follows_independent_law(rotated, [1, 2, 3, 4], 0.3)


def _depth_agrees(depths, mean, variance, p, free):
    """Mean and variance within 4.5 standard errors of a binomial's."""
    depths = torch.tensor(depths, dtype=torch.float64)
    n = len(depths)
    excess_kurtosis = (1 - 6 * p * (1 - p)) / (free * p * (1 - p))
    error_of_mean = math.sqrt(variance / n)
    error_of_variance = variance * math.sqrt(2 / (n - 1) + excess_kurtosis / n)
    return (
        abs(depths.mean() - mean) < 4.5 * error_of_mean and abs(depths.var() - variance) < 4.5 * error_of_variance
    ).item()


def test_depth_of_6_of_12_has_mean_6_and_deviation_1_55():
    p, free, draws = 0.4, 10, 2000
    variance = free * p * (1 - p)
    assert math.sqrt(variance) == pytest.approx(1.55, abs=0.005)
    depths = [len(mask.active_layers) for mask in _many(12, 6, {0, 11}, draws)]
    assert _depth_agrees(depths, 6, variance, p, free)
    # Planted: a fixed size has no variance; keep rate n/L ignores I.
    assert not _depth_agrees([6] * draws, 6, variance, p, free)
    mutant = 2 + torch.rand(draws, free, generator=stream(0, "mutant")).lt(6 / 12).sum(1)
    assert not _depth_agrees(mutant.tolist(), 6, variance, p, free)


@pytest.mark.parametrize(("depth", "expected"), [(2, {(0, 3)}), (4, {(0, 1, 2, 3)})])
def test_extreme_depths_leave_no_choice(depth, expected):
    assert {mask.active_layers for mask in _many(4, depth, {0, 3}, 50)} == expected


def test_nothing_may_be_kept_at_all():
    assert any(mask.active_layers == () for mask in _many(3, 1, (), 100))


def test_all_heads_and_columns_of_kept_layers_are_active():
    for mask in _many(4, 3, {0, 3}, 20):
        for layer in filter(None, mask.layers):
            assert layer.heads is None
            assert layer.columns is None
            assert (layer.head_scale, layer.column_scale, layer.scale) == (1, 1, 1)


# --- factors on kept layers, over every mask --------------------------------------------------------------------------


def _every_mask(scale, always_kept, num_layers=6):
    free = num_layers - len(always_kept)
    masks = _many(num_layers, len(always_kept) + free / 2, always_kept, 12 * 2**free, scale)
    distinct = {mask.active_layers: mask for mask in masks}
    assert len(distinct) == 2**free, "every mask is seen"
    return list(distinct.values())


def _next_kept(layer, kept, num_layers):
    return min([j for j in kept if j > layer] + [num_layers])


@pytest.mark.parametrize("always_kept", [(0,), (0, 5), (), (2,)])
@pytest.mark.parametrize(("scale", "power"), [("sqrt_gap", 0.5), ("linear_gap", 1.0), ("none", 0.0)])
def test_gap_factors(scale, power, always_kept):
    for mask in _every_mask(scale, always_kept):
        factors = _factors(mask)
        expected = {i: (_next_kept(i, factors, 6) - i) ** power for i in factors}
        assert factors == pytest.approx(expected, rel=1e-15)


def test_squares_of_sqrt_gap_add_up_to_the_depth_when_the_first_layer_is_kept():
    for mask in _every_mask("sqrt_gap", (0,)):
        # Six squared roots, each right to a rounding.
        assert sum(s**2 for s in _factors(mask).values()) == pytest.approx(6, abs=6 * 6 * 2.3e-16)


def test_linear_gaps_add_up_to_the_depth_when_the_first_layer_is_kept():
    assert {sum(_factors(mask).values()) for mask in _every_mask("linear_gap", (0,))} == {6.0}


def test_inv_p_keeps_the_mean_of_every_branch():
    p, num_layers, fixed = 0.25, 5, (0, 4)
    depth = 2 + 3 * p
    masks = {m.active_layers: m for m in _many(num_layers, depth, fixed, 2000, "inv_p")}
    assert len(masks) == 2**3
    mean = dict.fromkeys(range(num_layers), 0.0)
    for active, mask in masks.items():
        probability = p ** (len(active) - 2) * (1 - p) ** (num_layers - len(active))
        for layer, factor in _factors(mask).items():
            mean[layer] += probability * factor
    assert mean == pytest.approx(dict.fromkeys(range(num_layers), 1.0), abs=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "sqrt"}, "unknown output scale 'sqrt': did you mean 'sqrt_gap'? Known: inv_p, linear_gap, none, "),
        ({"always_kept": {0, 4}}, "always-kept layers [0, 4] are not all among 0..3"),
        ({"always_kept": {-1}}, "always-kept layers [-1] are not all among 0..3"),
        ({"mean_depth": 5}, "a mean depth of 5 of 4 layers cannot be met with 2 of them always kept; use a depth from"),
        ({"mean_depth": 1}, "a mean depth of 1 of 4 layers cannot be met with 2 of them always kept; use a depth from"),
    ],
)
def test_errors_name_the_value_and_the_fix(changes, message):
    arguments = {"mean_depth": 3, "always_kept": {0, 3}, "generator": stream(0)} | changes
    with pytest.raises(InputError) as caught:
        sample_bernoulli(_stack(4), arguments.pop("mean_depth"), **arguments)
    assert str(caught.value).startswith(message)
