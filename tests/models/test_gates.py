"""Gates and unit dropout: everything is computed, and then multiplied."""

import copy
from dataclasses import replace

import pytest
import torch

from est_analysis.models.parts import MLP, Attention, GatedMLP, GroupedAttention, rotary_table, run_stack
from est_analysis.models.parts.dropout import keep_some
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, StackShape, SubnetMask, UnitDropout
from est_analysis.subnet.sample import sample_fixed_size
from est_analysis.subnet.schedule import Rates

# As in test_masked_forward: float64 rounding of activations of order 1 to 10 through 4 layers.
EXACT = {"atol": 1e-12, "rtol": 1e-12}
OWN = StackShape(num_layers=4, num_heads=6, mlp_columns=10)


def _drawn(shape, head_sampling="within_groups", **rates):
    return sample_fixed_size(shape, Rates(**rates), head_sampling=head_sampling, generator=stream(0, "mask"))


def _by_hand(**layer):
    return SubnetMask(layers=(LayerMask(), LayerMask(**layer), None, LayerMask()))


GATHERED = {
    "gpt2": [
        _drawn(replace(OWN, num_heads=3), heads=2 / 3, mlp=0.5, layers=0.5),
        _drawn(replace(OWN, num_heads=3), heads=1 / 3, mlp=0.2),
        _by_hand(heads=torch.tensor([1]), head_scale=3.0, scale=0.4, sublayer_scale=1.6),
    ],
    "llama": [
        _drawn(replace(OWN, num_kv_heads=3), heads=0.5, mlp=0.2, layers=0.5),
        _drawn(replace(OWN, num_kv_heads=3), "whole_groups", heads=1 / 3, mlp=0.5),
        _by_hand(heads=torch.tensor([0, 5]), groups=torch.tensor([0, 2]), head_scale=0.7, scale=0.4),
    ],
    "llama, own keys": [_drawn(OWN, heads=1 / 3, mlp=0.5, layers=0.5)],
    "llama, one key, tied": [_drawn(replace(OWN, num_kv_heads=1), heads=1 / 3, mlp=0.5)],
}
every_gathered = pytest.mark.parametrize(
    ("which", "mask"),
    [pytest.param(which, mask, id=f"{which}-{i}") for which, masks in GATHERED.items() for i, mask in enumerate(masks)],
)
every_model = pytest.mark.parametrize("which", GATHERED)


def _gate(index, total):
    return None if index is None else torch.tensor([float(unit in index.tolist()) for unit in range(total)])


def _opened(mask, config):
    """The same subnetwork with all of it computed."""

    def opened(layer):
        gates = {
            "head_gate": _gate(layer.heads, config.num_heads),
            "column_gate": _gate(layer.columns, config.mlp_columns),
        }
        return replace(layer, heads=None, groups=None, columns=None, **gates)

    return SubnetMask(layers=tuple(opened(layer) if layer else LayerMask(scale=0.0) for layer in mask.layers))


def _learned(model, tokens, mask):
    """Loss and gradients, by name; None where a parameter has none."""
    model.zero_grad(set_to_none=True)
    loss = model.loss(tokens, tokens, mask)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@every_gathered
def test_gates_of_0_and_1_equal_the_gathered_forward_and_its_gradients(make, configs, tokens, which, mask):
    model, opened = make(which), _opened(mask, configs[which])
    torch.testing.assert_close(model(tokens, opened), model(tokens, mask), **EXACT)
    loss, gradients = _learned(model, tokens, mask)
    computed, all_gradients = _learned(model, tokens, opened)
    torch.testing.assert_close(computed, loss, **EXACT)
    for name, gradient in gradients.items():
        assert all_gradients[name] is not None
        if gradient is None:
            assert not all_gradients[name].any(), f"{name} is of a bypassed layer"
        else:
            torch.testing.assert_close(all_gradients[name], gradient, **EXACT, msg=name)
            out = ~gradient.reshape(len(gradient), -1).any(1)
            assert not all_gradients[name][out].any(), f"{name}: what is out has a gradient of exactly 0"


@every_gathered
def test_gates_of_the_wrong_units_are_told_apart(make, configs, tokens, which, mask):
    """Planted: every gate given to the next unit."""
    opened = _opened(mask, configs[which])

    def moved(layer):
        gates = {name: getattr(layer, name) for name in ("head_gate", "column_gate")}
        return replace(layer, **{name: gate if gate is None else gate.roll(1) for name, gate in gates.items()})

    wrong = SubnetMask(layers=tuple(map(moved, opened.layers)))
    model = make(which)
    assert (model(tokens, wrong) - model(tokens, mask)).abs().max() > 1e-3


@every_model
def test_a_layer_of_scale_0_is_the_identity_to_the_last_bit(make, tokens, which):
    model = make(which)
    mask = SubnetMask(layers=(LayerMask(), LayerMask(scale=0.0), LayerMask(), LayerMask()))
    bypassed = SubnetMask(layers=(LayerMask(), None, LayerMask(), LayerMask()))
    assert torch.equal(model(tokens, mask), model(tokens, bypassed))


def test_scale_0_passes_the_gradient_on(model):
    x = torch.randn(2, 5, 12, dtype=torch.float64, generator=stream(0, "x")).requires_grad_()
    run_stack(model.blocks[:1], x, SubnetMask(layers=(LayerMask(scale=0.0),))).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# --- gates in between -------------------------------------------------------------------------------------------------

# What a gate multiplies, as parameters of a layer: biases with their weights.
HEADS = {
    "gpt2": ("qkv_weight", "qkv_bias"),
    "llama": ("query_weight", "out_weight"),
    "llama, own keys": ("query_weight", "key_value_weight"),
    "llama, one key, tied": ("query_weight", "out_weight"),
}
COLUMNS = {"gpt2": ("up_weight", "up_bias"), **dict.fromkeys(list(HEADS)[1:], ("gate_weight", "up_weight"))}


def _factors(which, heads, columns):
    """Factor by factor, the parameters of layer 1 that the gates stand for."""
    return {
        **{f"blocks.1.attention.{name}": heads for name in HEADS[which]},
        **{f"blocks.1.mlp.{name}": columns for name in COLUMNS[which]},
    }


@every_model
@pytest.mark.parametrize("part", ["all", "some"])
def test_a_gate_in_between_multiplies_what_it_stands_for(make, configs, tokens, which, part):
    """The model whose weights are multiplied by hand computes the same; chain rule: its gradients times the factor."""
    config = configs[which]
    heads, columns = (torch.linspace(0.1, 0.9, n, dtype=torch.float64) for n in (config.num_heads, config.mlp_columns))
    index = {}
    if part == "some":  # the gates are of the computed ones
        per_group = getattr(config, "num_kv_heads", 1)
        kept = torch.arange(config.num_heads).view(per_group, -1)[:, :1].flatten()
        index = {"heads": kept, "columns": torch.tensor([0, 3, 9])}
    head_gate, column_gate = (
        gate[index[axis]] if index else gate for axis, gate in (("heads", heads), ("columns", columns))
    )
    gated = LayerMask(**index, head_gate=head_gate, column_gate=column_gate, head_scale=1.3, column_scale=0.7)
    plain = LayerMask(**index, head_scale=1.3, column_scale=0.7)
    model = make(which)
    by_hand, factors = copy.deepcopy(model), _factors(which, heads, columns)
    with torch.no_grad():
        for name, factor in factors.items():
            parameter = by_hand.get_parameter(name)
            parameter.mul_(factor.view(-1, *[1] * (parameter.dim() - 1)))
    masks = [SubnetMask(layers=(LayerMask(), layer, LayerMask(), LayerMask())) for layer in (gated, plain)]
    loss, gradients = _learned(model, tokens, masks[0])
    expected, hand_gradients = _learned(by_hand, tokens, masks[1])
    torch.testing.assert_close(loss, expected, **EXACT)
    for name, gradient in hand_gradients.items():
        factor = factors[name].view(-1, *[1] * (gradient.dim() - 1)) if name in factors else 1
        torch.testing.assert_close(gradients[name], gradient * factor, **EXACT, msg=name)
    # Planted: half the gates.
    halved = SubnetMask(layers=(LayerMask(), replace(gated, head_gate=head_gate / 2), LayerMask(), LayerMask()))
    assert (model.loss(tokens, tokens, halved) - expected).abs() > 1e-6


@every_model
def test_gates_of_1_are_no_gates_bit_for_bit(make, configs, tokens, which):
    model, config = make(which), configs[which]
    ones = LayerMask(head_gate=torch.ones(config.num_heads), column_gate=torch.ones(config.mlp_columns))
    assert torch.equal(model(tokens, SubnetMask(layers=(ones,) * 4)), model(tokens))


# --- unit dropout -----------------------------------------------------------------------------------------------------

ROWS, UNITS, DRAWS = 40, 50, 60


def _drops(keep, draw=keep_some):
    ones = torch.ones(ROWS, UNITS, dtype=torch.float64)
    return torch.stack([draw(ones, keep, 0, "law", i) for i in range(DRAWS)])


def _is_independent_dropout(drops, keep):
    """Mean 1 of everything, and the variance (1 - p)/p of a unit, of a token's sum and of a unit's, all to 5 errors.

    A sum of n independent ones has n times the variance; the variance of N such is known to about sqrt(2/N), and the
    kurtosis of single units, at most 1/(p(1 - p)), makes that sqrt(1/(p(1 - p))/N).
    """
    noise, count = (1 - keep) / keep, drops.numel()
    mean = abs(drops.mean().item() - 1) < 5 * (noise / count) ** 0.5
    centred = drops - 1
    variances = [(centred.sum(axis).square() / drops.shape[axis]).flatten() for axis in (0, 1, 2)]
    close = [
        abs(found.mean().item() / noise - 1) < 5 * ((2 + 1 / (keep * (1 - keep))) / found.numel()) ** 0.5
        for found in variances
    ]
    return mean and all(close)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.75])
def test_units_are_kept_independently_at_the_rate_and_divided_by_it(keep):
    drops = _drops(keep)
    assert set(drops.unique().tolist()) == {0, 1 / keep}
    assert _is_independent_dropout(drops, keep)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.75])
@pytest.mark.parametrize(
    "mutant",
    [
        lambda x, keep, *names: keep_some(x[:1], keep, *names).expand_as(x),  # one draw for all tokens
        lambda x, keep, *names: keep_some(x[:, :1], keep, *names).expand_as(x),  # one for all units
        lambda x, keep, seed, *_: keep_some(x, keep, seed),  # one for all streams
        lambda x, keep, *names: keep_some(x, keep, *names) * keep,  # not inverted
        lambda x, keep, *names: keep_some(x, 0.9 * keep, *names) * 0.9,  # a tenth too few, not made up for
    ],
    ids=["tokens", "units", "streams", "scale", "rate"],
)
def test_other_laws_are_told_apart(keep, mutant):
    assert not _is_independent_dropout(_drops(keep, mutant), keep)


def test_parts_of_a_batch_are_dropped_as_the_whole_is():
    x = torch.randn(12, 5, 7, generator=stream(0, "x"))
    whole = keep_some(x, 0.3, 0, "a")
    for parts in (2, 3, 4, 12):
        dropped = [keep_some(rows, 0.3, 0, "a", part=number) for number, rows in enumerate(x.chunk(parts))]
        assert torch.equal(torch.cat(dropped), whole)


def test_the_gradient_of_dropout_is_its_factor():
    x = torch.randn(ROWS, UNITS, dtype=torch.float64, generator=stream(0, "x")).requires_grad_()
    y = keep_some(x, 0.3, 0, "a")
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach(), **EXACT)


def test_units_dropped_do_not_depend_on_the_precision_and_bfloat16_is_not_biased():
    x = torch.ones(ROWS, UNITS)
    drops = {dtype: keep_some(x.to(dtype), 0.3, 0, "a") for dtype in (torch.float64, torch.float32, torch.bfloat16)}
    for dtype, dropped in drops.items():
        assert dropped.dtype == dtype
        assert torch.equal(dropped != 0, drops[torch.float64] != 0)
    # Values of every mantissa: rounding to nearest, of both signs, leaves the mean; 1/0.3 in bfloat16 is 0.16 % off.
    values = torch.linspace(1, 2, 129)[:-1].bfloat16()
    kept = keep_some(values.repeat(ROWS), 0.3, 0, "b")
    ratio = (kept / values.repeat(ROWS).float() * 0.3)[kept != 0].mean().item()
    assert ratio == pytest.approx(1, abs=4e-4)


PARTS = {
    "attention": lambda: Attention(12, 3),
    "grouped attention": lambda: GroupedAttention(12, 6, 3),
    "mlp": lambda: MLP(12, 12),
    "gated mlp": lambda: GatedMLP(12, 12),
}
every_part = pytest.mark.parametrize("part", PARTS)


def _through(part, randomise, dropout, x):
    """What goes into the last projection of a part: its output with that projection set to the identity."""
    module = randomise(PARTS[part]())
    grouped = "grouped" in part
    with torch.no_grad():
        weight = module.down_weight if "mlp" in part else module.out_weight
        weight.copy_(torch.eye(12).view_as(weight))
        for name, bias in module.named_parameters():
            if name in ("down_bias", "out_bias"):
                bias.zero_()
    shared = (rotary_table(x.shape[1], 2, 10.0, like=x),) if grouped else ()
    return module(x, LayerMask(dropout=dropout), *shared).detach()


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, 30, 12, dtype=torch.float64, generator=stream(0, "x"))


@every_part
def test_parts_drop_single_units_of_joined_heads_and_activated_columns(randomise, x, part):
    plain = _through(part, randomise, None, x)
    dropout = UnitDropout(heads=0.5, columns=0.25, stream=(3, "dropout", 7, 2))
    keep, name = (0.25, "columns") if "mlp" in part else (0.5, "heads")
    dropped = _through(part, randomise, dropout, x)
    factors = keep_some(torch.ones_like(x), keep, 3, "dropout", 7, 2, name)
    assert set(factors.unique().tolist()) == {0, 1 / keep}
    torch.testing.assert_close(dropped, plain * factors, **EXACT)
    assert len(factors.flatten(0, 1).unique(dim=0)) > 100, "every token has draws of its own"


@every_part
def test_draws_follow_the_stream_and_nothing_else(randomise, x, part):
    def pattern(*names):
        return _through(part, randomise, UnitDropout(heads=0.5, columns=0.5, stream=(0, *names)), x) != 0

    before = torch.get_rng_state()
    found = {names: pattern(*names) for names in ((1, 0), (1, 1), (2, 0))}
    torch.manual_seed(5)
    assert torch.equal(pattern(1, 0), found[1, 0])
    torch.set_rng_state(before)
    pattern(1, 0)
    assert torch.equal(torch.get_rng_state(), before), "global randomness is not used"
    for other in ((1, 1), (2, 0)):
        # 1440 units that agree by chance half of the time: 0.013 is a standard error.
        assert 0.4 < (found[1, 0] == found[other]).double().mean() < 0.6


def test_heads_and_columns_of_a_layer_draw_apart(randomise, x):
    dropout = UnitDropout(heads=0.5, columns=0.5, stream=(0,))
    heads, columns = (_through(part, randomise, dropout, x) != 0 for part in ("attention", "mlp"))
    assert 0.4 < (heads == columns).double().mean() < 0.6


@every_part
def test_a_rate_of_1_draws_nothing(randomise, x, part, monkeypatch):
    plain = _through(part, randomise, None, x)

    def drawn(*_, **__):
        raise AssertionError("a stream was opened")

    monkeypatch.setattr("est_analysis.models.parts.dropout.stream", drawn)
    mine, other = ("columns", "heads") if "mlp" in part else ("heads", "columns")
    dropout = UnitDropout(**{mine: 1.0, other: 0.5}, stream=(0,))
    assert torch.equal(_through(part, randomise, dropout, x), plain)
    with pytest.raises(AssertionError, match="a stream was opened"):
        _through(part, randomise, replace(dropout, **{mine: 0.5}), x)
