"""The plainest net that has columns to sample: two matrices and an activation, no residual connection and no norm."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.parts import draw_parameters, gelu, scaled_projection, select_rows
from est_analysis.models.parts.dropout import drop_units
from est_analysis.subnet.mask import LayerMask, StackShape, SubnetMask

_FULL = LayerMask()


class PlainMLP(nn.Module):
    """W2 GELU(W1 x + b1) / p + b2 over any subset of the hidden units (EST eq. 6, by itself).

    Args:
        num_inputs: d.
        columns: M, hidden units.
        num_outputs: 1 for a real function; as many as there are classes for a classifier.
    """

    def __init__(self, *, num_inputs: int, columns: int, num_outputs: int = 1) -> None:
        super().__init__()
        if min(num_inputs, columns, num_outputs) < 1:
            raise InputError(f"an MLP of sizes {(num_inputs, columns, num_outputs)} has an empty one")
        self.shape = StackShape(num_layers=1, num_heads=0, mlp_columns=columns)
        self.up_weight = nn.Parameter(torch.empty(columns, num_inputs))
        self.up_bias = nn.Parameter(torch.empty(columns))
        self.down_weight = nn.Parameter(torch.empty(columns, num_outputs))
        self.down_bias = nn.Parameter(torch.empty(num_outputs))

    def initialise(self, seed: int) -> "PlainMLP":
        """Weights N(0, 1/fan_in), biases 0; each from its own stream of `seed`."""

        def std(name: str, weight: Tensor) -> float:
            # up is (out, in), down is stored (in, out).
            return 1 / math.sqrt(weight.shape[0] if name == "down_weight" else weight.shape[1])

        draw_parameters(self, seed, std)
        return self

    def forward(
        self, x: Float[Tensor, "B d"], mask: SubnetMask | None = None
    ) -> Float[Tensor, " B"] | Float[Tensor, "B K"]:
        """One real output an input, or a classifier's K."""
        layer = only_layer(mask) or _FULL
        units = torch.addmm(select_rows(self.up_bias, layer.columns), x, select_rows(self.up_weight, layer.columns).mT)
        active = gelu(units)
        active = drop_units(active, layer.dropout, "columns")
        down = select_rows(self.down_weight, layer.columns)
        outputs = scaled_projection(active, down, self.down_bias, layer.column_scale)
        return outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs


def only_layer(mask: SubnetMask | None) -> LayerMask | None:
    """The mask of the one layer; None for all of it.

    Raises:
        InputError: a mask of another depth, one that leaves the layer out, or one with factors or gates that are those
            of a residual branch.
    """
    if mask is None:
        return None
    if len(mask.layers) != 1 or mask.layers[0] is None:
        raise InputError("a plain MLP has one layer, which always runs; sample its columns instead")
    layer = mask.layers[0]
    if layer.scale != 1 or layer.sublayer_scale != 1 or layer.column_gate is not None:
        raise InputError("a plain MLP has no residual branch to scale and no gates; use a method that samples columns")
    return layer
