"""T5: the sampled forward against the model written out, what masks and padding promise, and its sizes."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers.models.t5.modeling_t5 import T5Attention

from est_analysis.errors import InputError
from est_analysis.models.families import FAMILIES, build_model
from est_analysis.models.parts import dropout
from est_analysis.models.t5.config import T5Config
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, StackShape, SubnetMask, UnitDropout
from est_analysis.subnet.sample import sample_bernoulli, sample_fixed_size, sample_gated
from est_analysis.subnet.schedule import Rates

# Activations of order 1 to 10 through 2 x 4 layers of sums of at most 17 products in float64.
EXACT = {"atol": 1e-11, "rtol": 1e-11}
# Heads together are wider than the model, and their number does not divide it.
CONFIG = T5Config(
    num_layers=4,
    hidden=10,
    num_heads=3,
    head_width=4,
    mlp_columns=8,
    vocab_size=17,
    context_length=12,
    relative_buckets=8,
    relative_distance=7,
    norm_epsilon=1e-3,
)
SHAPE = StackShape(num_layers=4, num_heads=3, mlp_columns=8)
INPUTS = torch.randint(17, (3, 11), generator=stream(0, "inputs"))
DECODER_INPUTS = torch.randint(17, (3, 6), generator=stream(0, "decoder"))
LABELS = torch.randint(17, (3, 6), generator=stream(0, "labels")).index_put((torch.tensor(1),), torch.tensor(-100))
ALL = torch.ones(3, 11).bool()
SOME = torch.arange(11) < torch.tensor([11, 7, 2])[:, None]
both_paddings = pytest.mark.parametrize("present", [ALL, SOME], ids=["nothing padded", "padded"])


@pytest.fixture
def model(randomise):
    return randomise(build_model(CONFIG))


def _one(**layer):
    """Layer 1 sampled by hand, the others full."""
    return SubnetMask(layers=(LayerMask(), LayerMask(**layer), LayerMask(), LayerMask()))


MASKS = {
    "all full": SubnetMask.full(4),
    "one head": _one(heads=torch.tensor([2]), head_scale=3.0),
    "columns": _one(columns=torch.tensor([0, 3, 7]), column_scale=1.3),
    "scales without sampling": _one(head_scale=0.5, column_scale=2.0),
    "layer scale": _one(scale=1.7),
    "every scale": _one(heads=torch.tensor([1]), head_scale=2.0, column_scale=0.8, scale=0.4, sublayer_scale=1.6),
    "gates": _one(head_gate=torch.tensor([1.0, 0.3, 0.0]), column_gate=torch.linspace(0, 1, 8)),
    "gates of some": _one(heads=torch.tensor([0, 2]), head_gate=torch.tensor([0.3, 1.0]), head_scale=1.5),
    "first bypassed": SubnetMask(layers=(None, LayerMask(), LayerMask(), LayerMask())),
    "all bypassed": SubnetMask(layers=(None,) * 4),
    "est": sample_fixed_size(SHAPE, Rates(heads=1 / 3, mlp=0.5, layers=0.5), generator=stream(1, "mask")),
    "raptr sqrt_gap": sample_bernoulli(SHAPE, 3, always_kept={0}, scale="sqrt_gap", generator=stream(2, "mask")),
    "pld": sample_gated([0.9, 0.8, 0.6, 0.5], sublayer_scales=[1.1, 1.25, 1.5, 2], generator=stream(1, "mask")),
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


# --- the model written out --------------------------------------------------------------------------------------------


def _switch(index, length, scale):
    """The scale where active, zero elsewhere."""
    switch = torch.zeros(length, dtype=torch.float64)
    switch[slice(None) if index is None else index] = scale
    return switch


def _gate(index, gate, length):
    full = torch.ones(length, dtype=torch.float64)
    if gate is not None:
        full[slice(None) if index is None else index] = gate.double()
    return full


def _norm(x, norm):
    return x / (x.square().mean(-1, keepdim=True) + norm.epsilon).sqrt() * norm.weight


def _attend(part, layer, asks, asked, bias, visible):
    if hasattr(part, "qkv_weight"):
        weights = part.qkv_weight.unbind(1)
    else:
        weights = part.query_weight, *part.key_value_weight.unbind(1)
    gate = _gate(layer.heads, layer.head_gate, 3)[:, None, None]
    q, k, v = (gate * torch.einsum("btd,hed->bhte", x, w) for x, w in zip((asks, asked, asked), weights, strict=True))
    scores = torch.einsum("bhte,bhse->bhts", q, k) + bias
    seen = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    heads = torch.einsum("bhts,bhse->bhte", seen, v) * _switch(layer.heads, 3, layer.head_scale)[:, None, None]
    return torch.einsum("bhte,hed->btd", heads, part.out_weight)


def _dense_mlp(part, layer, x):
    gate, up = (_gate(layer.columns, layer.column_gate, 8) * (x @ w.T) for w in (part.gate_weight, part.up_weight))
    active = 0.5 * gate * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3))) * up
    return (active * _switch(layer.columns, 8, layer.column_scale)) @ part.down_weight


def _bias(part, length, causal):
    distances = torch.arange(length) - torch.arange(length)[:, None]
    buckets = T5Attention._relative_position_bucket(distances, not causal, 8, 7)
    return part.weight[:, buckets]


def _dense_stack(x, blocks, mask, attentions):
    for block, layer in zip(blocks, mask.layers, strict=True):
        if layer is None:
            continue
        y = x
        for norm, part, (asked, bias, visible) in attentions(block):
            normed = _norm(y, norm)
            asked = normed if asked is None else asked
            y = y + layer.sublayer_scale * _attend(part, layer, normed, asked, bias, visible)
        y = y + layer.sublayer_scale * _dense_mlp(block.mlp, layer, _norm(y, block.mlp_norm))
        x = x + layer.scale * (y - x)
    return x


def _dense_logits(model, present, mask):
    """The model written out, all of it computed; the mask only multiplies."""
    shown = present[:, None, None]
    causal = torch.ones(6, 6).tril().bool()
    encoder = None, _bias(model.encoder_positions, 11, False), shown
    x = _dense_stack(
        model.token_embedding[INPUTS],
        [block.encoder for block in model.blocks],
        mask,
        lambda block: [(block.attention_norm, block.attention, encoder)],
    )
    memory = _norm(x, model.encoder_norm)
    own, across = (None, _bias(model.decoder_positions, 6, True), causal), (memory, 0.0, shown)
    y = _dense_stack(
        model.token_embedding[DECODER_INPUTS],
        [block.decoder for block in model.blocks],
        mask,
        lambda block: [
            (block.attention_norm, block.attention, own),
            (block.cross_norm, block.cross_attention, across),
        ],
    )
    return _norm(y, model.decoder_norm) @ model.head_weight.T


def _gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@every_mask
@both_paddings
def test_logits_equal_the_dense_computation(model, present, mask):
    expected = _dense_logits(model, present, mask)
    torch.testing.assert_close(model(INPUTS, present, DECODER_INPUTS, mask), expected, **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(model(INPUTS, present, DECODER_INPUTS, mask), expected, **EXACT)


@every_mask
@both_paddings
def test_gradients_equal_those_of_the_dense_computation(model, present, mask):
    dense = F.cross_entropy(_dense_logits(model, present, mask).flatten(0, 1), LABELS.flatten())
    expected = _gradients(model, dense)
    actual = _gradients(model, model.loss(INPUTS, present, DECODER_INPUTS, LABELS, mask))
    for parameter, gradient in actual.items():
        bypassed = parameter.startswith("blocks.") and int(parameter.split(".")[1]) not in mask.active_layers
        if bypassed:
            assert gradient is None, f"{parameter} belongs to a bypassed layer"
        elif gradient is None:  # tables of positions of a stack without layers
            assert not mask.active_layers
            assert parameter.endswith("positions.weight") or parameter == "encoder_norm.weight"
        else:
            torch.testing.assert_close(gradient, expected[parameter], **EXACT, msg=parameter)


def test_exactly_the_active_rows_get_gradient(model):
    mask = MASKS["est"]
    gradients = _gradients(model, model.loss(INPUTS, SOME, DECODER_INPUTS, LABELS, mask))
    attention = ("attention.qkv_weight", "attention.out_weight")
    cross = ("cross_attention.query_weight", "cross_attention.key_value_weight", "cross_attention.out_weight")
    mlp = ("mlp.gate_weight", "mlp.up_weight", "mlp.down_weight")
    sampled = {"encoder": {"heads": attention, "columns": mlp}, "decoder": {"heads": attention + cross, "columns": mlp}}
    for i in mask.active_layers:
        for stack, axes in sampled.items():
            for axis, names in axes.items():
                for name in names:
                    rows = gradients[f"blocks.{i}.{stack}.{name}"].flatten(1)
                    active = getattr(mask.layers[i], axis).tolist()
                    assert rows.ne(0).any(1).nonzero().flatten().tolist() == active, (stack, name)


def test_the_full_mask_is_no_mask_bit_for_bit(model):
    batch = INPUTS, SOME, DECODER_INPUTS
    assert torch.equal(model(*batch, SubnetMask.full(4)), model(*batch))
    grads = [_gradients(model, model.loss(*batch, LABELS, mask)) for mask in (SubnetMask.full(4), None)]
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_a_mask_for_another_depth_is_refused(model):
    with pytest.raises(InputError, match="a mask of 3 layers does not fit a model of 4 layers"):
        model(INPUTS, ALL, DECODER_INPUTS, SubnetMask.full(3))


def _dropping(seed=0, keep=0.7):
    units = UnitDropout(heads=keep, columns=keep, stream=(seed, "units"))
    return SubnetMask(layers=(LayerMask(dropout=units),) * 4)


def test_dropout_of_units_is_drawn_from_its_stream_in_every_sublayer(model, monkeypatch):
    seen, keep = [], dropout.keep_some
    monkeypatch.setattr(dropout, "keep_some", lambda x, *args, **part: seen.append(args) or keep(x, *args, **part))
    batch = INPUTS, SOME, DECODER_INPUTS
    dropped = model(*batch, _dropping())
    assert len(seen) == 4 * (2 + 3)
    assert len(set(seen)) == 2 + 3  # here all layers share a stream; within a layer none do
    assert torch.equal(dropped, model(*batch, _dropping()))
    assert (dropped - model(*batch, _dropping(seed=1))).abs().max() > 1e-3
    torch.testing.assert_close(model(*batch, _dropping(keep=1.0)), model(*batch), **EXACT)


# --- what must not be seen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, MASKS["every scale"]], ids=["full", "sampled"])
def test_nobody_sees_padding_and_the_decoder_not_what_comes(model, mask):
    before = model(INPUTS, SOME, DECODER_INPUTS, mask)
    other = INPUTS.where(SOME, (INPUTS + 1) % 17)
    torch.testing.assert_close(model(other, SOME, DECODER_INPUTS, mask), before, **EXACT)
    shorter = model(INPUTS[2:, :2], ALL[2:, :2], DECODER_INPUTS[2:], mask)
    torch.testing.assert_close(shorter, before[2:], **EXACT)
    changed = DECODER_INPUTS.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 17
    after = model(INPUTS, SOME, changed, mask)
    torch.testing.assert_close(after[:, :4], before[:, :4], **EXACT)
    assert (after - before)[:, 4:].abs().amin((0, 2)).max() > 1e-6
    assert (model(other, ALL, DECODER_INPUTS, mask) - before)[1:].abs().amin((1, 2)).min() > 1e-9


def test_there_is_no_longest_sequence(model):
    long = torch.zeros(1, 40, dtype=torch.int64)
    assert model(long, long == 0, long).isfinite().all()


def test_narrow_precision():
    """Autocast and a model in bfloat16 compute what float32 does, to bfloat16's eight bits."""
    model = build_model(CONFIG).initialise(0)
    batch = INPUTS, SOME, DECODER_INPUTS, LABELS
    expected = model.loss(*batch, MASKS["est"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.loss(*batch, MASKS["est"])
    mixed.backward()
    assert mixed.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(mixed, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(model.bfloat16().loss(*batch, MASKS["est"]).float(), expected, atol=0.05, rtol=0)


def test_compiling_a_layer_compiles_both_of_its_blocks(model, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: ("compiled", function))
    model.blocks[0].compile()
    for block in (model.blocks[0].encoder, model.blocks[0].decoder):
        assert block._compiled_call_impl[0] == "compiled"


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes():
    assert CONFIG.num_parameters == sum(p.numel() for p in build_model(CONFIG).parameters())
    assert FAMILIES["t5"].presets["t5-v1.1-small"].num_parameters == 76_961_152  # as published
    architecture = CONFIG.architecture(5)
    assert (architecture.head_dim, architecture.target_len, architecture.head_share) == (4, 5, 1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_width": 0}, "head_width=0 is not a size"),
        ({"relative_buckets": 7}, "relative_buckets=7 make no halves of near and far; use an even number from 4"),
        ({"relative_buckets": 2}, "relative_buckets=2 make no"),
        ({"relative_distance": 4}, "relative_distance=4 leaves no far distances for 8 buckets; use more than 4"),
        ({"norm_epsilon": 0.0}, "norm_epsilon=0.0 must be above 0"),
    ],
    ids=str,
)
def test_sizes_that_make_no_t5(changes, words):
    with pytest.raises(InputError, match=words):
        replace(CONFIG, **changes)
