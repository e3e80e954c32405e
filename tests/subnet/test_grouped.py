"""EST's sampler where query heads share keys and values: its two laws, and what they leave of attention."""

import itertools
import math
from collections import Counter
from functools import partial

import pytest
import torch
from scipy.stats import chi2

from est_analysis.errors import InputError
from est_analysis.models.parts import GroupedAttention, rotary_table
from est_analysis.rng import stream
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.sample import sample_fixed_size
from est_analysis.subnet.schedule import Rates

SHAPE = StackShape(num_layers=2, num_heads=8, mlp_columns=4, num_kv_heads=2)
HALF = Rates(heads=0.5)
within = partial(sample_fixed_size, head_sampling="within_groups")
whole = partial(sample_fixed_size, head_sampling="whole_groups")


def _draws(sampler, shape=SHAPE, rates=HALF, count=2000):
    return [sampler(shape, rates, generator=stream(0, "mask", step)).layers for step in range(count)]


def _key(index):
    return None if index is None else tuple(index.tolist())


def _is_uniform(observed, outcomes):
    """Chi-square against equal frequencies of exactly these outcomes, level 1e-5; fixed seeds."""
    counts = Counter(observed)
    expected = len(observed) / len(outcomes)
    statistic = sum((counts[outcome] - expected) ** 2 / expected for outcome in outcomes)
    return counts.keys() <= set(outcomes) and statistic < chi2.ppf(1 - 1e-5, len(outcomes) - 1)


PAIRS = list(itertools.combinations(range(4), 2))
# What the two laws allow: 2 of 4 heads in either group; one of two groups with all its heads.
WITHIN = [(*a, *(4 + head for head in b)) for a in PAIRS for b in PAIRS]
WHOLE = [tuple(range(4)), tuple(range(4, 8))]


def test_within_groups_every_even_choice_is_equally_likely():
    layers = _draws(within)
    assert _is_uniform([_key(layer.heads) for layer, _ in layers], WITHIN)
    assert {layer.groups for pair in layers for layer in pair} == {None}
    pairs = list(itertools.product(PAIRS, PAIRS))
    first_groups = [(_key(a.heads[:2]), _key(b.heads[:2])) for a, b in layers]
    assert _is_uniform(first_groups, pairs), "layers are independent"


def test_whole_groups_every_group_is_equally_likely():
    layers = _draws(whole)
    assert _is_uniform([_key(layer.heads) for layer, _ in layers], WHOLE)
    assert all(_key(layer.heads) == WHOLE[layer.groups.item()] for layer, _ in layers)
    assert _is_uniform([(a.groups.item(), b.groups.item()) for a, b in layers], list(itertools.product((0, 1), (0, 1))))


def test_planted_draws_that_ignore_the_groups_fail_the_same_check():
    plain = StackShape(num_layers=2, num_heads=8, mlp_columns=4)
    heads = [_key(layer.heads) for layer, _ in _draws(within, plain)]
    assert not _is_uniform(heads, WITHIN)
    assert not _is_uniform(heads, WHOLE)


@pytest.mark.parametrize("sampler", [within, whole])
def test_groups_of_one_head_are_no_groups(sampler):
    """The draws of every earlier run stay what they were."""
    own = StackShape(num_layers=2, num_heads=8, mlp_columns=4, num_kv_heads=8)
    none = StackShape(num_layers=2, num_heads=8, mlp_columns=4)
    for one, other in zip(_draws(sampler, own, count=20), _draws(sample_fixed_size, none, count=20), strict=True):
        for a, b in zip(one, other, strict=True):
            assert (_key(a.heads), _key(a.columns), a.groups) == (_key(b.heads), _key(b.columns), None)


def test_tinyllama_draws_four_of_eight_in_each_of_four_groups():
    shape = StackShape(num_layers=22, num_heads=32, mlp_columns=5632, num_kv_heads=4)
    rates = Rates(heads=0.5, mlp=0.5, layers=0.5)
    for layer in filter(None, within(shape, rates, generator=stream(0)).layers):
        assert (layer.heads // 8).bincount().tolist() == [4, 4, 4, 4]
        assert layer.head_scale == 2
    for layer in filter(None, whole(shape, rates, generator=stream(0)).layers):
        assert len(layer.heads) == 16
        assert (layer.heads // 8).unique().tolist() == layer.groups.tolist()


@pytest.mark.parametrize(
    ("sampler", "shape", "message"),
    [
        (within, (6, 2), r"p_H=0\.5 of 3 heads of a key/value group is 1\.5 heads of a key/value group; use a mult"),
        (whole, (6, 3), r"p_H=0\.5 of 3 key/value groups is 1\.5 key/value groups; use a multiple of 1/3"),
        (whole, (4, 1), r"p_H=0\.5 of 1 key/value groups is 0\.5 key/value groups"),
        (
            partial(sample_fixed_size, head_sampling="whole"),
            (4, 2),
            "unknown head sampling 'whole': did you mean 'whole_",
        ),
    ],
)
def test_what_gives_no_whole_number_is_refused(sampler, shape, message):
    with pytest.raises(InputError, match=message):
        sampler(
            StackShape(num_layers=1, num_heads=shape[0], mlp_columns=4, num_kv_heads=shape[1]), HALF, generator=None
        )


@pytest.mark.parametrize("groups", [0, 3, -2])
def test_groups_divide_the_heads(groups):
    with pytest.raises(InputError, match=f"8 heads do not divide into {groups} key/value groups"):
        StackShape(num_layers=1, num_heads=8, mlp_columns=4, num_kv_heads=groups)


def test_full_rates_sample_nothing():
    for sampler in (within, whole):
        for layer in sampler(SHAPE, Rates(), generator=stream(0)).layers:
            assert (layer.heads, layer.groups, layer.head_scale) == (None, None, 1)


@pytest.mark.parametrize(("sampler", "outcomes"), [(within, 36), (whole, 2)])
def test_mean_over_all_draws_is_the_full_attention(sampler, outcomes):
    attention = GroupedAttention(hidden=32, num_heads=8, num_kv_heads=2).double()
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            parameter.normal_(generator=stream(0, name))
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=stream(0, "x"))
    distinct = {_key(layer.heads): layer for layer, _ in _draws(sampler, count=40 * outcomes)}
    assert len(distinct) == outcomes == math.prod([math.comb(4, 2)] * 2 if sampler is within else [2])
    rotary = rotary_table(5, 4, 100.0, like=x)
    outputs = [attention(x, layer, rotary) for layer in distinct.values()]
    full = sampler(SHAPE, Rates(), generator=stream(0)).layers[0]
    # Sums of 32 products of size about 100 in float64.
    torch.testing.assert_close(torch.stack(outputs).mean(0), attention(x, full, rotary), atol=1e-11, rtol=0)
    assert (outputs[0] - outputs[1]).abs().max() > 0.1
