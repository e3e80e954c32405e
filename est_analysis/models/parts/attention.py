"""Self-attention over any subset of its heads: with keys and values of their own, or shared by groups."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.parts.dropout import drop_units
from est_analysis.models.parts.rotary import RotaryTable, rotate
from est_analysis.models.parts.select import scaled_projection, select_rows
from est_analysis.subnet.mask import LayerMask

_FULL = LayerMask()


def attend(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
    """`F.scaled_dot_product_attention`; of no heads at all, which its kernels on GPUs cannot do, an empty tensor."""
    return F.scaled_dot_product_attention(query, key, value, **how) if query.shape[1] else query


class Attention(nn.Module):
    """Multi-head self-attention over any subset of its heads (EST eqs. 2, 5); causal unless told otherwise."""

    def __init__(self, hidden: int, num_heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        head_dim = hidden // num_heads
        self.qkv_weight = nn.Parameter(torch.empty(num_heads, 3, head_dim, hidden))  # (H, 3, E, D)
        self.qkv_bias = nn.Parameter(torch.empty(num_heads, 3, head_dim))
        self.out_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D)
        self.out_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Float[Tensor, "B T D"], mask: LayerMask = _FULL) -> Float[Tensor, "B T D"]:
        """Attention output of the active heads, scaled by `mask.head_scale`, plus the output bias."""
        qkv_weight = select_rows(self.qkv_weight, mask.heads)
        qkv_bias = select_rows(self.qkv_bias, mask.heads)
        out_weight = select_rows(self.out_weight, mask.heads)
        num_active, _, head_dim, _ = qkv_weight.shape
        qkv = F.linear(x, qkv_weight.flatten(0, 2), qkv_bias.flatten())
        # Unbinding where the three lie keeps their gradient in the layout of `qkv`: one copy in the backward, not two.
        qkv = qkv.view(*x.shape[:2], num_active, 3, head_dim)
        if mask.head_gate is not None:
            qkv = qkv * mask.head_gate.to(qkv.dtype)[:, None, None]
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(3))  # (B, K, T, E) each
        heads = attend(query, key, value, is_causal=self.causal)
        joined = heads.transpose(1, 2).flatten(2)  # (B, T, K E)
        joined = drop_units(joined, mask.dropout, "heads")
        return scaled_projection(joined, out_weight.flatten(0, 1), self.out_bias, mask.head_scale)


class GroupedAttention(nn.Module):
    """Rotary attention without biases whose query heads share keys and values in groups (Ainslie et al. 2305.13245).

    A mask may leave out query heads (`heads`) and whole groups with their keys and values (`groups`), but every group
    that is computed needs equally many active query heads: that is what fused kernels compute. Groups of one head are
    plain multi-head attention, where keys and values go with their head.
    """

    def __init__(self, hidden: int, num_heads: int, num_kv_heads: int) -> None:
        super().__init__()
        head_dim = hidden // num_heads
        self.heads_per_group = num_heads // num_kv_heads
        self.query_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D), group by group
        self.key_value_weight = nn.Parameter(torch.empty(num_kv_heads, 2, head_dim, hidden))  # (G, 2, E, D)
        self.out_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D)

    def forward(self, x: Float[Tensor, "B T D"], mask: LayerMask, rotary: RotaryTable) -> Float[Tensor, "B T D"]:
        """Attention output of the active heads, scaled by `mask.head_scale`.

        Raises:
            InputError: the active heads do not spread evenly over the active groups.
        """
        groups = self._active_groups(mask)
        query_weight = select_rows(self.query_weight, mask.heads)
        key_value_weight = select_rows(self.key_value_weight, groups)
        out_weight = select_rows(self.out_weight, mask.heads)
        batch, length, head_dim = *x.shape[:2], query_weight.shape[1]
        query = F.linear(x, query_weight.flatten(0, 1)).view(batch, length, -1, head_dim)
        pairs = F.linear(x, key_value_weight.flatten(0, 2)).view(batch, length, -1, 2, head_dim)
        gate = None if mask.head_gate is None else mask.head_gate.to(query.dtype)[:, None]
        if gate is not None:
            query = query * gate
            # Keys and values of its own are gated with a head; those that heads share, by its output below.
            pairs = pairs * gate[..., None] if self.heads_per_group == 1 else pairs
        key, value = pairs.unbind(3)  # (B, T, G, E) each
        query, key, value = (part.transpose(1, 2) for part in (rotate(query, *rotary), rotate(key, *rotary), value))
        shared = query.shape[1] != key.shape[1]
        heads = attend(query, key, value, is_causal=True, enable_gqa=shared)
        heads = heads.transpose(1, 2)  # (B, T, K, E)
        if gate is not None and self.heads_per_group > 1:
            heads = heads * gate
        joined = heads.flatten(2)  # (B, T, K E)
        joined = drop_units(joined, mask.dropout, "heads")
        return scaled_projection(joined, out_weight.flatten(0, 1), None, mask.head_scale)

    def _active_groups(self, mask: LayerMask) -> Tensor | None:
        if mask.heads is None and mask.groups is None:
            return None
        if self.heads_per_group == 1:
            return mask.heads
        num_groups = len(self.key_value_weight) if mask.groups is None else len(mask.groups)
        num_heads = len(self.query_weight) if mask.heads is None else len(mask.heads)
        even = num_heads % num_groups == 0
        # By value only on the CPU: elsewhere looking would wait for the device.
        if even and mask.heads is not None and mask.heads.device.type == "cpu":
            groups = torch.arange(num_groups) if mask.groups is None else mask.groups
            even = torch.equal(mask.heads // self.heads_per_group, groups.repeat_interleave(num_heads // num_groups))
        if not even or mask.heads is None:
            raise InputError(
                f"{num_heads} active heads do not spread evenly over {num_groups} active key/value groups of "
                f"{self.heads_per_group}; sample the same number in each (subnet.sample.sample_fixed_size does)"
            )
        return mask.groups
