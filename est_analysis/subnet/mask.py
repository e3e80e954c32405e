"""What a sampled subnetwork is: the active layers and, inside each, the active heads and MLP columns.

Symbols of the papers and the names here:

| paper | name |
|---|---|
| N_L, N_H, N_M (EST 3.1) | `num_layers`, `num_heads`, `mlp_columns` |
| I_L, I_H, I_M (EST 3.2) | the layers that are not None, `LayerMask.heads`, `LayerMask.columns` |
| 1/p_H, 1/p_M (EST eqs. 5, 6) | `LayerMask.head_scale`, `LayerMask.column_scale` |
| zeta_i, alpha_i (RaPTr, (p, I)-subnetwork) | a layer is None or not, `LayerMask.scale` |
| G_i, 1/p_i (PLD) | a layer is None or not, `LayerMask.sublayer_scale` |
| m (MSG) | `LayerMask.head_gate`, `LayerMask.column_gate`, `LayerMask.scale` |

A mask is a value. It is passed to `forward` as an argument and never stored in a module.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from est_analysis.errors import InputError

HeadSampling = Literal["within_groups", "whole_groups"]


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """What a sampler needs to know of a model: how many layers, heads a layer and MLP columns a layer it has.

    `num_heads` is 0 for a stack without attention. `num_kv_heads` is the number of groups of query heads that share
    keys and values (grouped-query attention); None where every head has its own.
    """

    num_layers: int
    num_heads: int
    mlp_columns: int
    num_kv_heads: int | None = None

    def __post_init__(self) -> None:
        groups = self.num_kv_heads
        if groups is not None and (groups < 1 or self.num_heads % groups):
            raise InputError(
                f"{self.num_heads} heads do not divide into {groups} key/value groups; use a divisor of the heads"
            )

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one head of keys and values."""
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 1


@dataclass(frozen=True, kw_only=True)
class UnitDropout:
    """Dropout of single units, anew for every token: unstructured, so everything is computed.

    Attributes:
        heads: probability to keep a number of the heads' joined output; kept ones are divided by it.
        columns: the same of the MLP's hidden units.
        stream: seed and names of the stream that draws (`rng.stream`).
        part: number of the part of the batch that this mask is for, of parts of one size.
    """

    heads: float
    columns: float
    stream: tuple[int | str, ...]
    part: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerMask:
    """The active part of one active layer.

    Attributes:
        heads: sorted indices of the active heads, (k,) int64, or None for all of them.
        groups: sorted indices of the key/value heads that are computed, (g,) int64, or None for all of them; each with
            the same number of active heads. Only for heads that share keys and values; others keep their own.
        columns: sorted indices of the active MLP columns, (m,) int64, or None for all of them.
        head_scale: factor on the attention output before its bias, 1/p_H in EST eq. 5.
        column_scale: factor on the MLP output before its bias, 1/p_M in EST eq. 6.
        scale: factor on the whole residual branch of the layer (of a post-norm one, on all that it changes), alpha_i of
            RaPTr; 1 in EST (eq. 7). A tensor where the loss is differentiated in it (`models.gates`).
        sublayer_scale: factor on what attention adds to the residual stream and, apart from it, on what the MLP adds,
            biases included: 1/p_i of PLD, whose MLP sees the attention output already scaled. Without attention it is
            the same as `scale`.
        head_gate: factors on queries, keys and values of the computed heads, (k,), or None for 1; where groups share
            keys and values, on queries and on the heads' outputs. A gate of 0 takes a head out but still computes it.
        column_gate: factors on what the computed MLP columns are activated by, (m,), or None for 1.
        dropout: of single units, or None.
    """

    heads: Tensor | None = None
    groups: Tensor | None = None
    columns: Tensor | None = None
    head_scale: float = 1.0
    column_scale: float = 1.0
    scale: float | Tensor = 1.0
    sublayer_scale: float = 1.0
    head_gate: Tensor | None = None
    column_gate: Tensor | None = None
    dropout: UnitDropout | None = None

    def to(self, device: torch.device | str) -> "LayerMask":
        """The same mask with its indices on `device`."""

        names = ("heads", "groups", "columns", "head_gate", "column_gate")
        held = {name: getattr(self, name) for name in names}
        return replace(
            self, **{name: None if x is None else x.to(device, non_blocking=True) for name, x in held.items()}
        )


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

    def unscaled(self) -> "SubnetMask":
        """The same subnetwork without the factors 1/p on attention and MLP outputs."""
        return SubnetMask(
            layers=tuple(layer and replace(layer, head_scale=1.0, column_scale=1.0) for layer in self.layers)
        )

    def for_part(self, number: int) -> "SubnetMask":
        """The same mask for one of several equal parts of the batch: dropped units are those of the whole batch.

        Only dropout of single units tells the rows of a batch apart.
        """
        if not any(layer and layer.dropout for layer in self.layers):
            return self
        return SubnetMask(layers=tuple(layer and _of_part(layer, number) for layer in self.layers))

    @staticmethod
    def full(num_layers: int) -> "SubnetMask":
        """Everything active: computes what `mask=None` computes."""
        return SubnetMask(layers=(LayerMask(),) * num_layers)


def _of_part(layer: LayerMask, number: int) -> LayerMask:
    return replace(layer, dropout=layer.dropout and replace(layer.dropout, part=number))
