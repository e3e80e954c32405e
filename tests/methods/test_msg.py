"""MSG: what exists is a prefix, growing changes no function, and what is new comes in slowly."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.methods import METHODS, build_method
from est_analysis.models.families import build_model
from est_analysis.models.gpt2.config import GPT2Config
from est_analysis.models.llama.config import LlamaConfig
from est_analysis.rng import stream
from est_analysis.subnet.cost import find_architecture
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.schedule import Rates, find_schedule
from est_analysis.train.growth import apply_growth

SIZES = {"num_layers": 4, "hidden": 16, "mlp_columns": 10, "vocab_size": 17, "context_length": 9}
CONFIGS = {
    "gpt2": GPT2Config(**SIZES, num_heads=4),
    "llama": LlamaConfig(**SIZES, num_heads=8, num_kv_heads=2),
    "llama, own keys": LlamaConfig(**SIZES, num_heads=4, num_kv_heads=4),
}
STEPS = 30  # the stages of EST's baseline end after 4, 8, 14 and 30 steps
FIRSTS = (5, 9, 15)
SCHEDULES = {
    "gpt2-msg": "gpt2-msg",
    "all at once": "4:0.5,0.4,0.5; 30:1,1,1",
    "by halves": "4:0.5,0.2,0.5; 8:0.5,0.4,0.75; 30:1,1,1",
}
every_model = pytest.mark.parametrize("which", CONFIGS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
# Rounding of logits of order 1 to 10 through 4 layers in float64.
EXACT = {"atol": 1e-12, "rtol": 1e-12}


def _build(which="gpt2", *, shape=None, steps=STEPS, grow_time=None, optimizer="zero", **more):
    shape = shape or CONFIGS[which].architecture(9).stack
    options = {"grow_time": grow_time, "optimizer": optimizer}
    return build_method("msg", shape=shape, total_steps=steps, seed=0, options=options, **more)


def _random(which):
    model = build_model(CONFIGS[which]).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.4, generator=stream(0, "fill", name))
    return model


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(17, (2, 9), generator=stream(0, "tokens"))


def _grown(model, method, step):
    """A copy of the model after the growth before `step`."""
    model, growth = copy.deepcopy(model), method.growth(step)
    if growth:
        apply_growth(model.blocks, torch.optim.AdamW(model.parameters()), growth)
    return model


def _listed(layer):
    """(heads, head gates, columns, column gates, scale) of a layer, None for one that does not exist."""
    if layer is None:
        return None
    axes = (layer.heads, layer.head_gate, layer.columns, layer.column_gate)
    return (*(axis if axis is None else axis.tolist() for axis in axes), layer.scale)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_stages_of_ests_baseline_on_gpt2():
    method = _build(shape=StackShape(num_layers=12, num_heads=4, mlp_columns=6), grow_time=2)
    half, heads, columns = [0, 1], [1, 1], [0, 1, 2]
    small, missing = (half, None, columns, None, 1), None
    expected = {
        1: [small] * 6 + [missing] * 6,
        4: [small] * 6 + [missing] * 6,
        5: [small] * 6 + [(*small[:-1], 0)] * 6,  # layers first
        6: [small] * 6 + [(*small[:-1], 0.5)] * 6,
        7: [small] * 12,
        8: [small] * 12,
        9: [(None, [*heads, 0, 0], columns, None, 1)] * 12,
        10: [(None, [*heads, 0.5, 0.5], columns, None, 1)] * 12,
        11: [(None, None, columns, None, 1)] * 12,
        14: [(None, None, columns, None, 1)] * 12,
        15: [(None, None, None, [1, 1, 1, 0, 0, 0], 1)] * 12,
        16: [(None, None, None, [1, 1, 1, 0.5, 0.5, 0.5], 1)] * 12,
    }
    for step, layers in expected.items():
        assert [_listed(layer) for layer in method.mask(step).layers] == layers, step
    assert {method.mask(step) for step in range(17, STEPS + 3)} == {None}
    assert {step: method.growth(step).copies for step in range(1, STEPS + 1) if method.growth(step)} == {
        5: tuple((6 + i, i) for i in range(6))
    }
    assert method.growth(5).optimizer == "zero"


def test_a_share_of_every_group_exists_where_heads_share_keys_and_values():
    method = _build("llama", grow_time=2)
    assert method.mask(1).layers[0].heads.tolist() == [0, 1, 4, 5]
    assert method.mask(10).layers[0].head_gate.tolist() == [1, 1, 0.5, 0.5] * 2
    assert all(layer.groups is None for step in (1, 6, 10) for layer in method.mask(step).layers if layer)


def test_gates_are_of_the_heads_that_exist():
    """From a quarter to a half of the heads of a group, and the rest has yet to come."""
    method = _build("llama", schedule="4:0.25,0.2,1; 8:0.5,0.4,1; 30:1,1,1", grow_time=4)
    layer = method.mask(6).layers[0]
    assert _listed(layer) == ([0, 1, 4, 5], [1, 0.25] * 2, [0, 1, 2, 3], [1, 1, 0.25, 0.25], 1)


@every_schedule
def test_what_is_computed_and_charged_is_the_grown_size(schedule):
    sizes = replace(find_architecture("gpt2"), num_layers=4, num_heads=4, num_kv_heads=4, mlp_columns=10)
    method = _build(shape=sizes.stack, schedule=schedule, grow_time=3)
    plan = find_schedule(schedule).rescaled(STEPS)
    for step in range(1, STEPS + 1):
        rates = plan.spans[plan.stage_at(step)][1]
        assert method.expected_rates(step) == rates
        assert sizes.mask_flops(method.mask(step)) == pytest.approx(sizes.layer_flops(rates), rel=1e-12)


# --- gates ------------------------------------------------------------------------------------------------------------


def _gates(method):
    """m of every step, read off its masks: the least factor on anything that is computed."""

    def least(mask):
        layers = [] if mask is None else [layer for layer in mask.layers if layer]
        gates = [gate for layer in layers for gate in (layer.head_gate, layer.column_gate) if gate is not None]
        return min([1.0, *(layer.scale for layer in layers), *(gate.min().item() for gate in gates)])

    return [least(method.mask(step)) for step in range(1, method.schedule.total_steps + 1)]


@every_schedule
@pytest.mark.parametrize("grow_time", [1, 2.5, 4])
def test_the_gate_rises_linearly_from_0_at_the_first_step_of_a_stage_and_stays_at_1(schedule, grow_time):
    method = _build(schedule=schedule, grow_time=grow_time)
    plan, gates = method.schedule, _gates(method)
    starts = (0, *plan.transitions, STEPS)
    assert set(gates[: starts[1]]) == {1}, "nothing is new in the first stage"
    for start, end in pairwise(starts[1:]):
        # Gates are float32.
        expected = [min(1, taken / grow_time) for taken in range(end - start)]
        assert gates[start:end] == pytest.approx(expected, rel=1e-7)
        assert all(b >= a for a, b in pairwise(gates[start:end]))


@pytest.mark.parametrize(
    ("steps", "ramps"), [(15, (1, 1, 1)), (150, (3, 3, 3)), (1500, (30, 30, 30)), (20, (1, 1, 1)), (12, (1, 1, 1))]
)
def test_by_default_a_fiftieth_of_the_run_lets_in_what_is_new(steps, ramps):
    method = _build(steps=steps)
    starts = (*method.schedule.transitions, steps)
    gates = _gates(method)
    assert tuple(sum(gate < 1 for gate in gates[a:b]) for a, b in pairwise(starts)) == ramps


def test_a_short_stage_is_a_ramp_from_end_to_end():
    method = _build(schedule="1000:1,1,0.5; 1003:1,1,0.75; 2000:1,1,1", steps=2000)
    assert _gates(method)[999:1005] == pytest.approx([1, 0, 1 / 3, 2 / 3, 0, 1 / 40], rel=1e-7)
    assert _listed(method.model_mask(1003).layers[2]) == (None, None, None, None, 1)


@every_schedule
def test_the_model_after_a_step_is_what_the_next_step_trains(schedule):
    method = _build(schedule=schedule, grow_time=3)
    plan = method.schedule
    for step in range(1, STEPS):
        if step not in plan.transitions:
            now, then = (
                mask and [*map(_listed, mask.layers)] for mask in (method.model_mask(step), method.mask(step + 1))
            )
            assert now == then
    assert method.model_mask(STEPS) is None, "a run ends with all of the model"
    assert [*map(_listed, method.model_mask(0).layers)] == [*map(_listed, method.mask(1).layers)]


@pytest.mark.parametrize("grow_time", [None, 1, 2])
def test_even_a_ramp_as_long_as_the_last_stage_ends_full(grow_time):
    method = _build(
        schedule="3:0.5,0.5,0.5; 5:1,1,1",
        shape=StackShape(num_layers=2, num_heads=2, mlp_columns=2),
        steps=5,
        grow_time=grow_time,
    )
    assert method.mask(4) is not None
    assert method.model_mask(5) is None


# --- functions --------------------------------------------------------------------------------------------------------


@every_model
@every_schedule
def test_growing_changes_no_function(tokens, which, schedule):
    """Whatever the new heads and columns hold: all of the model is random here."""
    method, model = _build(which, schedule=schedule, grow_time=3), _random(which)
    for last in method.schedule.transitions:
        before = model(tokens, mask=method.model_mask(last))
        grown = _grown(model, method, last + 1)
        torch.testing.assert_close(grown(tokens, mask=method.mask(last + 1)), before, **EXACT)
        # Planted: a gate that starts one step too late in its rise.
        early = (grown(tokens, mask=method.mask(last + 2)) - before).abs().max()
        assert early > 1e-3
        model = grown


@every_model
@every_schedule
def test_once_let_in_all_is_computed_as_in_a_plain_model_of_the_size(tokens, which, schedule):
    """The model cut down by hand: a smaller one of the same family, with the first heads, columns and layers."""
    method, model, config = _build(which, schedule=schedule, grow_time=3), _random(which), CONFIGS[which]
    for end in (*method.schedule.transitions, STEPS):
        rates = method.expected_rates(end)
        torch.testing.assert_close(model(tokens, mask=method.mask(end)), _cut(model, config, rates)(tokens), **EXACT)
    assert method.mask(STEPS) is None


def _cut(model, config, rates):
    groups = getattr(config, "num_kv_heads", 1)
    per_group = config.num_heads // groups
    own = per_group == 1
    kept = round(rates.heads * (config.num_heads if own or groups == 1 else per_group))
    heads = torch.arange(config.num_heads)
    heads = heads[:kept] if own or groups == 1 else heads.view(groups, per_group)[:, :kept].flatten()
    columns = torch.arange(round(rates.mlp * config.mlp_columns))
    cut = copy.deepcopy(model)
    del cut.blocks[round(rates.layers * config.num_layers) :]
    for block in cut.blocks:
        for part, names, rows in (
            (block.attention, ("qkv_weight", "qkv_bias", "query_weight", "out_weight"), heads),
            (block.attention, ("key_value_weight",) if own else (), heads),
            (block.mlp, ("up_weight", "up_bias", "gate_weight", "down_weight"), columns),
        ):
            for name in names:
                if hasattr(part, name):
                    setattr(part, name, torch.nn.Parameter(getattr(part, name)[rows]))
        if own:
            block.attention.heads_per_group = 1
    return cut


@every_model
def test_what_is_new_learns_from_the_second_step_on(tokens, which):
    method, model = _build(which, grow_time=3), _random(which)
    watched = {5: "blocks.3.mlp.down_weight", 9: "blocks.0.attention.out_weight", 15: "blocks.0.mlp.up_weight"}
    old = {5: 0, 9: len(method.mask(8).layers[0].heads), 15: 5}
    for first, name in watched.items():
        new = (
            _rows_not_in(method.mask(first - 1).layers[0], name, len(model.get_parameter(name))) if old[first] else ...
        )
        for step, learns in ((first, False), (first + 1, True)):
            model.zero_grad()
            model.loss(tokens, tokens, mask=method.mask(step)).backward()
            assert bool(model.get_parameter(name).grad[new].any()) == learns, (step, name)


def _rows_not_in(layer, name, total):
    kept = set((layer.columns if "mlp" in name else layer.heads).tolist())
    return [row for row in range(total) if row not in kept]


# --- the optimizer ----------------------------------------------------------------------------------------------------


def _trained(method, model, tokens, steps):
    """AdamW as the loop drives it: growth, gradients, zeros for what was skipped, step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1, steps + 1):
        if method.growth(step):
            apply_growth(model.blocks, optimizer, method.growth(step))
        optimizer.zero_grad()
        model.loss(tokens, tokens, mask=method.mask(step)).backward()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
    return optimizer


@every_model
def test_what_has_not_grown_has_zero_moments_and_what_has_keeps_its_own(tokens, which):
    method, model = _build(which, grow_time=3), _random(which)
    optimizer = _trained(method, model, tokens, 8)
    layer = method.mask(8).layers[0]
    for name in ("attention.out_weight", "mlp.down_weight", "mlp.up_weight"):
        parameter = model.get_parameter(f"blocks.0.{name}")
        new = _rows_not_in(layer, name, len(parameter))
        old = [row for row in range(len(parameter)) if row not in new]
        for moment in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[parameter][moment]
            assert not state[new].any(), f"{moment} of new rows of {name}"
            assert state[old].flatten(1).any(1).all()
    # The next growth is of heads: it touches no state at all.
    assert method.growth(9) is None


@pytest.mark.parametrize("option", ["zero", "copy", "reset_all"])
def test_new_layers_are_copies_that_are_new_to_the_optimizer_unless_told_otherwise(tokens, option):
    method, model = _build(grow_time=3, optimizer=option), _random("gpt2")
    optimizer = _trained(method, model, tokens, 4)
    sources = [[p.detach().clone() for p in model.blocks[i].parameters()] for i in (0, 1)]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in model.blocks[0].parameters()]
    apply_growth(model.blocks, optimizer, method.growth(5))
    for i in (2, 3):
        assert all(
            torch.equal(p, source) for p, source in zip(model.blocks[i].parameters(), sources[i - 2], strict=True)
        )
        assert all((p in optimizer.state) == (option == "copy") for p in model.blocks[i].parameters())
    if option == "reset_all":
        assert not optimizer.state
        return
    for parameter, moment in zip(model.blocks[0].parameters(), moments, strict=True):
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "ul2-raptr-12-16-20-24", "steps": 300}, "warms up with the full model, which msg cannot shrink"),
        ({"schedule": "1:0.5,0.5,0.5; 2:0.5,0.5,1"}, "never reaches the full model, and msg ends with it"),
        ({"schedule": "1:1,1,0.25; 2:1,1,1"}, "grows from 1 to 4 layers, but has only 1 to copy"),
        ({"schedule": "1:0.3,0.5,0.5; 2:1,1,1"}, "p_H=0.3 of 4 heads is 1.2 heads; use a multiple of 1/4"),
        ({"schedule": "1:0.5,0.55,0.5; 2:1,1,1"}, "p_M=0.55 of 10 MLP columns is 5.5 MLP columns"),
        (
            {"which": "llama", "schedule": "1:0.125,0.5,0.5; 2:1,1,1"},
            "is 0.5 heads of a key/value group; use a multiple",
        ),
        ({"optimizer": "new"}, "unknown optimizer 'new'"),
        (
            {"grow_time": 0},
            "grow_time=0 must be a number of steps from 1 to 4, the shortest stage of schedule 'gpt2-msg'",
        ),
        ({"grow_time": 4.5}, "grow_time=4.5 must be a number of steps from 1 to 4"),
        ({"grow_time": float("nan")}, "grow_time=nan must be a number of steps"),
        ({"grow_time": True}, "grow_time=True must be a number of steps"),
        ({"grow_time": "long"}, "grow_time=long must be a number of steps"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError) as caught:
        _build(**changes)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_schedule_that_falls_is_refused():
    schedule = find_schedule("gpt2-msg").rescaled(STEPS).in_reverse()
    with pytest.raises(InputError, match="never reaches the full model"):
        METHODS["msg"](shape=CONFIGS["gpt2"].architecture(9).stack, schedule=schedule, seed=0)


def test_a_schedule_that_does_not_grow_is_the_full_model():
    method = _build(schedule="full", grow_time=50)
    assert all(method.mask(step) is None is method.growth(step) for step in range(1, STEPS))
    assert method.expected_rates(1) == Rates()
