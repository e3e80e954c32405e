"""Self-attention with T5's relative positions (Raffel et al. 2020, arXiv 1910.10683, section 2.1).

What is added to a score is learned, one number a head and a bucket of distances. Scores are not divided by the square
root of a head's width.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from est_analysis.models.parts.activation import trains_on_cpu
from est_analysis.models.parts.attention import attend
from est_analysis.models.parts.dropout import drop_units
from est_analysis.models.parts.select import scaled_projection, select_rows
from est_analysis.subnet.mask import LayerMask

_FULL = LayerMask()
_CHUNK = 2**17  # scores computed at a time on a CPU: they stay in its cache


def forbidden(dtype: torch.dtype) -> float:
    """What is added to the score of a position that must not be seen: finite, also after a score or in bfloat16."""
    return torch.finfo(dtype).min / 2


def padding_scores(present: Bool[Tensor, "B S"], *, like: Tensor) -> Float[Tensor, "B 1 1 S"] | None:
    """What is added to scores so that only what is present is seen; None where all is, as far as a CPU can tell.

    Elsewhere than on a CPU looking would wait for the device.
    """
    if present.device.type == "cpu" and present.all():
        return None
    hidden = ~present[:, None, None]
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, forbidden(like.dtype))


def relative_buckets(
    distances: Int64[Tensor, " n"], *, num_buckets: int, max_distance: int, causal: bool
) -> Int64[Tensor, " n"]:
    """The bucket of each distance, key position minus query position.

    The first half of the buckets are for one distance each, the others for ranges that grow geometrically up to
    `max_distance`; all beyond share the last. Not causal: half of the buckets are for keys that come later.
    """
    later = distances > 0
    steps = (-distances).clamp(min=0) if causal else distances.abs()
    buckets = num_buckets if causal else num_buckets // 2
    exact = buckets // 2
    # In float32, as T5 was trained: another rounding would move the distances at the borders.
    ratio = torch.log(steps.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    found = torch.where(steps < exact, steps, far)
    return found if causal else found + buckets * later


class RelativePositions(nn.Module):
    """One learned number a head and bucket, shared by all layers of a stack. Causal ones forbid later keys."""

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int, *, causal: bool) -> None:
        super().__init__()
        self.max_distance, self.causal = max_distance, causal
        self.weight = nn.Parameter(torch.empty(num_heads, num_buckets))  # (H, buckets)

    def forward(self, length: int) -> Float[Tensor, "H T T"]:
        """What is added to the scores of query t and key s: a function of s - t alone."""
        distances = torch.arange(1 - length, length, device=self.weight.device)
        buckets = relative_buckets(
            distances, num_buckets=self.weight.shape[1], max_distance=self.max_distance, causal=self.causal
        )
        row = self.weight.index_select(1, buckets)  # (H, 2 T - 1)
        if self.causal:
            row = row.masked_fill(distances > 0, forbidden(row.dtype))
        # Window i of the row are the distances that query T - 1 - i sees.
        return row.unfold(1, length, 1).flip(1)


def _plain_attention(qkv: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
    query, key, value = (part.transpose(1, 2) for part in qkv.unbind(3))
    added = (bias[None] if padding is None else bias + padding).to(query.dtype)
    return attend(query, key, value, attn_mask=added, scale=1.0).transpose(1, 2)


class _BiasedAttention(torch.autograd.Function):
    """The same without copies, a few sequences at a time, so that scores are in the cache for all that is done to them.

    torch's fused CPU kernel gives no gradient of what is added to the scores.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        batch, length, heads, _, width = qkv.shape
        weights = qkv.new_empty(batch, heads, length, length)
        output = qkv.new_empty(batch, length, heads, width)
        for part in _chunks(weights):
            query, key, value = (x.flatten(0, 1) for x in qkv[part].permute(3, 0, 2, 1, 4))
            scores = weights[part]
            if padding is None:
                scores.copy_(bias)
            else:
                torch.add(bias, padding[part], out=scores)
            scores = scores.flatten(0, 1)
            torch.baddbmm(scores, query, key.mT, out=scores)
            torch.softmax(scores, -1, out=scores)
            output[part] = torch.bmm(scores, value).unflatten(0, (-1, heads)).transpose(1, 2)
        ctx.save_for_backward(qkv, bias, padding, weights)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        qkv, bias, padding, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates twice
            output = _plain_attention(qkv, bias, padding)
            return *torch.autograd.grad(output, (qkv, bias), grad, create_graph=True), None
        grad_qkv, grad_bias = torch.empty_like(qkv), torch.zeros_like(bias)
        for part in _chunks(weights):
            query, key, value = (x.flatten(0, 1) for x in qkv[part].permute(3, 0, 2, 1, 4))
            output, seen = grad[part].transpose(1, 2).flatten(0, 1), weights[part].flatten(0, 1)
            scores = torch.bmm(output, value.mT)
            torch._softmax_backward_data(scores, seen, -1, scores.dtype, grad_input=scores)
            for row in scores.unflatten(0, (-1, len(bias))):
                grad_bias += row
            parts = torch.bmm(scores, key), torch.bmm(scores.mT, query), torch.bmm(seen.mT, output)
            for into, value in zip(grad_qkv[part].permute(3, 0, 2, 1, 4), parts, strict=True):
                into.copy_(value.view_as(into))
        return grad_qkv, grad_bias, None


def _chunks(weights: Tensor) -> list[slice]:
    size = max(1, _CHUNK // max(1, weights[0].numel()))
    return [slice(start, start + size) for start in range(0, len(weights), size)]


def biased_attention(
    qkv: Float[Tensor, "B T K 3 E"], bias: Float[Tensor, "K T T"], padding: Float[Tensor, "B 1 1 T"] | None = None
) -> Float[Tensor, "B T K E"]:
    """softmax(q k' + bias + padding) v of every head, scores not scaled.

    Args:
        qkv: queries, keys and values.
        bias: added to the scores of every sequence.
        padding: added to those of each sequence (`padding_scores`).
    """
    some = qkv.shape[2] > 0  # a mask may leave no head, and nothing to reshape
    fast = some and trains_on_cpu(qkv) and qkv.dtype == bias.dtype
    return _BiasedAttention.apply(qkv, bias, padding) if fast else _plain_attention(qkv, bias, padding)


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions and without biases, over any subset of its heads."""

    def __init__(self, hidden: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.qkv_weight = nn.Parameter(torch.empty(num_heads, 3, head_dim, hidden))  # (H, 3, E, D)
        self.out_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: LayerMask,
        positions: Float[Tensor, "H T T"],
        padding: Float[Tensor, "B 1 1 T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attention output of the active heads, scaled by `mask.head_scale`; positions are those of all heads."""
        qkv_weight = select_rows(self.qkv_weight, mask.heads)
        out_weight = select_rows(self.out_weight, mask.heads)
        qkv = F.linear(x, qkv_weight.flatten(0, 2)).unflatten(2, qkv_weight.shape[:3])  # (B, T, K, 3, E)
        if mask.head_gate is not None:
            qkv = qkv * mask.head_gate.to(qkv.dtype)[:, None, None]
        joined = biased_attention(qkv, select_rows(positions, mask.heads), padding).flatten(2)  # (B, T, K E)
        joined = drop_units(joined, mask.dropout, "heads")
        return scaled_projection(joined, out_weight.flatten(0, 1), None, mask.head_scale)
