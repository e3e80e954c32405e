"""Rules of functions of single numbers: (f(a), f'(a) b_k, f'(a) c + f''(a) sum_k b_k^2)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from est_analysis.curvature.taylor.jet import Jet, Layout, rule, value_of

aten = torch.ops.aten

# a, further arguments -> f, f', f''; None stands for a derivative that is zero everywhere it exists.
Derivatives = Callable[..., tuple[Tensor, Tensor, Tensor | None]]


def compose(stack: Tensor, layout: Layout, f: Tensor, slope: Tensor, bend: Tensor | None) -> Tensor:
    """The stack of f(x) from that of x and the function's value and derivatives at a."""
    out = torch.empty_like(stack)
    out[0] = f
    torch.mul(stack[1:], slope, out=out[1:])
    if bend is not None:
        out[1 + layout.probes :].addcmul_(squares(stack, layout), bend)
    return out


def squares(stack: Tensor, layout: Layout) -> Tensor:
    """(G, *shape): the sum of b_k^2 over each group."""
    groups = stack[1 : 1 + layout.probes].unflatten(0, (layout.groups, -1))
    total = groups[:, 0].square()
    for member in range(1, groups.shape[1]):
        total.addcmul_(groups[:, member], groups[:, member])
    return total


def pointwise(*overloads) -> Callable[[Derivatives], Derivatives]:
    """Register a function given by its derivatives."""

    def register(derivatives: Derivatives) -> Derivatives:
        def apply(func, x, *args, **kwargs):
            return Jet(compose(x.stack, x.coefficients, *derivatives(x.value, *args, **kwargs)), x.coefficients)

        rule(*overloads)(apply)
        return derivatives

    return register


@pointwise(aten.exp.default)
def _exp(a):
    f = a.exp()
    return f, f, f


@pointwise(aten.expm1.default)
def _expm1(a):
    slope = a.exp()
    return a.expm1(), slope, slope


@pointwise(aten.log.default)
def _log(a):
    slope = a.reciprocal()
    return a.log(), slope, -slope.square()


@pointwise(aten.log1p.default)
def _log1p(a):
    slope = (1 + a).reciprocal()
    return a.log1p(), slope, -slope.square()


@pointwise(aten.reciprocal.default)
def _reciprocal(a):
    f = a.reciprocal()
    return f, -f.square(), 2 * f**3


@pointwise(aten.sqrt.default)
def _sqrt(a):
    f = a.sqrt()
    return f, 0.5 / f, -0.25 / (f * a)


@pointwise(aten.rsqrt.default)
def _rsqrt(a):
    f = a.rsqrt()
    return f, -0.5 * f / a, 0.75 * f / a.square()


@pointwise(aten.pow.Tensor_Scalar)
def _pow(a, exponent):
    if exponent in (0, 1, 2):  # 0 * 0 ** -1 is not a number
        slope = {0: torch.zeros_like(a), 1: torch.ones_like(a), 2: 2 * a}[exponent]
        return a**exponent, slope, torch.full_like(a, 2) if exponent == 2 else None
    return a**exponent, exponent * a ** (exponent - 1), exponent * (exponent - 1) * a ** (exponent - 2)


@rule(aten.pow.Scalar)
def _pow_scalar(func, base, x):
    return (x * math.log(base)).exp()


@pointwise(aten.tanh.default)
def _tanh(a):
    f = a.tanh()
    slope = 1 - f * f
    return f, slope, -2 * f * slope


@pointwise(aten.sigmoid.default)
def _sigmoid(a):
    f = a.sigmoid()
    slope = f * (1 - f)
    return f, slope, slope * (1 - 2 * f)


@pointwise(aten.silu.default)
def _silu(a):
    s = a.sigmoid()
    slope = s * (1 - s)
    return a * s, s + a * slope, slope * (2 + a * (1 - 2 * s))


@pointwise(aten.gelu.default)
def _gelu(a, approximate="none"):
    if approximate == "none":
        normal = torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
        cumulative = 0.5 * (1 + torch.erf(a / math.sqrt(2)))
        return F.gelu(a), cumulative + a * normal, normal * (2 - a * a)
    # f = a/2 (1 + t), t = tanh(u), u = sqrt(2/pi) (a + 0.044715 a^3)
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = a * a
    t = torch.tanh(scale * a * (1 + cubic * square))
    du = scale * (1 + 3 * cubic * square)
    dt = (1 - t * t) * du
    slope = 0.5 * (1 + t + a * dt)
    bend = dt + 0.5 * a * ((1 - t * t) * (6 * scale * cubic) * a - 2 * t * dt * du)
    return 0.5 * a * (1 + t), slope, bend


@pointwise(aten.erf.default)
def _erf(a):
    slope = 2 / math.sqrt(math.pi) * torch.exp(-a * a)
    return a.erf(), slope, -2 * a * slope


@pointwise(aten.sin.default)
def _sin(a):
    f = a.sin()
    return f, a.cos(), -f


@pointwise(aten.cos.default)
def _cos(a):
    f = a.cos()
    return f, -a.sin(), -f


@pointwise(aten.relu.default)
def _relu(a):
    return a.relu(), (a > 0).to(a.dtype), None


@pointwise(aten.leaky_relu.default)
def _leaky_relu(a, negative_slope=0.01):
    return F.leaky_relu(a, negative_slope), torch.ones_like(a).masked_fill_(a <= 0, negative_slope), None


@pointwise(aten.elu.default)
def _elu(a, alpha=1, scale=1, input_scale=1):
    f = aten.elu(a, alpha, scale, input_scale)
    slope = torch.where(a > 0, scale, (f + alpha * scale) * input_scale)
    return f, slope, torch.where(a > 0, 0.0, slope * input_scale)


@pointwise(aten.softplus.default)
def _softplus(a, beta=1, threshold=20):
    s = torch.sigmoid(beta * a)
    linear = beta * a > threshold
    return F.softplus(a, beta, threshold), s.masked_fill(linear, 1), (beta * s * (1 - s)).masked_fill(linear, 0)


@pointwise(aten.abs.default)
def _abs(a):
    return a.abs(), a.sign(), None


@pointwise(aten.clamp.default)
def _clamp(a, low=None, high=None):
    f = a.clamp(low, high)
    return f, (f == a).to(a.dtype), None


@pointwise(aten.hardtanh.default)
def _hardtanh(a, low=-1, high=1):
    return _clamp(a, low, high)


@pointwise(aten.clamp_min.default)
def _clamp_min(a, low):
    return _clamp(a, low)


@pointwise(aten.clamp_max.default)
def _clamp_max(a, high):
    return _clamp(a, None, high)


@rule(aten.maximum.default, aten.minimum.default)
def _extreme(func, x, y):
    larger = value_of(x) >= value_of(y)
    return torch.where(larger if func is aten.maximum.default else ~larger, x, y)
