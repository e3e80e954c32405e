"""The chunked head loss against `F.cross_entropy(F.linear(...))`."""

import math

import pytest
import torch
import torch.nn.functional as F

from est_analysis.models.gpt2.model import GPT2
from est_analysis.models.parts import IGNORED_LABEL, linear_cross_entropy
from est_analysis.rng import stream

B, T, D, V = 2, 5, 4, 7
# Sums of at most 10 products of order 1 in float64.
EXACT = {"atol": 1e-12, "rtol": 1e-12}
IGNORED = {
    "none ignored": [],
    "some ignored": [0, 3, 4],
    "a chunk of 3 ignored": [3, 4, 5],
    "all but one ignored": [i for i in range(B * T) if i != 6],
}


def _bias(dtype=torch.float64):
    return torch.randn(V, dtype=torch.float64, generator=stream(0, "bias")).to(dtype).requires_grad_()


def _inputs(*, scale=1.0, dtype=torch.float64):
    hidden = scale * torch.randn(B, T, D, dtype=torch.float64, generator=stream(0, "hidden"))
    weight = torch.randn(V, D, dtype=torch.float64, generator=stream(0, "weight"))
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def _labels(ignored=()):
    labels = torch.randint(V, (B * T,), generator=stream(0, "labels"))
    labels[list(ignored)] = IGNORED_LABEL
    return labels.view(B, T)


def _plain(hidden, weight, labels, bias=None):
    return F.cross_entropy(F.linear(hidden, weight, bias).flatten(0, -2), labels.flatten(), ignore_index=-100)


@pytest.mark.parametrize("chunk", [1, 3, B * T, 1000, None])
@pytest.mark.parametrize("ignored", IGNORED.values(), ids=IGNORED.keys())
@pytest.mark.parametrize("scale", [1.0, 300.0])  # 300: exp of a raw logit would overflow
def test_value_and_gradients(chunk, ignored, scale):
    labels, inputs = _labels(ignored), _inputs(scale=scale)
    expected = _plain(*inputs, labels)
    actual = linear_cross_entropy(*inputs, labels, chunk=chunk)
    torch.testing.assert_close(actual, expected, **EXACT)
    # An incoming gradient other than 1 must be honoured.
    gradients = torch.autograd.grad(2.5 * actual, inputs)
    for gradient, reference in zip(gradients, torch.autograd.grad(2.5 * expected, inputs), strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-12 * scale, rtol=1e-12)


def test_nothing_is_made_for_a_backward_pass_that_cannot_come(monkeypatch):
    inputs, labels = _inputs(), _labels()
    expected = linear_cross_entropy(*inputs, labels)

    def refuse(*arguments, **options):
        raise AssertionError("a gradient is computed")

    monkeypatch.setattr(torch, "mm", refuse)
    with pytest.raises(AssertionError, match="a gradient is computed"):
        linear_cross_entropy(*inputs, labels)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*inputs, labels), expected, **EXACT)


@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("ignored", IGNORED.values(), ids=IGNORED.keys())
@pytest.mark.parametrize("shape", [(B, T), (B * T,), (1, T, B)], ids=str)
def test_with_a_bias_and_any_leading_shape(chunk, ignored, shape):
    hidden, weight = _inputs()
    inputs, labels = (hidden.detach().view(*shape, D).requires_grad_(), weight, _bias()), _labels(ignored).view(shape)
    expected = _plain(*inputs[:2], labels, inputs[2])
    actual = linear_cross_entropy(*inputs[:2], labels, bias=inputs[2], chunk=chunk)
    torch.testing.assert_close(actual, expected, **EXACT)
    gradients = torch.autograd.grad(2.5 * actual, inputs)
    for gradient, reference in zip(gradients, torch.autograd.grad(2.5 * expected, inputs), strict=True):
        torch.testing.assert_close(gradient, reference, **EXACT)


def test_the_bias_alone_may_need_a_gradient():
    hidden, weight = (tensor.detach() for tensor in _inputs())
    bias, labels = _bias(), _labels([1])
    (actual,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels, bias=bias, chunk=3), bias)
    (expected,) = torch.autograd.grad(_plain(hidden, weight, labels, bias), bias)
    torch.testing.assert_close(actual, expected, **EXACT)


def test_no_tokens_at_all_cost_nothing(nan_filled):
    """As when none of a batch is asked for; memory that nobody wrote is NaN here."""
    inputs = torch.empty(0, D, dtype=torch.float64, requires_grad=True), _inputs()[1], _bias()
    loss = linear_cross_entropy(*inputs[:2], torch.empty(0, dtype=torch.int64), bias=inputs[2])
    assert loss == 0
    gradients = torch.autograd.grad(loss, inputs)
    assert [gradient.shape for gradient in gradients] == [(0, D), (V, D), (V,)]
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_nothing_to_predict_costs_nothing(chunk):
    inputs = _inputs()
    loss = linear_cross_entropy(*inputs, _labels(range(B * T)), chunk=chunk)
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("chunk", [1, 3])
def test_gradcheck(chunk):
    labels = _labels([2])
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, labels, chunk=chunk), _inputs())
    with_bias = (*_inputs(), _bias())
    assert torch.autograd.gradcheck(lambda h, w, b: linear_cross_entropy(h, w, labels, bias=b, chunk=chunk), with_bias)


@pytest.mark.parametrize("trained", [0, 1])
def test_only_one_side_may_need_a_gradient(trained):
    inputs, labels = list(_inputs()), _labels()
    inputs[1 - trained] = inputs[1 - trained].detach()
    (actual,) = torch.autograd.grad(linear_cross_entropy(*inputs, labels), inputs[trained])
    (expected,) = torch.autograd.grad(_plain(*inputs, labels), inputs[trained])
    torch.testing.assert_close(actual, expected, **EXACT)


def test_without_gradients():
    labels, inputs = _labels([1]), _inputs()
    for bias in (None, _bias()):
        with torch.no_grad():
            loss = linear_cross_entropy(*inputs, labels, bias=bias, chunk=3)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, _plain(*inputs, labels, bias).detach(), **EXACT)


def test_inputs_are_left_alone():
    inputs, labels, bias = _inputs(), _labels([1]), _bias()
    before = [tensor.detach().clone() for tensor in (*inputs, labels, bias)]
    linear_cross_entropy(*inputs, labels, bias=bias, chunk=3).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, (*inputs, labels, bias), strict=True))


@pytest.mark.parametrize("biased", [False, True])
def test_bfloat16_activations_keep_a_float32_loss(biased):
    bias = _bias(torch.float32) if biased else None
    hidden, weight = _inputs(dtype=torch.float32)
    hidden = hidden.detach().bfloat16().requires_grad_()
    labels, exact = _labels([1]), [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    loss = linear_cross_entropy(hidden, weight, labels, bias=bias, chunk=3)
    reference = _plain(*exact, labels, bias.double() if biased else None)
    # A logit is off by at most 2^-9 (weight to bf16) + 2^-9 (result to bf16) of sum |h||w|; the loss, a log-sum-exp
    # minus a logit, moves by at most twice that.
    error = 2 * 2 * 2**-9 * (exact[0].abs() @ exact[1].abs().mT).max()
    assert loss.dtype == torch.float32
    assert abs(loss - reference) < error
    loss.backward()
    reference.backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    for actual, expected in ((hidden.grad, exact[0].grad), (weight.grad, exact[1].grad)):
        # A softmax moves by the logits' error, then its own rounding and the product's: a few of the above.
        assert (actual - expected).norm() < 2 * error * expected.norm()


def test_the_model_under_autocast_is_close_to_float32(config, tokens):
    model = GPT2(config).initialise(0)
    exact = model.loss(tokens, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, tokens)
    assert loss.dtype == torch.float32
    assert loss.requires_grad
    # Logits at initialisation are below 1 and right to a few of bf16's 2^-9.
    assert abs(loss - exact) < 4 * 2**-8
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("biased", [False, True])
def test_under_autocast_the_head_multiplies_in_its_precision_whatever_the_norm_before_it_gave(biased):
    bias = _bias(torch.float32) if biased else None
    hidden, weight = _inputs(dtype=torch.float32)
    labels, rounded = _labels([1]), hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels, bias=bias)
    expected = linear_cross_entropy(rounded, weight, labels, bias=bias)
    assert torch.equal(loss, expected)
    assert not torch.equal(loss, linear_cross_entropy(hidden, weight, labels, bias=bias))
    found, wanted = (
        torch.autograd.grad(one, [inputs, weight]) for one, inputs in ((loss, hidden), (expected, rounded))
    )
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], wanted[0].float())
    assert torch.equal(found[1], wanted[1])


def test_loss_is_the_cross_entropy_of_the_logits_and_ln_v_when_all_are_equal(model, tokens):
    torch.testing.assert_close(
        model.loss(tokens, tokens), F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()), **EXACT
    )
    torch.nn.init.zeros_(model.token_embedding)
    assert model.loss(tokens, tokens).item() == pytest.approx(math.log(17), rel=1e-14)
