"""Our GELU against its formula and torch's own, in value and in two derivatives, by every path that computes it."""

import math

import pytest
import torch
import torch.nn.functional as F

from est_analysis.models.parts import gelu
from est_analysis.rng import stream

POINTS = torch.cat([torch.linspace(-6, 6, 97), torch.tensor([-50.0, 50.0, -1e-9, 0.0])]).double()
# A few roundings of numbers up to 50 in float64.
EXACT = {"atol": 1e-13, "rtol": 1e-13}


def _formula(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("trained", [True, False])
def test_value(trained):
    x = POINTS.clone().requires_grad_(trained)
    torch.testing.assert_close(gelu(x).detach(), _formula(POINTS), **EXACT)
    with torch.no_grad():
        torch.testing.assert_close(gelu(x), _formula(POINTS), **EXACT)


def test_gradient_is_torchs():
    x = POINTS.clone().requires_grad_()
    (actual,) = torch.autograd.grad((3 * gelu(x)).sum(), x)
    (expected,) = torch.autograd.grad((3 * F.gelu(x, approximate="tanh")).sum(), x)
    torch.testing.assert_close(actual, expected, **EXACT)


def test_first_and_second_derivatives_by_finite_differences():
    x = torch.randn(5, dtype=torch.float64, generator=stream(0, "x")).requires_grad_()
    assert torch.autograd.gradcheck(gelu, x)
    assert torch.autograd.gradgradcheck(gelu, x)


def test_second_derivative_is_torchs():
    def second(function):
        x = POINTS.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    torch.testing.assert_close(second(gelu), second(lambda x: F.gelu(x, approximate="tanh")), **EXACT)


def test_under_functorch():
    expected = torch.func.hessian(lambda x: _formula(x).sum())(POINTS[:20])
    torch.testing.assert_close(torch.func.hessian(lambda x: gelu(x).sum())(POINTS[:20]), expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype):
    x = POINTS.to(dtype).requires_grad_()
    y = gelu(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    exact = x.detach().double().requires_grad_()
    (exact_gradient,) = torch.autograd.grad(_formula(exact).sum(), exact)
    assert y.dtype == gradient.dtype == dtype
    # Roundings of intermediates: u = 2 sqrt(2/pi) (x + ...) is right to a few units, and x s(u) and its derivative move
    # by at most |x u| s (1-s) < 2 times that.
    error = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), _formula(exact), atol=error, rtol=error)
    torch.testing.assert_close(gradient.double(), exact_gradient, atol=error, rtol=error)
