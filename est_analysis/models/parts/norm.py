"""RMSNorm. LayerNorm is torch's own, which has a fused kernel everywhere; torch's RMSNorm has none on CPU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.models.parts.activation import trains_on_cpu


class _RMSNorm(torch.autograd.Function):
    """x r w with r = 1 / sqrt(mean x^2 + epsilon), in few passes."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        ctx.epsilon = epsilon
        return (x * rstd).mul_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates twice
            output = F.rms_norm(x, weight.shape, weight, ctx.epsilon)
            return *torch.autograd.grad(output, (x, weight), grad, create_graph=True), None
        normed = x * rstd
        product = grad * normed
        # A sum over tokens as a product with ones, which is faster, and the mean over the width as one with the weight.
        tokens = product.flatten(0, -2)
        grad_weight = torch.mv(tokens.T, tokens.new_ones(len(tokens)))
        along = (product @ weight).div_(-len(weight))[..., None]
        return torch.addcmul(grad * weight, normed, along).mul_(rstd), grad_weight, None


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + epsilon) * weight (Zhang and Sennrich 2019, arXiv 1910.07467); no mean, no bias."""

    def __init__(self, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The normalised input."""
        if trains_on_cpu(x) and x.dtype == self.weight.dtype in (torch.float32, torch.float64):
            return _RMSNorm.apply(x, self.weight, self.epsilon)
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
