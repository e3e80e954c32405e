"""MLPs over any subset of their columns: two matrices with an activation, or three with a gate."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.models.parts.activation import gated_silu, gelu
from est_analysis.models.parts.dropout import drop_units
from est_analysis.models.parts.select import scaled_projection, select_rows
from est_analysis.subnet.mask import LayerMask

_FULL = LayerMask()


class MLP(nn.Module):
    """Two-layer MLP over any subset of its columns (EST eqs. 3, 6); GPT-2's GELU unless told otherwise."""

    def __init__(self, hidden: int, columns: int, *, activation: Callable[[Tensor], Tensor] = gelu) -> None:
        super().__init__()
        self.activation = activation
        self.up_weight = nn.Parameter(torch.empty(columns, hidden))
        self.up_bias = nn.Parameter(torch.empty(columns))
        self.down_weight = nn.Parameter(torch.empty(columns, hidden))
        self.down_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL) -> Float[Tensor, "*batch D"]:
        """MLP output of the active columns, scaled by `mask.column_scale`, plus the output bias."""
        up_weight = select_rows(self.up_weight, mask.columns)
        up_bias = select_rows(self.up_bias, mask.columns)
        down_weight = select_rows(self.down_weight, mask.columns)
        units = F.linear(x, up_weight, up_bias)
        if mask.column_gate is not None:
            units = units * mask.column_gate.to(units.dtype)
        active = self.activation(units)
        active = drop_units(active, mask.dropout, "columns")
        return scaled_projection(active, down_weight, self.down_bias, mask.column_scale)


class GatedMLP(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202): down(act(gate x) * up x), no biases, over any subset of its columns.

    `activation` takes (gate x, up x) and gives their gated product; SwiGLU's unless told otherwise.
    """

    def __init__(
        self, hidden: int, columns: int, *, activation: Callable[[Tensor, Tensor], Tensor] = gated_silu
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_weight = nn.Parameter(torch.empty(columns, hidden))
        self.up_weight = nn.Parameter(torch.empty(columns, hidden))
        self.down_weight = nn.Parameter(torch.empty(columns, hidden))

    def forward(self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL) -> Float[Tensor, "*batch D"]:
        """MLP output of the active columns, scaled by `mask.column_scale`."""
        gate = F.linear(x, select_rows(self.gate_weight, mask.columns))
        up = F.linear(x, select_rows(self.up_weight, mask.columns))
        down_weight = select_rows(self.down_weight, mask.columns)
        if mask.column_gate is not None:
            gate, up = (part * mask.column_gate.to(part.dtype) for part in (gate, up))
        active = self.activation(gate, up)
        active = drop_units(active, mask.dropout, "columns")
        return scaled_projection(active, down_weight, None, mask.column_scale)
