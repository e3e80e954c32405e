"""MLPs over any subset of their columns: two matrices with GELU, or three with a SiLU gate."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.models.parts.activation import gated_silu, gelu
from est_analysis.models.parts.select import scaled_projection, select_rows
from est_analysis.subnet.mask import LayerMask

_FULL = LayerMask()


class MLP(nn.Module):
    """Two-layer GELU MLP over any subset of its columns (EST eqs. 3, 6)."""

    def __init__(self, hidden: int, columns: int) -> None:
        super().__init__()
        self.up_weight = nn.Parameter(torch.empty(columns, hidden))
        self.up_bias = nn.Parameter(torch.empty(columns))
        self.down_weight = nn.Parameter(torch.empty(columns, hidden))
        self.down_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL) -> Float[Tensor, "*batch D"]:
        """MLP output of the active columns, scaled by `mask.column_scale`, plus the output bias."""
        up_weight = select_rows(self.up_weight, mask.columns)
        up_bias = select_rows(self.up_bias, mask.columns)
        down_weight = select_rows(self.down_weight, mask.columns)
        active = gelu(F.linear(x, up_weight, up_bias))
        return scaled_projection(active, down_weight, self.down_bias, mask.column_scale)


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate x) * up x), no biases, over any subset of its columns."""

    def __init__(self, hidden: int, columns: int) -> None:
        super().__init__()
        self.gate_weight = nn.Parameter(torch.empty(columns, hidden))
        self.up_weight = nn.Parameter(torch.empty(columns, hidden))
        self.down_weight = nn.Parameter(torch.empty(columns, hidden))

    def forward(self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL) -> Float[Tensor, "*batch D"]:
        """MLP output of the active columns, scaled by `mask.column_scale`."""
        gate = F.linear(x, select_rows(self.gate_weight, mask.columns))
        up = F.linear(x, select_rows(self.up_weight, mask.columns))
        down_weight = select_rows(self.down_weight, mask.columns)
        return scaled_projection(gated_silu(gate, up), down_weight, None, mask.column_scale)
