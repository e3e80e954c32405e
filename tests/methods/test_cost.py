"""The expected cost of every method against its own realised masks, and against numbers worked out by hand."""

import math
import re
import sys
from dataclasses import replace

import pytest

from est_analysis.errors import InputError
from est_analysis.methods import METHODS, build_method
from est_analysis.methods.card import method_card
from est_analysis.methods.cost import LEAST_STEPS, countable_steps, default_cost, method_cost
from est_analysis.subnet.cost import find_architecture, schedule_cost
from est_analysis.subnet.schedule import SCHEDULES, Rates, find_schedule

GPT2 = find_architecture("gpt2")
SMALL = replace(GPT2, num_heads=4, mlp_columns=8, num_kv_heads=4)  # the same layers, and quick to draw
STEPS = 3000
every_method = pytest.mark.parametrize("name", METHODS)
FIXED = {"full", "est", "gradual_stacking", "progressive_stacking"}


def _build(name, architecture=SMALL, *, steps=STEPS, **more):
    return build_method(name, shape=architecture.stack, total_steps=steps, seed=0, **more)


def _explains(expected, masks, architecture, variance):
    """Whether the masks' mean cost is `expected`, up to rounding or 4.5 standard errors of layers of that variance."""
    realised = math.fsum(architecture.mask_flops(mask) for mask in masks) / len(masks)
    error = 4.5 * math.sqrt(variance / len(masks)) / architecture.num_layers * architecture.mask_flops(None)
    return abs(realised - expected) < max(error, 1e-9 * expected)


CASES = [(name, "", {}) for name in METHODS]
CASES += [("est", "gpt2-constant-three-quarters", {}), ("raptr", "gpt2-est", {}), ("raptr", "gpt2-three-stage", {})]
CASES += [("pld", "", {"theta": 0.5}), ("pld", "", {"deepspeed_compat": True}), ("pld", "", {"gamma_steps": 3.0})]
CASES += [("layer_dropout", "bert-stacking-6-9-12", {}), ("full", "gpt2-est", {})]


@pytest.mark.parametrize(("name", "schedule", "options"), CASES)
def test_expected_cost_is_the_mean_of_realised_masks(name, schedule, options):
    method = _build(name, schedule=schedule or None, options=options)
    cost = method_cost(method, SMALL)
    steps = sum(stage.steps for stage in cost.stages)
    assert steps == STEPS
    expected = sum(stage.steps * (stage.true - SMALL.head_flops) for stage in cost.stages) / steps
    masks = list(map(method.mask, range(1, STEPS + 1)))
    # Independent gates of any rates have a depth of variance at most L/4; fixed sizes have none.
    variance = 0 if name in FIXED else SMALL.num_layers / 4
    assert _explains(expected, masks, SMALL, variance)
    # Planted: three per cent more.
    assert not _explains(1.03 * expected, masks, SMALL, variance)


@every_method
def test_expected_rates_are_a_rate_at_every_step(name):
    method = _build(name, steps=60)
    for step in range(1, 65):
        rates = method.expected_rates(step)
        assert isinstance(rates, Rates)
        assert method.mask(step) is not None or rates.full


# Layer saving of the default schedules, by hand: steps times share of what a full layer stack costs.
BY_HAND = {
    "full": 0,
    "est": 1 - (20 / 4 + 50 / 2 + 80) / 150,
    "progressive_stacking": 1 - (50 * 3 + 70 * 6 + 280 * 12) / (400 * 12),
    **dict.fromkeys(
        ["raptr", "raptr_reversed", "stochastic_depth", "layer_dropout", "pld", "gradual_stacking"], 1 - 9 / 12
    ),
}


@every_method
def test_default_cost_by_hand(name):
    schedule, cost = default_cost(name, GPT2)
    assert cost.paper_saving == pytest.approx(BY_HAND[name], rel=1e-12, abs=1e-12)
    assert cost.true_saving == pytest.approx(BY_HAND[name] * 270336 / 370850, rel=1e-12, abs=1e-12)
    steps = [steps for steps, _ in find_schedule(METHODS[name].default_schedule).spans]
    assert sorted(stage.steps for stage in cost.stages) == sorted(steps)
    assert len(schedule.spans) == len(cost.stages)


@pytest.mark.parametrize("name", ["est", "raptr"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_methods_that_follow_any_schedule_cost_what_it_costs(name, schedule):
    layers = {"tinyllama-est": 22, "ul2-raptr-12-16-20-24": 24}.get(schedule, 12)
    sizes = replace(SMALL, num_layers=layers)
    published = find_schedule(schedule)
    unit = math.gcd(*published.transitions, published.total_steps)
    plan = published.rescaled(10 * published.total_steps // unit)
    ours = method_cost(_build(name, sizes, steps=plan.total_steps, schedule=schedule), sizes)
    theirs = schedule_cost(plan, sizes)
    assert [(stage.steps, stage.rates) for stage in ours.stages] == [(s.steps, s.rates) for s in theirs.stages]
    assert ours.true_saving == pytest.approx(theirs.true_saving, rel=1e-12, abs=1e-15)


def test_shared_keys_and_values_are_the_methods_to_say():
    sizes = replace(find_architecture("tinyllama"), num_layers=12, mlp_columns=8)
    for name in ("est", "raptr"):
        within, whole = (
            _build(name, sizes, schedule="1:0.5,0.5,1", steps=10, options={"head_sampling": sampling})
            for sampling in ("within_groups", "whole_groups")
        )
        costs = [method_cost(method, sizes).stages[0].true - sizes.head_flops for method in (within, whole)]
        assert costs == [sizes.mask_flops(method.mask(1)) for method in (within, whole)]
        assert costs[1] < costs[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_countable_steps_keep_every_share_exactly(name):
    plan = find_schedule(name)
    steps = countable_steps(plan)
    assert LEAST_STEPS <= steps < 2 * LEAST_STEPS
    for before, after in zip(plan.transitions, plan.rescaled(steps).transitions, strict=True):
        assert before * steps == after * plan.total_steps


def test_a_schedule_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"p_L=0\.75 of 22 layers is 16\.5 layers"):
        default_cost("gradual_stacking", find_architecture("tinyllama"))


# --- cards ------------------------------------------------------------------------------------------------------------


@every_method
def test_a_card_has_a_line_and_a_source(name):
    card = method_card(METHODS[name])
    assert card.summary.endswith(".")
    assert 10 < len(card.source) < 250
    assert "Cost:" not in card.source


@every_method
def test_a_card_states_the_cost_that_is_computed(name):
    text = sys.modules[METHODS[name].__module__].__doc__
    stated = [float(number) for number in re.findall(r"([\d.]+)\s+%\s+fewer\s+layer\s+FLOPs", text)]
    assert stated or name in {"full", "raptr_reversed"}
    for number in stated:
        assert number == pytest.approx(100 * default_cost(name, GPT2)[1].paper_saving, abs=0.05)
