"""Rules of operators that mix the numbers of an axis: softmax, norms, largest values."""

import math

import torch
from torch import Tensor

from est_analysis.curvature.taylor.jet import Jet, Layout, layout_of, rule
from est_analysis.curvature.taylor.pointwise import squares
from est_analysis.curvature.taylor.products import add_into, multiply

aten = torch.ops.aten


def softmax_stack(stack: Tensor, layout: Layout) -> Tensor:
    """Softmax over the last axis, from scores' stack (C, .., n); overwrites it.

    With p the probabilities and s_k = b_k - <p, b_k>: b_k' = p s_k, and c' = p (u - <p, u>) for u = c + sum_k s_k^2.
    """
    p = stack[0].softmax(-1)
    first, second = stack[1 : 1 + layout.probes], stack[1 + layout.probes :]
    first.sub_(torch.linalg.vecdot(first, p)[..., None])
    second.add_(squares(stack, layout))
    second.sub_(torch.linalg.vecdot(second, p)[..., None])
    stack[0] = 1
    return stack.mul_(p)


@rule(aten._softmax.default)
def _softmax(func, x, dim, half_to_float=False):
    stack = x.stack.movedim(dim % x.ndim + 1, -1).to(torch.float32 if half_to_float else x.dtype).contiguous()
    stack = stack.clone() if stack.data_ptr() == x.stack.data_ptr() else stack
    return Jet(softmax_stack(stack, x.coefficients).movedim(-1, dim % x.ndim + 1), x.coefficients)


@rule(aten.logsumexp.default)
def _logsumexp(func, x, dims, keepdim=False):
    f = torch.logsumexp(x.value, dims, keepdim=True)
    p = (x.value - f).exp()
    at, stack, layout = tuple(dim % x.ndim + 1 for dim in dims), x.stack, x.coefficients
    out = (stack * p).sum(at, keepdim=True)  # <p, b>, <p, c>
    out[1 + layout.probes :] += (squares(stack, layout) * p).sum(at, keepdim=True) - squares(out, layout)
    out[0] = f
    return Jet(out if keepdim else out.squeeze(at), layout)


@rule(aten._log_softmax.default)
def _log_softmax(func, x, dim, half_to_float=False):
    x = x.float() if half_to_float else x
    return x - torch.logsumexp(x, dim, keepdim=True)


@rule(aten.native_layer_norm.default)
def _layer_norm(func, x, shape, weight, bias, eps):
    layout = layout_of(x, weight, bias)
    if not isinstance(x, Jet):
        normal = aten.native_layer_norm(x, shape, None, None, eps)[0]
        out = normal if weight is None else normal * weight
        return (out if bias is None else out + bias), None, None
    flat = x.stack.reshape(layout.size, *x.shape[: x.ndim - len(shape)], -1)
    centred = flat - flat.mean(-1, keepdim=True)
    out = multiply(centred, _inverse_root(centred, layout, eps), layout).view(x.stack.shape)
    if isinstance(weight, Jet):
        out = multiply(out, weight.stack.reshape(layout.size, *(1,) * (x.ndim - len(shape)), *shape), layout)
    elif weight is not None:
        out *= weight
    return Jet(out if bias is None else add_into(out, bias), layout), None, None


@rule(aten.native_group_norm.default)
def _group_norm(func, x, weight, bias, count, channels, size, groups, eps):
    rows = x.reshape(count, groups, -1)
    out = aten.native_layer_norm(rows, rows.shape[2:], None, None, eps)[0].reshape(x.shape)
    ones = (1,) * (x.ndim - 2)
    out = out if weight is None else out * weight.reshape(-1, *ones)
    return (out if bias is None else out + bias.reshape(-1, *ones)), None, None


def _inverse_root(x: Tensor, layout: Layout, eps: float) -> Tensor:
    """The stack of (mean(x^2) + eps)^(-1/2) over the last axis of x's stack, that axis kept."""
    moment = torch.linalg.vecdot(x, x[0])[..., None] / x.shape[-1]  # half the derivatives of mean(x^2)
    half = moment[1 + layout.probes :] + squares(x, layout).mean(-1, keepdim=True)
    root = (moment[0] + eps).rsqrt()
    slope = -(root**3)
    out = moment * slope
    out[0] = root
    out[1 + layout.probes :] = slope * half + 3 * root**5 * squares(moment, layout)
    return out


@rule(aten.var.correction, aten.var_mean.correction)
def _var(func, x, dims=None, *, correction=None, keepdim=False):
    dims = dims or list(range(x.ndim))
    centred = x - x.mean(dims, keepdim=True)
    freedom = math.prod(x.shape[dim] for dim in dims) - (1 if correction is None else correction)
    variance = (centred * centred).sum(dims, keepdim=keepdim) / freedom
    return variance if func is aten.var.correction else (variance, x.mean(dims, keepdim=keepdim))


@rule(aten.std.correction)
def _std(func, x, dims=None, *, correction=None, keepdim=False):
    return torch.var(x, dims, correction=correction, keepdim=keepdim).sqrt()


@rule(aten.max.dim)
def _max(func, x, dim, keepdim=False):
    _, at = func(x.value, dim, True)
    values = x.gather(dim, at)
    return (values, at) if keepdim else (values.squeeze(dim), at.squeeze(dim))


@rule(aten.amax.default)
def _amax(func, x, dims=(), keepdim=False):
    dims = sorted(d % x.ndim for d in dims) or range(x.ndim)
    for dim in dims:
        x = torch.max(x, dim, keepdim=True)[0]
    return x if keepdim else x.squeeze(tuple(dims))


@rule(aten.topk.default)
def _topk(func, x, k, dim=-1, *order):
    _, at = func(x.value, k, dim, *order)
    return x.gather(dim, at), at


@rule(aten.max_pool2d_with_indices.default)
def _max_pool(func, x, *args):
    values, at = func(x.value, *args)
    picked = x.flatten(-2).gather(-1, at.flatten(-2))
    return picked.view(values.shape), at


@rule(aten.avg_pool2d.default, aten._adaptive_avg_pool2d.default)
def _avg_pool(func, x, *args):
    out = func(x.stack.flatten(0, 1), *args)
    return Jet(out.unflatten(0, (x.coefficients.size, -1)), x.coefficients)


@rule(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def _nll_loss(func, x, target, weight, reduction, ignored):
    kept = target != ignored
    index = target.where(kept, 0)
    picked = -(x.gather(1, index[:, None])[:, 0] if x.ndim > 1 else x[index])
    weights = kept.to(x.dtype) if weight is None else weight[index] * kept
    total = weights.sum()
    losses = picked * weights
    return (losses if reduction == 0 else losses.sum() / total if reduction == 1 else losses.sum()), total


@rule(aten.mse_loss.default)
def _mse_loss(func, x, y, reduction=1):
    square = (x - y) * (x - y)
    return square if reduction == 0 else square.mean() if reduction == 1 else square.sum()
