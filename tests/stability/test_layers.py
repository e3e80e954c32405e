"""Layers found in any model, and one bypassed: the same as a model built without it."""

import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from est_analysis.curvature.loss import LanguageModelObjective, _twice_differentiable
from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.stability.layers import _short, bypass, residual_layers

IDS = {"input_ids": torch.randint(5, (3, 4), generator=stream(0, "ids"))}


def draws(count):
    return [0.5 * torch.randn(3, 3, generator=stream(0, "matrix", i), dtype=torch.float64) for i in range(count)]


def found_in(objective, batch=IDS):
    return residual_layers(objective.model, lambda: objective.token_states(objective.parameters, batch))


def logits(model, kind, batch):
    """The model's own, with all of its arithmetic in float64."""
    inputs = {name: value for name, value in batch.items() if kind == "seq2seq" or name != "labels"}
    with torch.no_grad(), _twice_differentiable(torch.float64):
        return model(**inputs).logits


def without(model, stack, number):
    """A model of the same class with one layer less, made from a config and the weights left."""
    config = type(model.config).from_dict(model.config.to_dict())
    if "layer_types" in vars(config):
        config.layer_types = config.layer_types[:-1]
    prefix, count = stack
    setattr(config, count, getattr(config, count) - 1)
    place = re.compile(rf"((?:^|.*\.){re.escape(prefix)}\.)(\d+)(\..*)")

    def renamed(name):
        hit = place.fullmatch(name)
        if hit is None or (hit[2] == "0" and "relative_attention_bias" in name):
            return name  # T5's first block holds the position biases of all: they stay, whichever is first
        if int(hit[2]) == number:
            return None
        return f"{hit[1]}{int(hit[2]) - (int(hit[2]) > number)}{hit[3]}"

    state = {renamed(name): value for name, value in model.state_dict().items()}
    state.pop(None, None)
    with torch.random.fork_rng():
        less = type(model)(config).to(torch.float64).eval()
    less.load_state_dict(state)
    return less


def test_a_bypassed_layer_is_one_that_is_not_there(family, deep, stacks):
    kind, model, batch = deep(family)
    layers = found_in(LanguageModelObjective(model, kind), batch)
    assert [layer.name for layer in layers] == [f"{stack}.{i}" for stack in stacks[family] for i in range(3)]
    whole = logits(model, kind, batch)
    for layer in layers:
        number, stack = int(layer.name.rpartition(".")[2]), stacks[family][layer.stack]
        with bypass(layer):
            bypassed = logits(model, kind, batch)
        # The same operations on the same numbers: not a bit may differ.
        assert torch.equal(bypassed, logits(without(model, stack, number), kind, batch)), layer.name
        assert not torch.equal(bypassed, logits(without(model, stack, (number + 1) % 3), kind, batch)), layer.name
        assert not torch.equal(bypassed, whole)
    assert torch.equal(logits(model, kind, batch), whole)


# --- models of other shapes -------------------------------------------------------------------------------------------

OTHERS = {
    "Albert": [f"albert_layer_groups.0:{i}" for i in range(3)],  # one module, called three times
    "MobileBert": ["layer.0", "layer.1", "layer.2"],  # its loss takes two passes, since its head cannot be cut
    "XLNet": ["layer.0", "layer.1", "layer.2"],  # (T, B, D), in a tuple
    "Rwkv": ["blocks.0", "blocks.1", "blocks.2"],
    "Funnel": ["encoder.blocks.0.0", "encoder.blocks.1.0", "decoder.layers.0", "decoder.layers.1"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_stacks(name, deep):
    kind, model, batch = deep(name)
    layers = found_in(LanguageModelObjective(model, kind), batch)
    assert [layer.name for layer in layers] == OTHERS[name]
    whole = logits(model, kind, batch)
    for layer in layers:
        with bypass(layer):
            first, second = logits(model, kind, batch), logits(model, kind, batch)
        assert torch.equal(first, second), "calls were counted on into the next pass"
        assert not torch.equal(first, whole)


def test_each_call_of_a_shared_layer_is_a_layer(deep):
    """Any one of four calls left out: the same as a model of three."""
    kind, model, batch = deep("Albert", 4)
    layers = found_in(LanguageModelObjective(model, kind), batch)
    assert len(layers) == 4
    _, shallow, _ = deep("Albert", 3)
    shallow.load_state_dict(model.state_dict())
    for layer in layers:
        with bypass(layer):
            assert torch.equal(logits(model, kind, batch), logits(shallow, kind, batch))


def by_hand(net, number):
    """Logits of a linear net without a layer."""
    hidden = net.table(IDS["input_ids"])
    for i, block in enumerate(net.blocks):
        hidden = hidden if i == number else hidden + block.inner(hidden)
    return net.head(hidden)


@pytest.mark.parametrize(
    "returns",
    [
        lambda hidden: hidden,
        lambda hidden: (hidden,),
        lambda hidden: (None, hidden),
        lambda hidden: [torch.ones(2), hidden],
        lambda hidden: {"scores": hidden.sum(-1), "new": hidden},
        lambda hidden: (2 * hidden, hidden),  # of the same shape, but not what the next one gets
    ],
)
def test_the_place_of_the_hidden_states_in_the_output(returns, linear_net):
    """Given by keyword after something else, returned at any place of a tuple, list or dictionary."""
    objective = linear_net(draws(3), [returns] * 3)
    layers = found_in(objective)
    assert [layer.name for layer in layers] == ["blocks.0", "blocks.1", "blocks.2"]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            with bypass(layer):
                assert torch.equal(objective.model(**IDS).logits, by_hand(objective.model, number))
        assert torch.equal(objective.model(**IDS).logits, by_hand(objective.model, None))


def test_a_block_that_changes_its_input_in_place(linear_net):
    objective = linear_net(draws(3))
    for block in objective.model.blocks:
        block.forward = lambda number, hidden, block=block: hidden.add_(block.inner(hidden))
    layers = found_in(objective)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            with bypass(layer):
                found = objective.model(**IDS).logits
            assert torch.equal(found, by_hand(objective.model, number))


def test_short_names():
    assert _short(["encoder.encoder.layer", "decoder.bert.encoder.layer"]) == ["encoder", "decoder.bert"]
    assert _short(["model.layers"]) == ["layers"]
    assert _short(["a.x", "a.y"]) == ["x", "y"]


# --- what is refused --------------------------------------------------------------------------------------------------


class Parallel(nn.Module):
    """Blocks beside each other are no stack."""

    def __init__(self):
        super().__init__()
        self.sides = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(3))

    def forward(self, x):
        return sum(side(x) for side in self.sides)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(4, 4)])
        self.narrowing = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2)])
        self.unused = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        for module in (*self.maps, *self.narrowing):
            x = module(x)
        return x


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), Parallel, Heads])
def test_no_stack(make):
    model = make()
    with pytest.raises(InputError, match=rf"no residual layers in {type(model).__name__}: no list of blocks"):
        residual_layers(model, lambda: model(torch.randn(2, 3, 4, generator=stream(0, "x"))))


def test_one_layer(linear_net):
    with pytest.raises(InputError, match=r"LinearNet has one residual layer \(blocks.0\); leaving one out takes at "):
        found_in(linear_net(draws(1)))


def test_an_output_that_cannot_be_told(linear_net):
    with pytest.raises(InputError, match=r"^Block returns 2 tensors of the shape of its hidden states, and which of"):
        found_in(linear_net(draws(3), [lambda hidden: (hidden, hidden)] * 3))


def test_blocks_that_change_the_shape_later(linear_net):
    """A layer found on one input may turn out to be none on another."""
    objective = linear_net(draws(2))
    layer = found_in(objective)[1]
    objective.model.blocks[1].after = lambda hidden: hidden[:, :-1]
    with (
        bypass(layer),
        pytest.raises(InputError, match=r"^Block \('blocks.1'\) changes its shape; it cannot be bypassed"),
    ):
        objective.model(**IDS)


# --- manners ----------------------------------------------------------------------------------------------------------


def hooks(model):
    return [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._forward_pre_hooks_with_kwargs))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_only_hooks_of_others_stay(fails, linear_net):
    objective = linear_net(draws(3))
    own = objective.model.blocks[1].register_forward_hook(lambda module, args, output: None)
    before, rng = hooks(objective.model), torch.get_rng_state()
    layers = found_in(objective)
    whole = objective.token_losses(objective.parameters, IDS)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), bypass(layers[0]), bypass(layers[1]):
        assert not torch.equal(objective.token_losses(objective.parameters, IDS), whole)
        if fails:
            raise ZeroDivisionError
    assert hooks(objective.model) == before
    assert own.id in objective.model.blocks[1]._forward_hooks
    assert torch.equal(objective.token_losses(objective.parameters, IDS), whole)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled()


def test_hooks_go_when_the_search_fails(linear_net):
    objective = linear_net(draws(3), [lambda hidden: (hidden, hidden)] * 3)
    with pytest.raises(InputError):
        found_in(objective)
    assert not any(count for _, *counts in hooks(objective.model) for count in counts)
