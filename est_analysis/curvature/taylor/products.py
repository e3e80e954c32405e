"""Rules of products: for a bilinear B(x, y), with the coefficients of `jet.py`,

a = B(xa, ya),   b_k = B(xb_k, ya) + B(xa, yb_k),   c = B(xc, ya) + B(xa, yc) + 2 sum_k B(xb_k, yb_k).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from est_analysis.curvature.taylor.jet import (
    FUNCTIONS,
    Jet,
    Layout,
    aligned,
    layout_of,
    rule,
    stack_of,
    value_of,
)

aten = torch.ops.aten


def add_into(stack: Tensor, x: Tensor | float, alpha: float = 1) -> Tensor:
    """`stack` += alpha x, in place; x is a jet or a constant that broadcasts to it."""
    if isinstance(x, Jet):
        return stack.add_(aligned(x.stack, stack.ndim - 1), alpha=alpha)
    stack[0].add_(x, alpha=alpha)
    return stack


@rule(aten.add.Tensor, aten.add.Scalar)
def _add(func, x, y, alpha=1):
    layout = layout_of(x, y)
    if isinstance(x, Jet) and isinstance(y, Jet):
        ndim = max(x.ndim, y.ndim)
        return Jet(torch.add(aligned(x.stack, ndim), aligned(y.stack, ndim), alpha=alpha), layout)
    shape = torch.broadcast_shapes(*(getattr(value, "shape", ()) for value in (x, y)))
    jet, other, scale = (x, y, alpha) if isinstance(x, Jet) else (y, x, 1)
    stack = aligned(jet.stack, len(shape)).expand(-1, *shape).to(torch.result_type(jet.value, other))
    stack = stack.clone(memory_format=torch.contiguous_format) if jet is x else stack * alpha
    return Jet(add_into(stack, other, scale), layout)


@rule(aten.sub.Tensor, aten.sub.Scalar)
def _sub(func, x, y, alpha=1):
    return _add(func, x, y, alpha=-alpha)


@rule(aten.rsub.Scalar)
def _rsub(func, x, y, alpha=1):
    return _add(func, Jet(x.stack * -alpha, x.coefficients), y)


@rule(aten.mul.Tensor, aten.mul.Scalar)
def _mul(func, x, y):
    layout = layout_of(x, y)
    if not isinstance(x, Jet):
        x, y = y, x
    ndim = max(x.ndim, getattr(y, "ndim", 0))
    if not isinstance(y, Jet):
        return Jet(aligned(x.stack, ndim) * y, layout)
    return Jet(multiply(aligned(x.stack, ndim), aligned(y.stack, ndim), layout), layout)


def multiply(x: Tensor, y: Tensor, layout: Layout) -> Tensor:
    """The stack of an elementwise product, from stacks that broadcast."""
    if x[0].numel() < y[0].numel():
        x, y = y, x
    product = x * y[0]
    first = product[1:]
    first.addcmul_(x[0], y[1:])
    for probe in range(layout.probes):
        product[layout.group(probe)].addcmul_(x[1 + probe], y[1 + probe], value=2)
    return product


@rule(aten.div.Tensor, aten.div.Scalar)
def _div(func, x, y):
    if not isinstance(y, Jet):
        return Jet(aligned(x.stack, max(x.ndim, getattr(y, "ndim", 0))) / y, x.coefficients)
    return x * y.reciprocal()


def matrix_product(x: Tensor, y: Tensor, layout: Layout) -> Tensor:
    """The stack of x @ y for matrices, or for equally many matrices each: (C, [B,] N, O)."""
    accumulate = Tensor.addmm_ if x.ndim == 2 else Tensor.baddbmm_
    ya = value_of(y)
    if isinstance(x, Jet):
        product = _times_constant(x.stack, ya)
    else:
        product = ya.new_zeros(layout.size, *x.shape[:-1], ya.shape[-1])
        torch.matmul(x, ya, out=product[0])
    if not isinstance(y, Jet):
        return product
    xa = value_of(x)
    for probe, yb in enumerate(y.directions()):
        accumulate(product[1 + probe], xa, yb)
        if isinstance(x, Jet):
            accumulate(product[layout.group(probe)], x.stack[1 + probe], yb, alpha=2)
    if not y.is_parameter:
        for index in range(1 + layout.probes, layout.size):
            accumulate(product[index], xa, y.stack[index])
    return product


def _times_constant(stack: Tensor, y: Tensor) -> Tensor:
    if y.ndim == 2:
        return torch.matmul(stack, y)
    product = stack.new_empty(*stack.shape[:-1], y.shape[-1])
    for part, out in zip(stack, product, strict=True):  # a broadcast over C would copy y
        torch.bmm(part, y, out=out)
    return product


@rule(aten.mm.default, aten.bmm.default)
def _mm(func, x, y):
    layout = layout_of(x, y)
    return Jet(matrix_product(x, y, layout), layout)


@rule(aten.addmm.default, aten.baddbmm.default)
def _addmm(func, bias, x, y, beta=1, alpha=1):
    layout = layout_of(bias, x, y)
    if not isinstance(x, Jet) and not isinstance(y, Jet):
        return beta * bias + alpha * torch.matmul(x, y)
    product = matrix_product(x, y, layout)
    return Jet(add_into(product if alpha == 1 else product.mul_(alpha), bias, beta), layout)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    layout = layout_of(x, weight, bias)
    with torch._C.DisableTorchFunctionSubclass():
        rows, matrix = x.reshape(-1, x.shape[-1]), weight.t()
    if not isinstance(x, Jet) and not isinstance(weight, Jet):
        return F.linear(x, weight) + bias
    product = matrix_product(rows, matrix, layout)
    if bias is not None:
        add_into(product, bias)
    return Jet(product.view(layout.size, *x.shape[:-1], weight.shape[0]), layout)


FUNCTIONS[F.linear] = _linear


@rule(aten.embedding.default)
def _embedding(func, weight, indices, padding_idx=-1, *_):
    layout = weight.coefficients
    if weight.is_parameter:
        rows = weight.stored[indices].to(weight.dtype)
        stack = rows.new_zeros(layout.size, *rows.shape)
        stack[0] = rows
        for out, signs in zip(stack[1:], weight.directions(), strict=False):
            torch.index_select(signs, 0, indices.flatten(), out=out.view(-1, rows.shape[-1]))
    else:
        stack = weight.stack[:, indices]
    if padding_idx >= 0:  # autograd, and so training, takes the padding row for a constant
        stack[1:].masked_fill_((indices == padding_idx)[..., None], 0)
    return Jet(stack, layout)


@rule(aten.convolution.default)
def _convolution(func, x, weight, bias, *settings):
    layout = layout_of(x, weight, bias)

    def convolve(left: Tensor, right: Tensor) -> Tensor:
        return func(left, right, None, *settings)

    product = _bilinear(convolve, x, weight, layout)
    if bias is not None:
        ones = (1,) * (x.ndim - 2)
        add_into(product, bias.reshape(-1, *ones))
    return Jet(product, layout)


def _bilinear(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, layout: Layout) -> Tensor:
    """The stack of any bilinear `product`, term by term."""
    xs, ys = stack_of(x, layout), stack_of(y, layout)
    out = [product(part, ys[0]) for part in xs]
    for index in range(1, layout.size):
        out[index] = out[index] + product(xs[0], ys[index])
    for probe in range(layout.probes):
        out[layout.group(probe)] = out[layout.group(probe)] + 2 * product(xs[1 + probe], ys[1 + probe])
    return torch.stack(out)
