"""Controls take their depth from one schedule, so that all of them cost the same: exactly in expectation."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.methods import build_method
from est_analysis.subnet.mask import LayerMask, StackShape
from est_analysis.subnet.schedule import find_schedule

STEPS = 3000


def _shape(num_layers=12):
    return StackShape(num_layers=num_layers, num_heads=2, mlp_columns=4)


def _build(name, *, layers=12, steps=STEPS, **more):
    return build_method(name, shape=_shape(layers), total_steps=steps, **{"seed": 0} | more)


def _depths(method, steps):
    full = method.shape.num_layers
    masks = (method.mask(step) for step in steps)
    return torch.tensor([full if mask is None else len(mask.active_layers) for mask in masks], dtype=torch.float64)


def _gate_rates(method, step):
    """The probability of every layer's gate in `step`, from the method's definition and not from its code."""
    layers = method.shape.num_layers
    if hasattr(method, "keep_rates"):
        return method.keep_rates(step)
    if type(method).__name__ == "LayerDropout":
        return [9 / layers] * layers
    constant = type(method).__name__ == "StochasticDepth"
    stage = method.schedule.stage_at(step)
    mean = 9 if constant else method.schedule.spans[stage][1].layers * layers
    return [1.0, *([(mean - 2) / (layers - 2)] * (layers - 2)), 1.0]


def _moments_agree(depths, rates):
    """Mean and variance of depths against sums of Bernoulli gates of the given rates, a row a step.

    Mean: sum p; variance: sum p (1 - p); the variance of a squared deviation follows from the fourth cumulant,
    sum p (1 - p) (1 - 6 p (1 - p)). 4.5 standard errors each.
    """
    p = torch.tensor(rates, dtype=torch.float64)
    mean, noise = p.sum(1), p * (1 - p)
    variance, fourth = noise.sum(1), (noise * (1 - 6 * noise)).sum(1)
    deviation = depths - mean
    of_mean = deviation.sum() / variance.sum().sqrt()
    of_variance = (deviation**2 - variance).sum() / (fourth + 2 * variance**2).sum().sqrt()
    return bool(of_mean.abs() < 4.5 and of_variance.abs() < 4.5)


CONTROLS = [("raptr", {}), ("raptr_reversed", {}), ("stochastic_depth", {}), ("layer_dropout", {}), ("pld", {})]
CONTROLS += [("pld", {"deepspeed_compat": True}), ("gradual_stacking", {})]
RANDOM = [case for case in CONTROLS if case[0] != "gradual_stacking"]


@pytest.mark.parametrize(("name", "options"), CONTROLS)
def test_realised_mean_depth_of_a_run_is_9_of_12_within_a_percent(name, options):
    """3000 steps of variance at most 3 give a standard error below 0.032: a percent of 9 is 2.8 of them."""
    assert _depths(_build(name, options=options), range(1, STEPS + 1)).mean().item() == pytest.approx(9, rel=0.01)


@pytest.mark.parametrize(("name", "options"), RANDOM)
def test_depths_have_the_mean_and_variance_of_independent_gates(name, options):
    method, steps = _build(name, options=options), range(1, STEPS + 1)
    depths, rates = _depths(method, steps), [_gate_rates(method, step) for step in steps]
    assert _moments_agree(depths, rates)
    # Planted: a tenth of the depth too little, and the right mean without the variance.
    assert not _moments_agree(depths, [[0.9 * p for p in row] for row in rates])
    assert not _moments_agree(torch.tensor(rates).double().sum(1), rates)


def test_a_rate_that_forgets_the_kept_layers_is_told_apart():
    held = _build("stochastic_depth", schedule="1:1,1,0.75")
    mutant = [[1.0, *([0.75] * 10), 1.0]] * STEPS  # n / L instead of (n - 2) / (L - 2)
    assert not _moments_agree(_depths(held, range(1, STEPS + 1)), mutant)


# --- PLD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("layers", [2, 5, 12, 24])
@pytest.mark.parametrize("steps", [5, 60, 5000])
def test_pld_keeps_the_schedules_mean_depth_exactly(compat, layers, steps):
    """The sum over the run's own steps, not the integral: it holds for runs of a handful of steps too."""
    method = _build(
        "pld", layers=layers, steps=steps, schedule="3:1,1,0.8; 5:1,1,1", options={"deepspeed_compat": compat}
    )
    mean = math.fsum(p for step in range(1, steps + 1) for p in method.keep_rates(step)) / steps
    assert mean == pytest.approx(method.schedule.mean_layers * layers, rel=1e-12)
    assert 0 < method.theta_bar < 1


def test_pld_meets_the_numbers_known_for_it():
    half = _build("pld", steps=100_000, options={"theta": 0.5})
    # Limit of the mean keep rate, 1 - (1 - theta)(L + 1)/(2 L); 100 time constants away it is reached.
    assert math.fsum(half.keep_rates(100_000)) / 12 == pytest.approx(0.729, abs=5e-4)
    assert half.keep_rates(100_000)[-1] == pytest.approx(0.5, abs=1e-12)
    kept = math.fsum(p for step in range(1, 100_001, 10) for p in half.keep_rates(step)) / 12 / 10_000
    assert 1 - kept == pytest.approx(0.268, abs=5e-4)
    assert _build("pld", steps=100_000).theta_bar == pytest.approx(0.534, abs=5e-4)


def test_pld_starts_with_the_full_model_and_only_falls():
    method = _build("pld", steps=400)
    assert method.mask(1) is None
    assert method.keep_rates(1) == [1] * 12
    for step in range(2, 401):
        rates = method.keep_rates(step)
        assert all(a > b for a, b in pairwise(rates)), "deep layers are dropped more"
        assert all(now <= before for now, before in zip(rates, method.keep_rates(step - 1), strict=True))
    gamma = 100 / 400
    theta = 0.5 + 0.5 * math.exp(-gamma * 6)
    seventh = replace(method, theta=0.5).keep_rates(7)
    assert seventh == pytest.approx([1 - i / 12 * (1 - theta) for i in range(1, 13)], rel=1e-14)


@pytest.mark.parametrize("compat", [False, True])
def test_pld_scales_kept_layers_by_the_inverse_of_their_own_rate(compat):
    method = _build("pld", steps=100, options={"theta": 0.4, "deepspeed_compat": compat})
    theta = 1.0
    for step in range(2, 101):
        theta = 0.4 + 0.6 * math.exp(-(step - 1))
        drawn = [1 - (i - compat) / 12 * (1 - theta) for i in range(1, 13)]
        assert method.keep_rates(step) == pytest.approx(drawn, rel=1e-13)
        for i, layer in enumerate(method.mask(step).layers, start=1):
            if layer:
                assert layer.sublayer_scale == pytest.approx(1 / (1 - i / 12 * (1 - theta)), rel=1e-13)
                assert layer.scale == 1
        if compat:
            assert method.mask(step).layers[0] is not None, "its first layer is always kept, and yet scaled"
            assert method.mask(step).layers[0].sublayer_scale > 1


def test_a_mutant_of_the_indexing_changes_the_depth():
    paper, compat = (_build("pld", options={"theta": 0.5, "deepspeed_compat": c}) for c in (False, True))
    steps = range(1, STEPS + 1)
    rates = [paper.keep_rates(step) for step in steps]
    assert _moments_agree(_depths(paper, steps), rates)
    assert not _moments_agree(_depths(compat, steps), rates)


def test_pld_that_drops_nothing_is_the_full_model():
    for method in (_build("pld", options={"theta": 1.0}), _build("pld", schedule="full")):
        assert all(method.mask(step) is None for step in (1, 2, STEPS))


# --- RaPTr reversed, constant stochastic depth ------------------------------------------------------------------------


def test_raptr_reversed_runs_raptrs_stages_from_the_last_to_the_first():
    schedule = "1:1,1,0.5; 4:1,1,0.75; 6:1,1,1"
    forward, back = (_build(name, steps=6, schedule=schedule) for name in ("raptr", "raptr_reversed"))
    assert [(steps, rates.layers) for steps, rates in back.schedule.spans] == [(2, 1.0), (3, 0.75), (1, 0.5)]
    assert back.schedule.transitions == (2, 5)
    assert [step for step in range(1, 7) if back.mask(step) is None] == [1, 2]
    # At step 3 both train at 0.75, and both draw RaPTr's law from the stream of the step.
    assert back.mask(3).active_layers == forward.mask(3).active_layers
    assert replace(back, seed=1).schedule == back.schedule, "a copy is not turned round again"


@pytest.mark.parametrize("scale", ["none", "sqrt_gap", "inv_p", "linear_gap"])
@pytest.mark.parametrize("name", ["stochastic_depth", "raptr_reversed"])
def test_output_scales_are_raptrs(name, scale):
    schedule = "1:1,1,0.75"
    control, raptr = (_build(each, schedule=schedule, options={"output_scale": scale}) for each in (name, "raptr"))
    for step in (1, 2, STEPS):
        found, expected = control.mask(step), raptr.mask(step)
        assert [layer and layer.scale for layer in found.layers] == [layer and layer.scale for layer in expected.layers]


def test_stochastic_depth_does_not_change_over_the_run():
    method = _build("stochastic_depth", schedule="ul2-raptr-12-16-20-24", layers=24)
    assert method.schedule.mean_layers * 24 == pytest.approx(19.8)
    depths = _depths(method, range(1, STEPS + 1))
    p = (19.8 - 2) / 22
    for part in depths.chunk(4):
        assert _moments_agree(part, [[1.0, *([p] * 22), 1.0]] * len(part))
    assert _build("stochastic_depth", schedule="full").mask(1) is None


# --- uniform LayerDrop ------------------------------------------------------------------------------------------------


def test_layer_dropout_excepts_no_layer():
    """Each layer's count is binomial: 4.5 standard errors; RaPTr's law at the same depth must fail."""

    def uniform(method):
        active = [set(method.mask(step).active_layers) for step in range(1, STEPS + 1)]
        error = 4.5 * math.sqrt(0.75 * 0.25 / STEPS)
        return all(abs(sum(i in kept for kept in active) / STEPS - 0.75) < error for i in range(12))

    assert uniform(_build("layer_dropout"))
    assert not uniform(_build("stochastic_depth"))


def test_layer_dropout_may_keep_nothing_and_scales_nothing():
    """2 layers at 1/2: each of the four subsets in a quarter of the steps, the empty one too."""
    method = _build("layer_dropout", layers=2, schedule="1:1,1,0.5")
    counts = Counter(method.mask(step).active_layers for step in range(1, STEPS + 1))
    assert set(counts) == {(), (0,), (1,), (0, 1)}
    assert all(abs(count / STEPS - 1 / 4) < 4.5 * math.sqrt(3 / 16 / STEPS) for count in counts.values())
    assert all(vars(layer) == vars(LayerMask()) for layer in _build("layer_dropout").mask(1).layers if layer)
    assert _build("layer_dropout", schedule="full").mask(1) is None


# --- gradual stacking -------------------------------------------------------------------------------------------------


def test_stacking_6_9_12_copies_the_last_three_layers():
    method = _build("gradual_stacking", steps=9)
    growths = {step: method.growth(step) for step in range(1, 12) if method.growth(step)}
    # From 1 in the paper: 7, 8, 9 <- 4, 5, 6, then 10, 11, 12 <- 7, 8, 9.
    assert {step: growth.copies for step, growth in growths.items()} == {
        4: ((6, 3), (7, 4), (8, 5)),
        7: ((9, 6), (10, 7), (11, 8)),
    }
    assert {growth.optimizer for growth in growths.values()} == {"copy"}
    active = [12 if method.mask(step) is None else len(method.mask(step).active_layers) for step in range(1, 12)]
    assert active == [6, 6, 6, 9, 9, 9, 12, 12, 12, 12, 12]


def test_layers_that_have_not_grown_are_not_yet_the_model():
    method = _build("gradual_stacking", steps=9)
    masks = [method.model_mask(step) for step in range(10)]
    # The checkpoint of a transition, after step 3 or 6, is of before the growth.
    assert [12 if mask is None else len(mask.active_layers) for mask in masks] == [6] * 4 + [9] * 3 + [12] * 3
    assert all(_build(name).model_mask(1) is None for name, _ in RANDOM)


def test_stacking_trains_the_first_layers_whole():
    for layer in _build("gradual_stacking", steps=9).mask(1).layers[:6]:
        assert vars(layer) == vars(LayerMask())
    assert _build("gradual_stacking", steps=9).mask(1).layers[6:] == (None,) * 6


@pytest.mark.parametrize(
    ("depths", "layers", "copies"),
    [
        ((3, 6, 12), 12, [((3, 0), (4, 1), (5, 2)), tuple((6 + i, i) for i in range(6))]),
        ((3, 4, 5, 6), 6, [((3, 2),), ((4, 3),), ((5, 4),)]),
        ((2, 2, 3), 3, [((2, 1),)]),
    ],
)
def test_stacking_sources(depths, layers, copies):
    schedule = ";".join(f"{i}:1,1,{depth / layers!r}" for i, depth in enumerate(depths, start=1))
    method = _build("gradual_stacking", layers=layers, steps=4 * len(depths), schedule=schedule)
    found = [growth.copies for growth in map(method.growth, range(1, 4 * len(depths) + 1)) if growth]
    assert found == copies


@pytest.mark.parametrize(
    ("depths", "layers", "copies"),
    [
        ((3, 6, 12), 12, [((3, 0), (4, 1), (5, 2)), tuple((6 + i, i) for i in range(6))]),
        ((2, 2, 4), 4, [((2, 0), (3, 1))]),
    ],
)
def test_progressive_stacking_puts_the_whole_stack_on_itself(depths, layers, copies):
    """Layer i to i and i + L: what stays in place, and what is on top of it."""
    schedule = ";".join(f"{i}:1,1,{depth / layers!r}" for i, depth in enumerate(depths, start=1))
    method = _build("progressive_stacking", layers=layers, steps=4 * len(depths), schedule=schedule)
    found = [growth for growth in map(method.growth, range(1, 4 * len(depths) + 1)) if growth]
    assert [growth.copies for growth in found] == copies
    assert {growth.optimizer for growth in found} == {"reset_all"}


def test_progressive_stacking_3_6_12_grows_after_50k_and_120k_of_400k_steps():
    method = _build("progressive_stacking", steps=400)
    assert [step for step in range(1, 401) if method.growth(step)] == [51, 121]
    assert [len(method.mask(step).active_layers) for step in (1, 50, 51, 120)] == [3, 3, 6, 6]
    assert method.mask(121) is None
    assert [len(method.model_mask(step).active_layers) for step in (0, 50, 51)] == [3, 3, 6]


def test_stacking_costs_what_raptr_costs():
    assert find_schedule("bert-stacking-6-9-12").mean_layers == find_schedule("bert-raptr-6-8-10-12").mean_layers


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "gradual_stacking",
            {"layers": 6},
            "use a multiple of 1/6 above 0, such as 4/6 (on gradual_stacking's own schedule, 'bert-stacking-6-9-12')",
        ),
        (
            "gradual_stacking",
            {"schedule": "1:1,1,0.25; 2:1,1,1"},
            "grows from 3 to 12 layers, but has only 3 to copy",
        ),
        (
            "gradual_stacking",
            {"schedule": "ul2-raptr-12-16-20-24"},
            "warms up with the full model, which gradual_stack",
        ),
        (
            "progressive_stacking",
            {"schedule": "bert-stacking-6-9-12"},
            "grows from 6 to 9 layers, and progressive_stacking only doubles; use 12 layers, or gradual_stacking",
        ),
        ("progressive_stacking", {"schedule": "gpt2-est"}, "columns, progressive_stacking only layers"),
        ("layer_dropout", {"schedule": "gpt2-est"}, "samples heads or MLP columns, layer_dropout only layers"),
        ("gradual_stacking", {"schedule": "gpt2-est"}, "samples heads or MLP columns, gradual_stacking only layers"),
        (
            "gradual_stacking",
            {"options": {"optimizer": "coppy"}},
            "unknown optimizer 'coppy': did you mean 'copy'",
        ),
        ("raptr_reversed", {"schedule": "gpt2-est"}, "samples heads or MLP columns, raptr_reversed only layers"),
        ("stochastic_depth", {"schedule": "gpt2-est"}, "samples heads or MLP columns, stochastic_depth only layers"),
        ("stochastic_depth", {"options": {"output_scale": "cubic"}}, "unknown output scale 'cubic'"),
        ("stochastic_depth", {"schedule": "1:1,1,0.1"}, "a mean depth of 1.2 of 12 layers cannot be met with 2"),
        ("pld", {"schedule": "gpt2-est"}, "samples heads or MLP columns, pld only layers"),
        ("pld", {"schedule": "1:1,1,0.4"}, "a mean depth of 4.8 of 12 layers, and pld with gamma_steps=100 never goes"),
        (
            "pld",
            {"options": {"gamma_steps": 0.1}},
            "a mean depth of 9 of 12 layers, and pld with gamma_steps=0.1 never",
        ),
        ("pld", {"schedule": "1:1,1,0.5", "steps": 1}, "never goes below 12; use a deeper schedule or give theta"),
        ("pld", {"options": {"theta": 0.0}}, "theta=0.0 must be a number above 0 and at most 1"),
        ("pld", {"options": {"theta": 1.1}}, "theta=1.1 must be a number above 0 and at most 1"),
        ("pld", {"options": {"theta": "half"}}, "theta=half must be a number"),
        ("pld", {"options": {"gamma_steps": 0}}, "gamma_steps=0 must be a number above 0"),
        ("pld", {"options": {"gamma_steps": math.inf}}, "gamma_steps=inf must be a number above 0"),
        ("pld", {"options": {"deepspeed_compat": "no"}}, "deepspeed_compat='no' must be true or false"),
    ],
)
def test_what_does_not_fit_is_refused(name, changes, message):
    with pytest.raises(InputError) as caught:
        _build(name, **changes)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("gradual_stacking", "1:1,1,0.5; 2:1,1,0.75"), ("progressive_stacking", "1:1,1,0.25; 2:1,1,0.5")],
)
def test_stacks_that_never_grow_whole_are_refused(name, schedule):
    with pytest.raises(InputError, match="never reaches the full model"):
        _build(name, schedule=schedule)
