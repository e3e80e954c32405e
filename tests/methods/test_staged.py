"""Staged Training: what exists when, what is refused, and what it truly costs."""

from dataclasses import replace

import pytest

from est_analysis.errors import InputError
from est_analysis.methods import Enlargement, build_method
from est_analysis.methods.cost import default_cost, method_cost
from est_analysis.models.families import find_preset
from est_analysis.subnet.cost import find_architecture, schedule_cost
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.schedule import Rates, Schedule, Stage, find_schedule

SHAPE = StackShape(num_layers=8, num_heads=8, mlp_columns=32)
HALF, FULL = Rates(heads=0.5, mlp=0.5, hidden=0.5), Rates()
GPT2 = find_architecture("gpt2")
# Width, then depth, then width again.
THREE = "1:0.25,0.25,0.5; 2:0.25,0.25,1; 3:1,1,1"


def _build(schedule=None, *, shape=SHAPE, steps=30, **options):
    return build_method("staged", shape=shape, total_steps=steps, seed=7, schedule=schedule, options=options)


def test_half_of_the_width_exists_for_a_third_of_the_steps():
    method = _build()
    assert [method.existing(step) for step in (1, 10, 11, 30)] == [HALF, HALF, FULL, FULL]
    assert [method.expected_rates(step) for step in (1, 10, 11)] == [HALF, HALF, FULL]
    growths = {step: growth for step in range(1, 35) if (growth := method.growth(step))}
    assert growths == {11: Enlargement(sym_break=0.01, depth_init="zero", stream=(7, "growth", 11))}
    assert all(method.mask(step) is method.model_mask(step) is None for step in range(31))


def test_width_and_depth_grow_by_stages_of_their_own():
    method = _build(THREE)
    quarter = {"heads": 0.25, "mlp": 0.25, "hidden": 0.25}
    found = [method.existing(step) for step in (10, 11, 20, 21)]
    assert found == [Rates(**quarter, layers=0.5), Rates(**quarter), Rates(**quarter), FULL]
    assert [step for step in range(1, 31) if method.growth(step)] == [11, 21]


def test_options_reach_the_growth():
    growth = _build(sym_break=0.0, depth_init="copy").growth(11)
    assert (growth.sym_break, growth.depth_init) == (0, "copy")


@pytest.mark.parametrize(
    ("schedule", "changes", "message"),
    [
        ("1:0.5,0.25,1; 2:1,1,1", {}, "has p_H=0.5 and p_M=0.25, and staged grows all of the width at once"),
        ("1:0.75,0.75,1; 2:1,1,1", {}, "has p_H=0.75, and staged only doubles sizes; use 1/2, 1/4, ... or 1"),
        ("1:1,1,0.75; 2:1,1,1", {}, "has p_L=0.75, and staged only doubles sizes"),
        ("gpt2-one-stage", {}, "never reaches the full model, and staged ends with it"),
        ("ul2-raptr-12-16-20-24", {}, "warms up with the full model, which staged cannot shrink again"),
        (None, {"shape": replace(SHAPE, num_heads=3)}, "p_H=0.5 of 3 heads is 1.5 heads"),
        (None, {"shape": replace(SHAPE, num_kv_heads=1)}, "p_H=0.5 of 1 key/value heads is 0.5 key/value heads"),
        (None, {"shape": replace(SHAPE, mlp_columns=7)}, "p_M=0.5 of 7 MLP columns"),
        (THREE, {"shape": replace(SHAPE, num_layers=5)}, "p_L=0.5 of 5 layers is 2.5 layers"),
        (None, {"depth_init": "id"}, "unknown depth init 'id': Known: copy, zero"),
        (None, {"sym_break": -1.0}, "sym_break=-1.0 must be a number of at least 0"),
        (None, {"sym_break": "yes"}, "sym_break=yes must be a number of at least 0"),
        (None, {"sym_break": float("nan")}, "sym_break=nan must be a number of at least 0"),
    ],
)
def test_what_is_no_growth_by_doubling_is_refused(schedule, changes, message):
    with pytest.raises(InputError) as caught:
        _build(schedule, **changes)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_schedule_that_falls_is_refused():
    falling = find_schedule("gpt2-staged").in_reverse()
    method = _build()
    with pytest.raises(InputError, match="never reaches the full model"):
        replace(method, schedule=falling)


# --- cost -------------------------------------------------------------------------------------------------------------


def test_half_of_the_hidden_size_saves_more_than_the_paper_says():
    """EST states 16.7 %, which takes half of the width for half of the cost; its matrices cost a quarter."""
    _, cost = default_cost("staged", GPT2)
    # Over d = 768: projections and MLP 24 d, scores 4 N.
    assert cost.paper_saving == pytest.approx((1 - (24 * 768 / 4 + 4096 / 2) / (24 * 768 + 4096)) / 3, rel=1e-12)
    assert round(100 * cost.paper_saving, 1) == 23.5
    assert round(100 * cost.true_saving, 1) == 21.6
    assert round(cost.ideal_speedup, 3) == 1.276
    assert round(100 * schedule_cost(find_schedule("gpt2-staged"), GPT2).paper_saving, 1) == 16.7


@pytest.mark.parametrize(
    ("changes", "layers", "everything"),
    # Half of the scores, and none: parameters alone, three quarters of a third.
    [({"attention": "causal"}, 24.2, 22.0), ({"seq_len": 1e-9}, 25.0, 22.4)],
    ids=["causal", "parameters"],
)
def test_cost_without_some_of_the_scores(changes, layers, everything):
    cost = method_cost(_build(shape=GPT2.stack), replace(GPT2, **changes))
    assert (round(100 * cost.paper_saving, 1), round(100 * cost.true_saving, 1)) == (layers, everything)


@pytest.mark.parametrize(("family", "preset"), [("gpt2", "gpt2"), ("llama", "tinyllama"), ("llama", "tiny")])
def test_expected_cost_is_that_of_the_model_that_trains(family, preset):
    """With shared keys and values too, which a narrower model has fewer of."""
    config = find_preset(preset, family=family, vocab_size=1000)
    sizes = config.architecture(128)
    method = _build("1:0.5,0.5,0.5; 2:1,1,1", shape=sizes.stack)
    small = config.scaled(method.existing(1)).architecture(128)
    stage, last = method_cost(method, sizes).stages
    assert stage.true == pytest.approx(small.mask_flops(None) + small.head_flops, rel=1e-12)
    assert last.true == pytest.approx(sizes.mask_flops(None) + sizes.head_flops, rel=1e-12)


def test_a_stage_of_equal_rates_is_no_growth():
    stages = (Stage(until=5, rates=Rates()), Stage(until=10, rates=Rates()))
    method = replace(_build(), schedule=Schedule(name="s", source="t", stages=stages))
    assert not any(map(method.growth, range(1, 12)))
