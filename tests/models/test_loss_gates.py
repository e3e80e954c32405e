"""Gates at 1 are the model, gates of a mask are the mask, and derivatives in them are what they should be."""

import pytest
import torch
from torch.func import grad, jvp

from est_analysis.curvature.taylor.directions import derivatives_along
from est_analysis.errors import InputError
from est_analysis.models.gates import Gates, gate_gradients, gated_losses, gates_of, sequence_losses
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask, UnitDropout
from est_analysis.subnet.sample import sample_fixed_size, sample_independent
from est_analysis.subnet.schedule import Rates

CAUSAL = ("gpt2", "llama", "llama, own keys", "llama, one key, tied")
every_model = pytest.mark.parametrize("name", CAUSAL)


@pytest.fixture(scope="module")
def labels(config):
    return torch.randint(config.vocab_size, (2, 7), generator=stream(0, "labels"))


def shape_of(model):
    return model.config.architecture(7).stack


def halves(model, name):
    """A mask at half the layers, and half the heads and columns where these divide."""
    rates = Rates(mlp=0.5, layers=0.5) if name in ("gpt2",) else Rates(heads=0.5, mlp=0.5, layers=0.5)
    return sample_fixed_size(shape_of(model), rates, generator=stream(3, "mask"))


def random_direction(model, count=None):
    ones = Gates.ones(model)
    size = () if count is None else (count,)
    return Gates(
        *(torch.randn(*size, *one.shape, generator=stream(5, i), dtype=one.dtype) for i, one in enumerate(ones))
    )


@every_model
def test_gates_at_1_are_the_model(make, tokens, labels, name):
    model = make(name)
    full = gated_losses(model, Gates.ones(model), tokens, labels)
    torch.testing.assert_close(full, sequence_losses(model, tokens, labels), rtol=1e-12, atol=0)
    torch.testing.assert_close(full.mean(), model.loss(tokens, labels).detach(), rtol=1e-12, atol=0)


@every_model
def test_gates_of_a_mask_are_the_sampled_forward(make, tokens, labels, name):
    model = make(name)
    mask = halves(model, name)
    gates = Gates(*(one.double() for one in gates_of(mask, shape_of(model))))
    expected = sequence_losses(model, tokens, labels, mask)
    assert not torch.allclose(expected, sequence_losses(model, tokens, labels))
    torch.testing.assert_close(gated_losses(model, gates, tokens, labels), expected, rtol=1e-12, atol=0)


def test_independent_draws_too(model, tokens, labels):
    mask = sample_independent(shape_of(model), Rates(heads=0.5, mlp=0.5), generator=stream(1, "mask"))
    gates = Gates(*(one.double() for one in gates_of(mask, shape_of(model))))
    expected = sequence_losses(model, tokens, labels, mask)
    torch.testing.assert_close(gated_losses(model, gates, tokens, labels), expected, rtol=1e-12, atol=0)


def along(model, tokens, labels, direction):
    """t -> losses at gates 1 + t direction."""
    return lambda t: gated_losses(model, Gates(*(1 + t * one for one in direction)), tokens, labels)


@every_model
def test_derivatives_are_those_of_finite_differences(make, tokens, labels, name):
    """Central differences in float64 with a step h: h^2 / 12 of the fourth derivative, and 1e-16 / h^2 of rounding."""
    model = make(name)
    directions = random_direction(model, 3)
    first, second = derivatives_along(
        lambda *gates: gated_losses(model, Gates(*gates), tokens, labels), Gates.ones(model), directions, groups=3
    )
    step = 1e-4
    for k in range(3):
        loss = along(model, tokens, labels, Gates(*(one[k] for one in directions)))
        low, middle, high = loss(-step), loss(0.0), loss(step)
        torch.testing.assert_close(first[k], (high - low) / (2 * step), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(second[k], (high - 2 * middle + low) / step**2, rtol=1e-3, atol=1e-3)


def test_second_derivatives_are_those_of_forward_over_reverse(model, tokens, labels):
    """Another engine, to rounding; groups are means of single ones."""
    directions = random_direction(model, 4)
    function = lambda *gates: gated_losses(model, Gates(*gates), tokens, labels)  # noqa: E731
    singles = derivatives_along(function, Gates.ones(model), directions, groups=4)[1].mean(1)
    for k in range(4):
        loss = along(model, tokens, labels, Gates(*(one[k] for one in directions)))
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        expected = jvp(grad(lambda t, loss=loss: loss(t).mean()), (zero,), (one,))[1]
        torch.testing.assert_close(singles[k], expected, rtol=1e-10, atol=1e-12)
    pairs = derivatives_along(function, Gates.ones(model), directions, groups=2)[1].mean(1)
    torch.testing.assert_close(pairs, singles.view(2, 2).mean(1), rtol=1e-10, atol=1e-12)


def test_gradients_are_of_every_sequence_and_layer(model, tokens, labels):
    found = gate_gradients(model, tokens, labels)
    ones = Gates(*(one.requires_grad_() for one in Gates.ones(model)))
    for row in range(len(tokens)):
        loss = gated_losses(model, ones, tokens, labels)[row]
        for ours, theirs in zip(found, torch.autograd.grad(loss, ones), strict=True):
            torch.testing.assert_close(ours[row], theirs, rtol=1e-10, atol=1e-14)
    assert all((one != 0).any() for one in found), "a layer at 1 is differentiated too"


@pytest.mark.parametrize(
    "layer",
    [
        LayerMask(head_gate=torch.ones(3)),
        LayerMask(column_gate=torch.ones(10)),
        LayerMask(sublayer_scale=2.0),
        LayerMask(dropout=UnitDropout(heads=0.5, columns=0.5, stream=(0,))),
    ],
)
def test_masks_that_are_no_choice_are_refused(model, layer):
    mask = SubnetMask(layers=(layer, *[LayerMask()] * 3))
    with pytest.raises(InputError, match="only masks that choose"):
        gates_of(mask, shape_of(model))


def test_other_families_are_refused(make):
    with pytest.raises(InputError, match="causal models"):
        Gates.ones(make("bert"))


def test_directions_divide_into_groups():
    with pytest.raises(InputError, match="3 directions do not divide into 2 groups"):
        derivatives_along(lambda x: x.sum(), [torch.ones(2)], [torch.ones(3, 2)], groups=2)
