"""Selecting what is active of a weight, and the projection that puts it back into the residual stream."""

import torch
from jaxtyping import Int64
from torch import Tensor


class _SelectRows(torch.autograd.Function):
    """`weight[index]` for distinct indices. Its backward writes rows instead of accumulating them, which is faster."""

    @staticmethod
    def forward(ctx, weight: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = weight.shape
        return weight.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, index, grad), None


def select_rows(weight: Tensor, index: Int64[Tensor, " k"] | None) -> Tensor:
    """The rows `index` (distinct) of `weight`, or `weight` itself when `index` is None."""
    return weight if index is None else _SelectRows.apply(weight, index)


def scaled_projection(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """`scale * x @ weight + bias`: the bias is not sampled, so it is not scaled (EST eqs. 5, 6)."""
    # addmm multiplies by alpha inside the matrix product, so that 1/p costs no pass over the activations.
    flat = x.flatten(0, -2)
    if bias is not None:
        flat = torch.addmm(bias, flat, weight, alpha=scale)
    elif scale == 1:
        flat = flat @ weight
    else:
        flat = torch.addmm(x.new_zeros(()), flat, weight, alpha=scale, beta=0)
    return flat.view(*x.shape[:-1], weight.shape[1])
