"""The small residual net of RaPTr's polynomial experiments: the Transformer's stack without attention.

Its residual connections and its layer norms can be taken away, since RaPTr's theory says what then goes wrong.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.parts import MLP, Block, draw_parameters, run_stack
from est_analysis.subnet.mask import LayerMask, StackShape, SubnetMask

_FULL = LayerMask()


class PlainBlock(nn.Module):
    """MLP(norm(x)) without the residual connection; bypassed, it is the identity all the same."""

    def __init__(self, hidden: int, mlp_columns: int) -> None:
        super().__init__()
        self.mlp_norm = nn.LayerNorm(hidden)
        self.mlp = MLP(hidden, mlp_columns)

    def forward(self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL) -> Float[Tensor, "*batch D"]:
        """The layer's output."""
        y = self.mlp(self.mlp_norm(x), mask)
        return y if mask.sublayer_scale == 1 else mask.sublayer_scale * y


def _residual_block(hidden: int, mlp_columns: int) -> Block:
    return Block(attention_norm=None, attention=None, mlp_norm=nn.LayerNorm(hidden), mlp=MLP(hidden, mlp_columns))


class ResidualNet(nn.Module):
    """Linear in, `num_layers` blocks x + MLP(norm(x)), norm, linear out.

    Args:
        num_inputs: d, such as the dimension of the cube {-1, +1}^d.
        hidden: width of the residual stream.
        num_layers: number of residual blocks.
        mlp_columns: hidden units of each block's MLP; `hidden` unless given.
        num_outputs: 1 for a real function; as many as there are classes for a classifier.
        residual: if False, blocks are MLP(norm(x)).
        layer_norm: if False, there is no norm, neither in the blocks nor at the end.
    """

    def __init__(
        self,
        *,
        num_inputs: int,
        hidden: int,
        num_layers: int,
        mlp_columns: int | None = None,
        num_outputs: int = 1,
        residual: bool = True,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        columns = hidden if mlp_columns is None else mlp_columns
        sizes = (num_inputs, hidden, num_layers, columns, num_outputs)
        if min(sizes) < 1:
            raise InputError(f"a residual net of sizes {sizes} has an empty one")
        self.shape = StackShape(num_layers=num_layers, num_heads=0, mlp_columns=columns)
        self.residual, self.layer_norm = residual, layer_norm
        # Not initialised here: nn.Linear would draw from the global generator.
        self.inputs = nn.utils.skip_init(nn.Linear, num_inputs, hidden)
        self.blocks = nn.ModuleList(
            _residual_block(hidden, columns) if residual else PlainBlock(hidden, columns) for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(hidden)
        self.output = nn.utils.skip_init(nn.Linear, hidden, num_outputs)
        if not layer_norm:
            self.final_norm = nn.Identity()
            for block in self.blocks:
                block.mlp_norm = nn.Identity()

    def initialise(self, seed: int) -> "ResidualNet":
        """Weights N(0, 1/fan_in), biases 0, norms the identity; each from its own stream of `seed`."""

        def std(name: str, weight: Tensor) -> float:
            # up and nn.Linear weights are (out, in); down is stored (in, out).
            return 1 / math.sqrt(weight.shape[0] if name.endswith("down_weight") else weight.shape[1])

        draw_parameters(self, seed, std)
        return self

    def forward(
        self, x: Float[Tensor, "B d"], mask: SubnetMask | None = None
    ) -> Float[Tensor, " B"] | Float[Tensor, "B K"]:
        """One real output an input, or a classifier's K."""
        outputs = self.output(self.final_norm(run_stack(self.blocks, self.inputs(x), mask)))
        return outputs.squeeze(-1) if self.output.out_features == 1 else outputs

    def loss(
        self, x: Float[Tensor, "B d"], targets: Float[Tensor, " B"], mask: SubnetMask | None = None
    ) -> Float[Tensor, ""]:
        """Mean squared error."""
        return torch.nn.functional.mse_loss(self(x, mask), targets)
