"""What every training method promises, discovered over `METHODS`: a new method is tested by being registered."""

import math
from dataclasses import replace

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.methods import METHODS, build_method, find_method, method_options
from est_analysis.methods.method import Enlargement, Growth, Method
from est_analysis.subnet.mask import StackShape, SubnetMask
from est_analysis.subnet.sample import sample_bernoulli, sample_fixed_size
from est_analysis.subnet.schedule import SCHEDULES, Rates, Schedule, Stage, find_schedule

SHAPE = StackShape(num_layers=12, num_heads=4, mlp_columns=8)
STEPS = 60
GROWING = {name for name, kind in METHODS.items() if kind.growth is not Method.growth}
DRAWING = {
    "dropout",
    "est",
    "layer_dropout",
    "pld",
    "raptr",
    "raptr_reversed",
    "stochastic_depth",
    "structured_dropout",
}
every_method = pytest.mark.parametrize("name", METHODS)
# Those whose law changes within a stage of their schedule, or is not that of the stage.
UNSTAGED = {"pld", "stochastic_depth", "layer_dropout", "msg", "short", "staged"}
every_staged_method = pytest.mark.parametrize("name", sorted(METHODS.keys() - UNSTAGED))
UNSTRUCTURED = {"dropout"}  # drops units: no layer, head or column as a whole
every_sized_method = pytest.mark.parametrize("name", sorted(METHODS.keys() - UNSTAGED - UNSTRUCTURED))


def _build(name, **changes):
    return build_method(name, **{"shape": SHAPE, "total_steps": STEPS, "seed": 0} | changes)


def _key(mask):
    """A mask as a comparable value."""
    if mask is None:
        return None

    def layer_key(layer):
        axes = (layer.heads, layer.columns, layer.head_gate, layer.column_gate)
        return (*(axis if axis is None else tuple(axis.tolist()) for axis in axes), *_scales(layer), layer.dropout)

    return tuple(layer and layer_key(layer) for layer in mask.layers)


def _scales(layer):
    return (layer.head_scale, layer.column_scale, layer.scale, layer.sublayer_scale)


def _constant(method, rates, **changes):
    """The method held at one stage's rates."""
    schedule = Schedule(name="constant", source="test", stages=(Stage(until=10_000, rates=rates),))
    return replace(method, schedule=schedule, **changes)


@every_method
def test_has_a_published_default_schedule_and_a_card(name):
    assert METHODS[name].default_schedule in SCHEDULES
    assert issubclass(METHODS[name], Method)
    card = __import__(METHODS[name].__module__, fromlist=["x"]).__doc__
    assert "Source:" in card
    assert "Cost:" in card


@every_method
def test_the_mask_is_a_pure_function_of_seed_and_step(name):
    first = _build(name)
    forward = [_key(first.mask(step)) for step in range(1, STEPS + 1)]
    assert [_key(first.mask(step)) for step in range(1, STEPS + 1)] == forward, "called twice"
    torch.manual_seed(123)
    resumed = _build(name)
    assert [_key(resumed.mask(step)) for step in range(STEPS, 0, -1)][::-1] == forward, "called backwards, elsewhere"


@every_method
def test_sampling_methods_differ_by_step_and_seed(name):
    masks = [[_key(_build(name, seed=seed).mask(step)) for step in range(1, STEPS + 1)] for seed in (0, 1)]
    drawn = len(set(masks[0])) > STEPS / 4
    assert drawn or name not in DRAWING
    assert sum(one != other for one, other in zip(*masks, strict=True)) > STEPS / 4 if drawn else masks[0] == masks[1]


@every_method
def test_global_rng_is_untouched(name):
    before = torch.get_rng_state()
    method = _build(name)
    for step in range(1, STEPS + 1):
        method.mask(step)
    assert torch.equal(torch.get_rng_state(), before)


@every_method
def test_growth_is_a_pure_function_of_the_step_and_fits_the_shape(name):
    steps = range(1, STEPS + 5)
    growths = [_build(name).growth(step) for step in steps]
    enlarges = any(isinstance(growth, Enlargement) for growth in growths)  # which has noise of the seed
    for seed in (0,) if enlarges else (0, 1):
        method = _build(name, seed=seed)
        assert [method.growth(step) for step in reversed(steps)][::-1] == growths
    assert any(growths) == (name in GROWING)
    assert all(isinstance(growth, Enlargement | Growth) for growth in filter(None, growths))
    for growth in filter(lambda growth: isinstance(growth, Growth), growths):
        assert {layer for copy in growth.copies for layer in copy} <= set(range(SHAPE.num_layers))


@every_staged_method
def test_full_stages_and_only_they_give_no_mask(name):
    method = _build(name)
    for step in range(1, STEPS + 5):
        rates = method.schedule.spans[method.schedule.stage_at(step)][1]
        assert (method.mask(step) is None) == rates.full


@every_method
def test_masks_fit_the_shape(name):
    method = _build(name)
    for mask in filter(None, map(method.mask, range(1, STEPS + 1))):
        assert isinstance(mask, SubnetMask)
        assert len(mask.layers) == SHAPE.num_layers
        for layer in filter(None, mask.layers):
            for index, gate, total in (
                (layer.heads, layer.head_gate, SHAPE.num_heads),
                (layer.columns, layer.column_gate, SHAPE.mlp_columns),
            ):
                assert index is None or index.tolist() == sorted(set(index.tolist()) & set(range(total)))
                assert gate is None or len(gate) == (total if index is None else len(index))


def _sizes(mask):
    """(active layers, mean active heads and columns of an active layer); what is multiplied by 0 is not active."""

    def active(index, gate, total):
        return (total if index is None else len(index)) if gate is None else int(gate.count_nonzero())

    layers = [layer for layer in mask.layers if layer and layer.scale]
    heads = [active(layer.heads, layer.head_gate, SHAPE.num_heads) for layer in layers]
    columns = [active(layer.columns, layer.column_gate, SHAPE.mlp_columns) for layer in layers]
    return len(layers), sum(heads) / len(layers), sum(columns) / len(layers)


def _agrees_with_rates(masks, rates):
    """Heads and columns exactly, layers in the mean.

    Any law of independent or fixed-size layers has a depth of variance at most L/4: 4.5 standard errors of that.
    """
    depths, heads, columns = zip(*map(_sizes, masks), strict=True)
    error = 4.5 * math.sqrt(SHAPE.num_layers / 4 / len(masks))
    return (
        abs(sum(depths) / len(depths) - rates.layers * SHAPE.num_layers) < error
        and set(heads) == {rates.heads * SHAPE.num_heads}
        and set(columns) == {rates.mlp * SHAPE.mlp_columns}
    )


@every_sized_method
def test_active_counts_match_the_rates_of_every_stage(name):
    method, start = _build(name, total_steps=6000), 1  # no stage is shorter than 400 steps
    for steps, rates in method.schedule.spans:
        first, start = start, start + steps
        if not rates.full:
            masks = [method.mask(step) for step in range(first, first + 400)]
            assert _agrees_with_rates(masks, rates)
            # Planted: rates that ask for half a layer less are told apart.
            off = replace(rates, layers=rates.layers - 0.5 / SHAPE.num_layers)
            assert not _agrees_with_rates(masks, off)


def test_est_sizes_are_exact_at_every_step():
    held = _constant(_build("est"), Rates(heads=0.25, mlp=0.5, layers=1 / 3))
    assert {_sizes(held.mask(step)) for step in range(1, 200)} == {(4, 1, 4)}


def test_raptr_always_keeps_the_first_and_the_last_layer():
    held = _constant(_build("raptr"), Rates(layers=0.5))
    actives = [held.mask(step).active_layers for step in range(1, 200)]
    assert all({0, 11} <= set(active) for active in actives)
    assert len({len(active) for active in actives}) > 1, "depth is random, not fixed"


@pytest.mark.parametrize("scale", ["none", "sqrt_gap", "inv_p", "linear_gap"])
def test_methods_draw_the_samplers_law_from_the_named_stream(scale):
    rates = Rates(layers=0.5)
    raptr, est = _constant(_build("raptr", options={"output_scale": scale}), rates), _constant(_build("est"), rates)
    for step in (1, 2, 77):
        expected = sample_bernoulli(SHAPE, 6, always_kept={0, 11}, scale=scale, generator=raptr.generator(step))
        assert _key(raptr.mask(step)) == _key(expected)
        assert _key(est.mask(step)) == _key(sample_fixed_size(SHAPE, rates, generator=est.generator(step)))


def test_raptr_draws_heads_and_columns_as_est_does_after_its_own_layers():
    rates = Rates(heads=0.5, mlp=0.25, layers=0.5)
    held = _constant(_build("raptr", options={"output_scale": "sqrt_gap"}), rates)
    depths = []
    for step in range(1, 100):
        mask, generator = held.mask(step), held.generator(step)
        alone = sample_bernoulli(SHAPE, 6, always_kept={0, 11}, scale="sqrt_gap", generator=generator)
        assert mask.active_layers == alone.active_layers
        assert _sizes(mask)[1:] == (2, 2)
        depths.append(len(mask.active_layers))
        for layer, bare in zip(filter(None, mask.layers), filter(None, alone.layers), strict=True):
            # The generator goes on where the layers left it: heads, then columns, layer by layer.
            assert layer.heads.tolist() == torch.randperm(4, generator=generator)[:2].sort().values.tolist()
            assert layer.columns.tolist() == torch.randperm(8, generator=generator)[:2].sort().values.tolist()
            assert _scales(layer) == (2, 4, bare.scale, 1)
    assert len(set(depths)) > 1


def test_raptr_keeps_all_layers_where_only_heads_and_columns_are_sampled():
    method = _build("raptr", schedule="gpt2-est", total_steps=150)
    assert {_sizes(method.mask(step)) for step in range(21, 71)} == {(12, 2, 4)}
    assert method.mask(71) is None
    assert {0, 11} <= set(method.mask(1).active_layers)


def test_full_ignores_any_schedule():
    method = _build("full", schedule="gpt2-est")
    assert {_key(method.mask(step)) for step in range(1, STEPS)} <= {None, _key(SubnetMask.full(12))}


def test_the_schedule_is_stretched_to_the_run():
    method = _build("est", total_steps=150)
    assert method.schedule == find_schedule("gpt2-est").rescaled(150)
    sizes = {step: _sizes(method.mask(step)) for step in (1, 20, 21, 70)}
    assert sizes == {1: (6, 2, 4), 20: (6, 2, 4), 21: (12, 2, 4), 70: (12, 2, 4)}
    assert method.mask(71) is None


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ets", {}, "unknown method 'ets': did you mean 'est'"),
        ("est", {"schedule": "gpt3-est"}, "unknown schedule 'gpt3-est': did you mean 'gpt2-est'"),
        ("est", {"shape": replace(SHAPE, num_layers=5)}, "p_L=0.5 of 5 layers is 2.5 layers; use a multiple of 1/5"),
        ("est", {"shape": replace(SHAPE, num_heads=3)}, "p_H=0.5 of 3 heads is 1.5 heads; use a multiple of 1/3"),
        ("est", {"shape": replace(SHAPE, mlp_columns=7)}, "p_M=0.5 of 7 MLP columns is 3.5 MLP columns"),
        ("est", {"total_steps": 2}, "2 steps are too few for the 3 stages of 'gpt2-est'"),
        ("est", {"options": {"output_scale": "inv_p"}}, "unknown option 'output_scale' of method est; its options are"),
        ("raptr", {"options": {"output_scale": "cubic"}}, "unknown output scale 'cubic'"),
        ("raptr", {"options": {"output_scale": 1.0}}, "unknown output scale '1.0': Known: inv_p, linear_gap, none, "),
        ("raptr", {"options": {"head_sampling": 1.0}}, "unknown head sampling '1.0': Known: whole_groups, within_gr"),
        ("est", {"options": {"law": 1.0}}, "unknown law '1.0': Known: bernoulli, fixed_size"),
        (
            "est",
            {"options": {"head_sampling": True}},
            "unknown head sampling 'True': Known: whole_groups, within_groups",
        ),
        ("staged", {"options": {"depth_init": 0.0}}, "unknown depth init '0.0': Known: copy, zero"),
        ("msg", {"options": {"optimizer": 2.0}}, "unknown optimizer '2.0': Known: copy, reset_all, zero"),
        ("gradual_stacking", {"options": {"optimizer": 2.0}}, "unknown optimizer '2.0': Known: copy, reset_all, zero"),
        ("raptr", {"options": {"theta": 0.5}}, "unknown option 'theta' of method raptr; its options are output_scale"),
        ("full", {"options": {"theta": 0.5}}, "unknown option 'theta' of method full; it has none"),
        ("pld", {"options": {"seed": 1}}, "unknown option 'seed' of method pld; its options are theta, gamma_steps"),
        (
            "raptr",
            {"schedule": "gpt2-est", "shape": replace(SHAPE, num_heads=3)},
            "p_H=0.5 of 3 heads is 1.5 heads; use a multiple of 1/3",
        ),
        ("raptr", {"options": {"head_sampling": "half"}, "schedule": "gpt2-est"}, "unknown head sampling 'half'"),
        ("layer_dropout", {"schedule": "gpt2-three-stage"}, "samples heads or MLP columns, layer_dropout only layers"),
        ("layer_dropout", {"options": {"output_scale": "inv_p"}}, "unknown option 'output_scale' of method layer_drop"),
        ("raptr", {"shape": replace(SHAPE, num_layers=3)}, "a mean depth of 1.5 of 3 layers cannot be met with 2"),
        ("raptr", {"shape": replace(SHAPE, num_layers=2)}, "a mean depth of 1 of 2 layers cannot be met with 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(name, changes, message):
    with pytest.raises(InputError) as caught:
        _build(name, **changes)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_check_looks_at_every_stage():
    stages = (Stage(until=1, rates=Rates(heads=0.5)), Stage(until=2, rates=Rates(heads=0.7)))
    method = METHODS["est"](shape=SHAPE, schedule=Schedule(name="s", source="t", stages=stages), seed=0)
    with pytest.raises(InputError, match=r"p_H=0\.7 of 4 heads is 2\.8 heads"):
        method.check()


@every_method
def test_find_method(name):
    assert find_method(name) is METHODS[name]


# --- options ----------------------------------------------------------------------------------------------------------


@every_method
def test_options_are_the_fields_a_method_adds(name):
    defaults = method_options(name)
    built = _build(name, options=defaults)
    assert built == _build(name)
    assert not defaults.keys() & {"shape", "schedule", "seed"}
    for option, default in defaults.items():
        assert getattr(built, option) == default


def test_an_option_reaches_the_method():
    assert _build("raptr", options={"output_scale": "inv_p"}).output_scale == "inv_p"
    assert _build("pld", options={"theta": 0.5}).theta == 0.5
    assert _build("gradual_stacking", options={"optimizer": "zero"}).optimizer == "zero"
    assert _build("progressive_stacking").optimizer == "reset_all"
