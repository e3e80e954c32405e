"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in Hugging Face's half-rotation convention.

Component i of the first half of a head is paired with component i of the second half; the pair is turned by the angle
position * theta^(-2 i / E).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from est_analysis.models.parts.activation import trains_on_cpu

RotaryTable = tuple[Tensor, Tensor]


def rotary_table(length: int, head_dim: int, theta: float, *, like: Tensor) -> RotaryTable:
    """(cos, sin), each (T, 1, E), of positions 0..length-1, in the precision and on the device of `like`.

    Component by component of a head: `sin` is negative in the first half, so that both halves turn by one formula.
    """
    # In float32 whatever the model's precision is: the angles belong to the model, and this is how Llamas are trained.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=like.device) / head_dim
    positions = torch.arange(length, dtype=torch.float32, device=like.device)
    angles = positions[:, None, None] * (1.0 / theta**exponents)
    cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    # Under autocast the heads are narrower than the table; they stay so, after a rotation in its precision.
    return (x * cos + torch.cat((second, first), dim=-1) * sin).to(x.dtype)


def _fast_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sin)


class _Rotate(torch.autograd.Function):
    """The same in fewer passes; the backward is the rotation back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _fast_rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        back = _plain_rotate if torch.is_grad_enabled() else _fast_rotate
        return back(grad, cos, -sin), None, None


def rotate(
    x: Float[Tensor, "B T H E"], cos: Float[Tensor, "T 1 E"], sin: Float[Tensor, "T 1 E"]
) -> Float[Tensor, "B T H E"]:
    """Every head of `x` turned by the angles of its positions."""
    apply = _Rotate.apply if trains_on_cpu(x) and x.dtype == cos.dtype else _plain_rotate
    return apply(x, cos, sin)
