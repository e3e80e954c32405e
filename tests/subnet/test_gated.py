"""PLD's sampler: one independent gate a layer, each with its own rate."""

import itertools
import math
from collections import Counter

import pytest
from scipy.stats import chi2

from est_analysis.rng import stream
from est_analysis.subnet.sample import sample_gated

RATES = [0.9, 0.7, 0.5, 0.2]


def _many(rates, draws):
    return [sample_gated(rates, sublayer_scales=[1.0] * 4, generator=stream(0, "mask", i)) for i in range(draws)]


def _follows(masks, rates):
    """Chi-square at level 1e-5 of all 16 subsets against the product of the gates' probabilities."""
    counts = Counter(mask.active_layers for mask in masks)
    statistic = 0.0
    for gates in itertools.product((0, 1), repeat=4):
        chance = math.prod(p if gate else 1 - p for gate, p in zip(gates, rates, strict=True))
        expected = len(masks) * chance
        statistic += (counts[tuple(i for i, gate in enumerate(gates) if gate)] - expected) ** 2 / expected
    return statistic < chi2.ppf(1 - 1e-5, 15)


def test_every_subset_has_the_product_of_its_gates_probabilities():
    masks = _many(RATES, 3000)
    assert _follows(masks, RATES)
    # Planted: rates by one layer too early, and their mean for all.
    assert not _follows(_many([0.95, 0.9, 0.7, 0.5], 3000), RATES)
    assert not _follows(_many([0.575] * 4, 3000), RATES)


def test_kept_layers_carry_their_own_scale_and_nothing_else():
    scales = [1.5, 2.5, 3.5, 4.5]
    for step in range(50):
        mask = sample_gated(RATES, sublayer_scales=scales, generator=stream(0, "mask", step))
        for i in mask.active_layers:
            layer = mask.layers[i]
            assert layer.sublayer_scale == scales[i]
            assert (layer.heads, layer.columns) == (None, None)
            assert (layer.head_scale, layer.column_scale, layer.scale) == (1, 1, 1)


def test_rates_0_and_1_leave_no_chance():
    assert {mask.active_layers for mask in _many([1, 0, 1, 0], 100)} == {(0, 2)}


def test_rates_and_scales_must_be_of_one_length():
    with pytest.raises(ValueError, match="shorter"):
        sample_gated(RATES, sublayer_scales=[1.0], generator=stream(0, "mask"))
