"""EST's rates with every unit drawn by itself, and the two pieces that EST's options take away."""

import math

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.methods import build_method
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.sample import sample_fixed_size, sample_independent, sample_units
from est_analysis.subnet.schedule import Rates

SHAPE = StackShape(num_layers=4, num_heads=4, mlp_columns=16)
DRAWS = 400


def _draw(rates, seed):
    return sample_independent(SHAPE, rates, generator=torch.Generator().manual_seed(seed))


def _counts(rates, sampler=sample_independent):
    """(layers, heads of a layer, columns of a layer) of many draws."""
    masks = [sampler(SHAPE, rates, generator=torch.Generator().manual_seed(seed)) for seed in range(DRAWS)]
    layers = [layer for mask in masks for layer in mask.layers if layer is not None]
    counts = (
        [len(mask.active_layers) for mask in masks],
        [len(layer.heads) for layer in layers],
        [len(layer.columns) for layer in layers],
    )
    return [torch.tensor(count, dtype=torch.float64) for count in counts]


def _within(values, total, rate, sigmas=4.5):
    """Mean and variance of binomial counts, each within `sigmas` standard errors of theory."""
    n, mean, variance = len(values), total * rate, total * rate * (1 - rate)
    fourth = variance * (1 + 3 * variance - 6 * rate * (1 - rate))  # central fourth moment of a binomial
    assert abs(values.mean() - mean) < sigmas * math.sqrt(variance / n)
    assert abs(values.var() - variance) < sigmas * math.sqrt((fourth - variance**2) / n)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.8])
def test_sizes_are_binomial(rate):
    for values, total in zip(_counts(Rates(heads=rate, mlp=rate, layers=rate)), (4, 4, 16), strict=True):
        _within(values, total, rate)


def test_a_fixed_size_fails_that_test():
    sizes = _counts(Rates(heads=0.5, mlp=0.5, layers=0.5), sample_fixed_size)
    for values, total in zip(sizes, (4, 4, 16), strict=True):
        with pytest.raises(AssertionError):
            _within(values, total, 0.5)


def test_scales_are_those_of_a_fixed_size_and_a_rate_of_one_draws_nothing():
    mask = _draw(Rates(heads=0.5, mlp=0.25), 0)
    assert {(layer.head_scale, layer.column_scale, layer.scale) for layer in mask.layers} == {(2.0, 4.0, 1.0)}
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample_independent(SHAPE, Rates(), generator=generator).active_layers == (0, 1, 2, 3)
    assert torch.equal(generator.get_state(), before)


def test_without_factors_the_units_are_the_same():
    one, other = (
        build_method(
            "est", shape=SHAPE, total_steps=150, seed=0, schedule="table1", options={"normalise": normalise}
        ).mask(1)
        for normalise in (True, False)
    )
    pairs = [(a, b) for a, b in zip(one.layers, other.layers, strict=True) if a]
    assert one.active_layers == other.active_layers
    assert all(torch.equal(a.heads, b.heads) and torch.equal(a.columns, b.columns) for a, b in pairs)
    assert {(a.head_scale, b.head_scale, a.column_scale, b.column_scale) for a, b in pairs} == {(2.0, 1.0, 2.0, 1.0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "bernouli"}, "unknown law 'bernouli': did you mean 'bernoulli'?"),
        ({"law": "bernoulli"}, "law bernoulli draws every head by itself, but these share keys and values"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    shape = StackShape(num_layers=4, num_heads=4, mlp_columns=16, num_kv_heads=2)
    with pytest.raises(InputError, match=message):
        build_method("est", shape=shape, total_steps=150, seed=0, schedule="table1", options=options)


def test_both_laws_by_name():
    rates, seed = Rates(heads=0.5, mlp=0.5), torch.Generator
    one = sample_units(SHAPE, rates, law="bernoulli", head_sampling="within_groups", generator=seed().manual_seed(1))
    two = _draw(rates, 1)
    assert all(torch.equal(a.columns, b.columns) for a, b in zip(one.layers, two.layers, strict=True))
