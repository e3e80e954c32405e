"""EST's sampler: its law, its sizes and scales, and what that law implies for outputs and losses (EST eqs. 5-7)."""

import itertools
import math
from collections import Counter
from functools import partial

import pytest
import torch
from scipy.stats import chi2

from est_analysis.errors import InputError
from est_analysis.models.parts import MLP, Attention
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, StackShape, SubnetMask
from est_analysis.subnet.sample import sample_fixed_size, whole_count
from est_analysis.subnet.schedule import Rates

SHAPE = StackShape(num_layers=4, num_heads=3, mlp_columns=4)
RATES = Rates(heads=1 / 3, mlp=0.5, layers=0.5)
DRAWS = 3000


def _many(sampler, shape=SHAPE, rates=RATES, draws=DRAWS):
    """Masks as the methods draw them: a fresh stream each."""
    return [sampler(shape, rates, generator=stream(0, "mask", step)) for step in range(draws)]


def _key(index):
    return None if index is None else tuple(index.tolist())


def _is_uniform(observed, num_outcomes):
    """Chi-square against equal frequencies at level 1e-5: with a fixed seed a right sampler passes for good."""
    counts, total = Counter(observed), len(observed)
    expected = total / num_outcomes
    missing = num_outcomes - len(counts)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values()) + missing * expected
    return len(counts) <= num_outcomes and statistic < chi2.ppf(1 - 1e-5, num_outcomes - 1)


def _layer_sets(masks):
    return [mask.active_layers for mask in masks]


def _of_layer(masks, layer, axis):
    return [_key(getattr(mask.layers[layer], axis)) for mask in masks if mask.layers[layer]]


def _pairs(masks, axis):
    """The subsets of the first two active layers of each mask, jointly."""
    layers = [[layer for layer in mask.layers if layer][:2] for mask in masks]
    return [(_key(getattr(a, axis)), _key(getattr(b, axis))) for a, b in layers]


def _heads_and_columns(masks):
    firsts = [next(layer for layer in mask.layers if layer) for mask in masks]
    return [(_key(first.heads), _key(first.columns)) for first in firsts]


def _layers_and_heads(masks):
    firsts = [next(layer for layer in mask.layers if layer) for mask in masks]
    return [(mask.active_layers, _key(first.heads)) for mask, first in zip(masks, firsts, strict=True)]


# What is looked at, and how many equally likely outcomes it has.
LAWS = {
    "layers": (_layer_sets, math.comb(4, 2)),
    "heads of layer 0": (partial(_of_layer, layer=0, axis="heads"), 3),
    "columns of layer 3": (partial(_of_layer, layer=3, axis="columns"), math.comb(4, 2)),
    "heads of two layers": (partial(_pairs, axis="heads"), 3 * 3),
    "columns of two layers": (partial(_pairs, axis="columns"), 6 * 6),
    "heads and columns": (_heads_and_columns, 3 * 6),
    "layers and heads": (_layers_and_heads, 6 * 3),
}


def _weighted_subset(total, count, generator):
    """Planted bias: the last unit is drawn a little more often than the others."""
    weights = torch.ones(total)
    weights[-1] = 1.35
    return torch.multinomial(weights, count, generator=generator).sort().values


def _mutant(shape, rates, *, generator, shared):
    """A biased sampler of the right sizes; `shared` gives every layer the same, otherwise fair, subsets."""

    def subset(total, rate):
        count = round(rate * total)
        if shared:
            return torch.randperm(total, generator=generator)[:count].sort().values
        return _weighted_subset(total, count, generator)

    def layer_mask():
        return LayerMask(heads=subset(shape.num_heads, rates.heads), columns=subset(shape.mlp_columns, rates.mlp))

    active, common = subset(shape.num_layers, rates.layers).tolist(), layer_mask()
    layers = [(common if shared else layer_mask()) if i in active else None for i in range(shape.num_layers)]
    return SubnetMask(layers=tuple(layers))


@pytest.fixture(scope="module")
def masks():
    return _many(sample_fixed_size)


@pytest.mark.parametrize(("look", "outcomes"), LAWS.values(), ids=LAWS.keys())
def test_every_subset_is_equally_likely_and_axes_are_independent(masks, look, outcomes):
    assert _is_uniform(look(masks), outcomes)


@pytest.mark.parametrize("law", ["layers", "heads of layer 0", "columns of layer 3"])
def test_planted_unequal_odds_fail_the_same_check(law):
    look, outcomes = LAWS[law]
    assert not _is_uniform(look(_many(partial(_mutant, shared=False))), outcomes)


@pytest.mark.parametrize("law", ["heads of two layers", "columns of two layers"])
def test_planted_sharing_between_layers_fails_the_same_check(law):
    look, outcomes = LAWS[law]
    assert not _is_uniform(look(_many(partial(_mutant, shared=True))), outcomes)


@pytest.mark.parametrize(
    ("shape", "rates", "sizes"),
    [
        ((4, 3, 4), (1 / 3, 0.5, 0.5), (2, 1, 2)),
        ((3, 3, 9), (2 / 3, 1 / 9, 1 / 3), (1, 2, 1)),
        ((12, 12, 3072), (0.5, 0.5, 0.5), (6, 6, 1536)),
        ((22, 32, 5632), (0.5, 0.5, 1.0), (22, 16, 2816)),
        ((1, 1, 1), (1.0, 1.0, 1.0), (1, None, None)),
        ((5, 2, 6), (1.0, 0.5, 0.4), (2, None, 3)),
        ((5, 2, 6), (0.5, 1.0, 0.4), (2, 1, None)),
        ((5, 0, 6), (0.5, 0.5, 0.4), (2, None, 3)),  # no attention: nothing to sample there
    ],
)
def test_sizes_are_exact_and_indices_sorted_distinct(shape, rates, sizes):
    stack = StackShape(num_layers=shape[0], num_heads=shape[1], mlp_columns=shape[2])
    for mask in _many(sample_fixed_size, stack, Rates(heads=rates[0], mlp=rates[1], layers=rates[2]), draws=10):
        assert len(mask.layers) == stack.num_layers
        assert len(mask.active_layers) == sizes[0]
        for layer in filter(None, mask.layers):
            _check_axis(layer.heads, layer.head_scale, sizes[1], stack.num_heads)
            _check_axis(layer.columns, layer.column_scale, sizes[2], stack.mlp_columns)
            assert layer.scale == 1, "EST does not rescale layers (eq. 7)"


def _check_axis(index, scale, size, total):
    if size is None:
        assert index is None
        assert scale == 1
        return
    assert index.dtype == torch.int64
    assert len(index) == size
    assert index.tolist() == sorted(set(index.tolist()) & set(range(total)))
    # 1/p: the rate is a double, so the quotient is right to a rounding or two.
    assert scale == pytest.approx(total / size, rel=1e-15)


@pytest.mark.parametrize(
    ("rate", "total", "message"),
    [
        (0.3, 8, r"p_H=0\.3 of 8 heads is 2\.4 heads; use a multiple of 1/8 above 0"),
        (0.01, 8, r"p_H=0\.01 of 8 heads is 0\.08 heads; use a multiple of 1/8 above 0"),
        (1e-12, 8, r"p_H=1e-12 of 8 heads is 8e-12 heads"),
        (0.5 + 1e-6, 12, r"p_H=0\.500001 of 12 heads"),
        (0.999, 12, r"p_H=0\.999 of 12 heads is 11\.988 heads"),
    ],
)
def test_a_rate_that_gives_no_whole_count_is_refused(rate, total, message):
    with pytest.raises(InputError, match=message):
        whole_count(rate, total, symbol="p_H", unit="heads")


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (Rates(layers=0.3), "p_L=0.3 of 4 layers is 1.2 layers; use a multiple of 1/4"),
        (Rates(heads=0.5), "p_H=0.5 of 3 heads is 1.5 heads; use a multiple of 1/3"),
        (Rates(mlp=0.6), "p_M=0.6 of 4 MLP columns is 2.4 MLP columns; use a multiple of 1/4"),
    ],
)
def test_the_sampler_names_the_axis_it_cannot_divide(rates, message):
    with pytest.raises(InputError) as caught:
        sample_fixed_size(SHAPE, rates, generator=stream(0))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("total", range(1, 50))
def test_every_exact_fraction_is_accepted(total):
    assert [whole_count(k / total, total, symbol="p", unit="u") for k in range(1, total + 1)] == list(
        range(1, total + 1)
    )


# --- what the law implies, by enumeration with the sampler's own masks ------------------------------------------------


def _every_layer_mask(num_heads, mlp_columns, rates, axis, outcomes):
    """All distinct masks of one layer that the sampler gives; `outcomes` says how many there must be."""
    shape = StackShape(num_layers=1, num_heads=num_heads, mlp_columns=mlp_columns)
    layers = [mask.layers[0] for mask in _many(sample_fixed_size, shape, rates, draws=40 * outcomes)]
    distinct = {_key(getattr(layer, axis)): layer for layer in layers}
    assert len(distinct) == outcomes
    return list(distinct.values())


def _fill(module, *names):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(generator=stream(0, *names, name))
    return module.double()


def _mean(values):
    return torch.stack(values).mean(0)


# Sums of at most 20 products of size about 30 in float64: rounding below 30 * 20 * 1e-16 = 1e-13.
EXACT = {"atol": 1e-12, "rtol": 0}


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_mean_over_all_head_subsets_is_the_full_attention(kept):
    attention = _fill(Attention(hidden=8, num_heads=4), "attention")
    x = torch.randn(2, 5, 8, dtype=torch.float64, generator=stream(0, "x"))
    masks = _every_layer_mask(4, 4, Rates(heads=kept / 4), "heads", math.comb(4, kept))
    outputs = [attention(x, mask) for mask in masks]
    torch.testing.assert_close(_mean(outputs), attention(x), **EXACT)
    assert (outputs[0] - attention(x)).abs().max() > 0.1, "no subset is the full output by itself"


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_mean_over_all_column_subsets_is_the_full_mlp(kept):
    mlp = _fill(MLP(hidden=5, columns=6), "mlp")
    x = torch.randn(3, 5, dtype=torch.float64, generator=stream(0, "x"))
    masks = _every_layer_mask(0, 6, Rates(mlp=kept / 6), "columns", math.comb(6, kept))
    outputs = [mlp(x, mask) for mask in masks]
    torch.testing.assert_close(_mean(outputs), mlp(x), **EXACT)
    assert (outputs[0] - mlp(x)).abs().max() > 0.1


def test_second_order_cost_of_sampling_is_exact_for_a_quadratic_loss():
    """E L(U~) - L(U) = 1/2 (1-p)/p n/(n-1) [sum_i u_i' H u_i - U' H U / n], with 3 of 6 columns, over all 20 masks."""
    n, p, hidden = 6, 0.5, 5
    mlp = _fill(MLP(hidden=hidden, columns=n), "mlp")
    x = torch.randn(1, hidden, dtype=torch.float64, generator=stream(0, "x"))
    root = torch.randn(hidden, hidden, dtype=torch.float64, generator=stream(0, "hessian"))
    hessian, linear = root + root.T, root[0]  # indefinite on purpose

    def loss(y):
        return ((y @ hessian @ y.mT) / 2 + y @ linear).squeeze()

    masks = _every_layer_mask(0, n, Rates(mlp=p), "columns", math.comb(n, 3))
    excess = _mean([loss(mlp(x, mask)) for mask in masks]) - loss(mlp(x))
    hidden_units = torch.nn.functional.gelu(x @ mlp.up_weight.T + mlp.up_bias, approximate="tanh")
    parts = hidden_units.T * mlp.down_weight  # u_i, (n, hidden), biases excluded
    separate = torch.einsum("id,de,ie->", parts, hessian, parts)
    whole = parts.sum(0) @ hessian @ parts.sum(0)
    bernoulli = (1 - p) / p / 2 * separate
    fixed = (1 - p) / p / 2 * n / (n - 1) * (separate - whole / n)
    # Quadratic terms reach about 100: rounding below 20 * 100 * 1e-16.
    torch.testing.assert_close(excess, fixed, atol=1e-11, rtol=0)
    assert abs(excess - bernoulli) > 1, "the Bernoulli law predicts something else"


def test_second_order_formula_agrees_with_the_covariance_of_a_fixed_size_mask():
    """Cov(r_i, r_j) / p^2 is (1-p)/p on the diagonal and -(1-p)/(p (n-1)) off it, by enumeration of the masks."""
    n, k = 6, 3
    rows = torch.zeros(math.comb(n, k), n, dtype=torch.float64)
    for row, mask in zip(rows, _every_layer_mask(0, n, Rates(mlp=k / n), "columns", len(rows)), strict=True):
        row[mask.columns] = mask.column_scale
    covariance = torch.cov(rows.T, correction=0)
    p = k / n
    expected = torch.full((n, n), -(1 - p) / (p * (n - 1)), dtype=torch.float64).fill_diagonal_((1 - p) / p)
    torch.testing.assert_close(covariance, expected, atol=1e-14, rtol=0)
    assert sorted(_key(row.nonzero().flatten()) for row in rows) == list(itertools.combinations(range(n), k))
