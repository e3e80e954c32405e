"""Blocks of a few operations each, run in every way in which a model may run them."""

import pytest
import torch
from torch import nn

from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.stability.layers import bypass, residual_layers

X = torch.randn(2, 5, 3, generator=stream(0, "x"), dtype=torch.float64)


class Model(nn.Module):
    """A list of blocks, and how they are run."""

    def __init__(self, blocks, run):
        super().__init__()
        self.blocks, self.run = nn.ModuleList(blocks), run

    def forward(self, x):
        return self.run(self.blocks, x)


class Step(nn.Module):
    """`function(x, extra)` with a child, as a block has."""

    def __init__(self, function):
        super().__init__()
        self.function, self.part = function, nn.Identity()

    def forward(self, x, extra=None):
        return self.function(self.part(x), extra)


def add(number):
    return Step(lambda x, extra: x + number)


def chained(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def look(model):
    return residual_layers(model, lambda: model(X))


def hooked(model):
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_one_block_called_several_times_is_bypassed_once():
    """Each call gets another number, so it shows which of them is left out."""
    numbers = (1.0, 10.0, 100.0)

    def run(blocks, x):
        for number in numbers:
            x = blocks[0](x, extra=number)
        return x

    model = Model([Step(lambda x, extra: x + extra)], run)
    layers = look(model)
    assert [(one.name, one.call, one.calls) for one in layers] == [(f"blocks.0:{i}", i, 3) for i in range(3)]
    for layer, number in zip(layers, numbers, strict=True):
        with bypass(layer):
            for _ in range(2):  # the second forward pass counts from the start
                torch.testing.assert_close(model(X), X + 111.0 - number, atol=1e-12, rtol=0)


def test_hidden_states_behind_another_tensor_of_their_shape():
    """As an attention's output would be; the hidden states are what the next block is given."""

    def run(blocks, x):
        others = []
        for block in blocks:
            other, x = block(x)
            others.append(other)
        return x, others

    model = Model([Step(lambda x, extra, n=n: (x * n, x + n)) for n in (2.0, 3.0)], run)
    layers = look(model)
    assert [layer.output for layer in layers] == [1, 1]
    with bypass(layers[0]):
        x, others = model(X)
    assert torch.equal(x, X + 3)
    assert torch.equal(others[0], X * 2), "the block still runs, for the rest of what it returns"


def test_a_block_that_works_in_place():
    model = Model([Step(lambda x, extra, n=n: x.add_(n)) for n in (1.0, 2.0)], lambda b, x: chained(b, x.clone()))
    for layer, rest in zip(look(model), (2.0, 1.0), strict=True):
        with bypass(layer):
            assert torch.equal(model(X), X + rest)


def test_the_input_is_found_by_its_place_in_the_signature():
    """A mask of real numbers stands behind it; both come by name, in another order."""

    class Masked(Step):
        def forward(self, hidden, mask):
            return hidden + mask

    def run(blocks, x):
        for block in blocks:
            x = block(mask=torch.ones_like(x), hidden=x)
        return x

    model = Model([Masked(None), Masked(None)], run)
    with bypass(look(model)[0]):
        assert torch.equal(model(X), X + 1)


def test_blocks_that_change_the_shape_or_stand_side_by_side_are_no_layers():
    wide = Model([nn.Sequential(nn.Linear(*sizes)).double() for sizes in ((3, 4), (4, 3))], chained)
    beside = Model([add(1), add(2)], lambda blocks, x: blocks[0](x) + blocks[1](x + 5))
    single = Model([nn.Linear(3, 3).double()], chained)
    for model in (wide, beside, single):
        with pytest.raises(InputError, match=r"^no residual layers in Model: .*; give another model$"):
            look(model)


def test_blocks_of_blocks_are_one_layer_each():
    model = Model([Model([add(1), add(2)], chained) for _ in range(2)], chained)
    assert [layer.name for layer in look(model)] == ["blocks.0", "blocks.1"]


def test_a_second_attempt_counts_alone():
    """The cut before the head may need one."""
    model = Model([add(1), add(2)], chained)
    layers = residual_layers(model, lambda: (model(X), model(X)))
    assert [(layer.name, layer.calls) for layer in layers] == [("blocks.0", 1), ("blocks.1", 1)]


def test_a_shape_that_changes_later_is_refused():
    model = Model([Step(lambda x, extra: x + 1 if len(x) == 2 else x[:1]), add(2)], chained)
    layers = look(model)
    error = pytest.raises(InputError, match=r"^Step \('blocks.0'\) changes its shape; it cannot be bypassed$")
    with error, bypass(layers[0]):
        model(torch.cat([X, X]))
    assert not hooked(model)


def test_a_block_in_another_precision_hands_on_what_the_next_expects():
    model = Model([Step(lambda x, extra: (x + 1).float()), Step(lambda x, extra: x.double() + 2)], chained)
    with bypass(look(model)[0]):
        assert torch.equal(model(X), X.float().double() + 2)


def test_an_error_inside_a_block_is_passed_on_and_leaves_nothing():
    model = Model([add(1), add(torch.zeros(3))], chained)
    layers, whole = look(model), model(X)
    with pytest.raises(RuntimeError), bypass(layers[1]):
        model(torch.ones(1, 2, 4))
    assert not hooked(model)
    assert torch.equal(model(X), whole)
