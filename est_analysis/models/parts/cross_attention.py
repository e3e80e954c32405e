"""Attention of a decoder to its encoder, over any subset of its heads."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.models.parts.attention import attend
from est_analysis.models.parts.dropout import drop_units
from est_analysis.models.parts.select import scaled_projection, select_rows
from est_analysis.subnet.mask import LayerMask


class CrossAttention(nn.Module):
    """Multi-head attention to another sequence, without positions or biases; scores are not scaled, as in T5."""

    def __init__(self, hidden: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.query_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D)
        self.key_value_weight = nn.Parameter(torch.empty(num_heads, 2, head_dim, hidden))  # (H, 2, E, D)
        self.out_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D)

    def forward(
        self,
        x: Float[Tensor, "B U D"],
        mask: LayerMask,
        memory: Float[Tensor, "B S D"],
        padding: Float[Tensor, "B 1 1 S"] | None = None,
    ) -> Float[Tensor, "B U D"]:
        """Attention output of the active heads, scaled by `mask.head_scale`.

        Args:
            x: the decoder's normalised stream, which asks.
            mask: the active heads.
            memory: the encoder's output, which is asked.
            padding: added to the scores of the encoder's positions.
        """
        query_weight = select_rows(self.query_weight, mask.heads)
        key_value_weight = select_rows(self.key_value_weight, mask.heads)
        out_weight = select_rows(self.out_weight, mask.heads)
        query = F.linear(x, query_weight.flatten(0, 1)).unflatten(2, query_weight.shape[:2])  # (B, U, K, E)
        pairs = F.linear(memory, key_value_weight.flatten(0, 2)).unflatten(2, key_value_weight.shape[:3])
        if mask.head_gate is not None:
            gate = mask.head_gate.to(query.dtype)[:, None]
            query, pairs = query * gate, pairs * gate[:, None]
        query, key, value = (part.transpose(1, 2) for part in (query, *pairs.unbind(3)))
        added = None if padding is None else padding.to(query.dtype)
        heads = attend(query, key, value, attn_mask=added, scale=1.0)
        joined = heads.transpose(1, 2).flatten(2)  # (B, U, K E)
        joined = drop_units(joined, mask.dropout, "cross heads")
        return scaled_projection(joined, out_weight.flatten(0, 1), None, mask.head_scale)
