"""What a sampled subnetwork is: the active layers and, inside each, the active heads and MLP columns.

Symbols of the papers and the names here:

| paper | name |
|---|---|
| N_L, N_H, N_M (EST 3.1) | `num_layers`, `num_heads`, `mlp_columns` |
| I_L, I_H, I_M (EST 3.2) | the layers that are not None, `LayerMask.heads`, `LayerMask.columns` |
| 1/p_H, 1/p_M (EST eqs. 5, 6) | `LayerMask.head_scale`, `LayerMask.column_scale` |
| zeta_i, alpha_i (RaPTr, (p, I)-subnetwork) | a layer is None or not, `LayerMask.scale` |
| G_i, 1/p_i (PLD) | a layer is None or not, `LayerMask.sublayer_scale` |

A mask is a value. It is passed to `forward` as an argument and never stored in a module.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """What a sampler needs to know of a model: how many layers, heads a layer and MLP columns a layer it has.

    `num_heads` is 0 for a stack without attention.
    """

    num_layers: int
    num_heads: int
    mlp_columns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMask:
    """The active part of one active layer.

    Attributes:
        heads: sorted indices of the active heads, (k,) int64, or None for all of them.
        columns: sorted indices of the active MLP columns, (m,) int64, or None for all of them.
        head_scale: factor on the attention output before its bias, 1/p_H in EST eq. 5.
        column_scale: factor on the MLP output before its bias, 1/p_M in EST eq. 6.
        scale: factor on the whole residual branch of the layer, alpha_i of RaPTr; 1 in EST (eq. 7).
        sublayer_scale: factor on what attention adds to the residual stream and, apart from it, on what the MLP adds,
            biases included: 1/p_i of PLD, whose MLP sees the attention output already scaled. Without attention it is
            the same as `scale`.
    """

    heads: Tensor | None = None
    columns: Tensor | None = None
    head_scale: float = 1.0
    column_scale: float = 1.0
    scale: float = 1.0
    sublayer_scale: float = 1.0

    def to(self, device: torch.device | str) -> "LayerMask":
        """The same mask with its indices on `device`."""

        def move(index: Tensor | None) -> Tensor | None:
            return None if index is None else index.to(device, non_blocking=True)

        return replace(self, heads=move(self.heads), columns=move(self.columns))


@dataclass(frozen=True, kw_only=True, eq=False)
class SubnetMask:
    """A subnetwork: one entry a layer, None where the layer is bypassed (replaced by the identity)."""

    layers: tuple[LayerMask | None, ...]

    @property
    def active_layers(self) -> tuple[int, ...]:
        """Indices of the layers that run, ascending."""
        return tuple(i for i, layer in enumerate(self.layers) if layer is not None)

    def to(self, device: torch.device | str) -> "SubnetMask":
        """The same mask with its indices on `device`."""
        return SubnetMask(layers=tuple(layer and layer.to(device) for layer in self.layers))

    @staticmethod
    def full(num_layers: int) -> "SubnetMask":
        """Everything active: computes what `mask=None` computes."""
        return SubnetMask(layers=(LayerMask(),) * num_layers)
