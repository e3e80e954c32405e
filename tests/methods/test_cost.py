"""The expected cost of every method against its own realised masks, and against numbers worked out by hand."""

import math
import re
import sys
from dataclasses import replace

import pytest

from est_analysis.errors import InputError
from est_analysis.methods import METHODS, build_method
from est_analysis.methods.card import Card, method_card
from est_analysis.methods.cost import LEAST_STEPS, countable_steps, default_cost, method_cost
from est_analysis.subnet.cost import find_architecture, schedule_cost
from est_analysis.subnet.schedule import SCHEDULES, Rates, find_schedule

GPT2 = find_architecture("gpt2")
SMALL = replace(GPT2, num_heads=4, mlp_columns=8, num_kv_heads=4)  # the same layers, and quick to draw
STEPS = 3000
every_method = pytest.mark.parametrize("name", METHODS)
UNSAVING = {"full", "structured_dropout", "dropout"}  # everything is computed
FIXED = {*UNSAVING, "short", "staged", "est", "gradual_stacking", "progressive_stacking", "msg"}


def _build(name, architecture=SMALL, *, steps=STEPS, **more):
    return build_method(name, shape=architecture.stack, total_steps=steps, seed=0, **more)


def _explains(expected, flops, architecture, variance):
    """Whether the mean of `flops` is `expected`, to rounding or 4.5 standard errors of layers of that variance."""
    realised = math.fsum(flops) / len(flops)
    error = 4.5 * math.sqrt(variance / len(flops)) / architecture.num_layers * architecture.mask_flops(None)
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
    assert cost.total_steps == STEPS
    assert steps == method.steps_to_train(SMALL)
    heads = [SMALL.narrowed(stage.rates.hidden).head_flops for stage in cost.stages]
    expected = sum(s.steps * (s.true - head) for s, head in zip(cost.stages, heads, strict=True)) / steps
    flops = [_flops(method, step) for step in range(1, steps + 1)]
    # Independent gates of any rates have a depth of variance at most L/4; fixed sizes have none.
    variance = 0 if name in FIXED else SMALL.num_layers / 4
    assert _explains(expected, flops, SMALL, variance)
    # Planted: three per cent more.
    assert not _explains(1.03 * expected, flops, SMALL, variance)


def _flops(method, step):
    """Of the layers of a step: its mask on the model that exists, which keeps the width of heads."""
    share = method.existing(step)
    sizes = replace(
        SMALL,
        num_layers=round(share.layers * SMALL.num_layers),
        hidden=round(share.hidden * SMALL.hidden),
        num_heads=round(share.heads * SMALL.num_heads),
        num_kv_heads=round(share.heads * SMALL.num_kv_heads),
        mlp_columns=round(share.mlp * SMALL.mlp_columns),
    )
    return sizes.mask_flops(method.mask(step))


@every_method
def test_expected_rates_are_a_rate_at_every_step(name):
    method = _build(name, steps=60)
    for step in range(1, 65):
        rates = method.expected_rates(step)
        assert isinstance(rates, Rates)
        assert method.mask(step) is not None or rates == method.existing(step)


# Layer saving of the default schedules, by hand: steps times share of what a full layer stack costs.
BY_HAND = {
    **dict.fromkeys(UNSAVING, 0),
    **dict.fromkeys(["est", "short"], 1 - (20 / 4 + 50 / 2 + 80) / 150),
    # Over d = 768: projections and MLP 8 d + 16 d, a quarter in half of the width, scores 4 N, a half.
    "staged": (1 - (24 * 768 / 4 + 4096 / 2) / (24 * 768 + 4096)) / 3,
    "msg": 1 - (20 / 4 + 20 / 2 + 30 * (5 + 6 / 2) / 11 + 80) / 150,  # attention is 5 parts of 11 of a layer
    "progressive_stacking": 1 - (50 * 3 + 70 * 6 + 280 * 12) / (400 * 12),
    **dict.fromkeys(
        ["raptr", "raptr_reversed", "stochastic_depth", "layer_dropout", "pld", "gradual_stacking"], 1 - 9 / 12
    ),
}


# Those that save of the head too; layers are 270336 parts of 370850 of a GPT-2 (`tests/commands/test_flops.py`).
TRUE_BY_HAND = {
    "short": BY_HAND["short"],
    "staged": (BY_HAND["staged"] * 270336 + (1 - 1 / 2) * 100514 / 3) / 370850,
}


@every_method
def test_default_cost_by_hand(name):
    schedule, cost = default_cost(name, GPT2)
    assert cost.paper_saving == pytest.approx(BY_HAND[name], rel=1e-12, abs=1e-12)
    expected = TRUE_BY_HAND.get(name, BY_HAND[name] * 270336 / 370850)
    assert cost.true_saving == pytest.approx(expected, rel=1e-12, abs=1e-12)
    published = find_schedule(METHODS[name].default_schedule)
    assert (schedule.source, cost.total_steps) == (published.source, published.total_steps)
    steps = [110_000] if name == "short" else [steps for steps, _ in published.spans]  # of 150k
    assert sorted(stage.steps for stage in cost.stages) == sorted(steps)


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


def test_a_method_that_says_nothing_of_itself_has_a_card():
    class Silent(METHODS["est"]):
        pass

    Silent.__module__ = "builtins"
    assert method_card(Silent) == Card(summary="Silent", source="")
