"""Many plain MLPs trained as one computation; what a mask leaves out is computed and multiplied by 0.

That equals leaving it out, to rounding, and here it is cheaper than gathering: the products are tiny. What is charged
(`train.bank`) is what ran by the mask. Letters: N nets, B samples, d inputs, M columns, K classes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.bank import sample_losses
from est_analysis.models.mlp import PlainMLP, only_layer
from est_analysis.models.parts import gelu
from est_analysis.models.parts.dropout import drop_units
from est_analysis.subnet.mask import LayerMask, SubnetMask

_FULL = LayerMask()


class MLPBank(nn.Module):
    """N plain MLPs of one shape; parameters carry the names of `PlainMLP`'s and a leading axis of nets.

    Args:
        nets: initialised nets of one architecture; their parameters are copied. Nets of one output learn by squared
            error, those of several by cross-entropy.
    """

    def __init__(self, nets: Sequence[PlainMLP]) -> None:
        super().__init__()
        if not nets:
            raise InputError("a bank of 0 nets has nothing to train; give at least one")
        self.shape, self.num_nets = nets[0].shape, len(nets)
        for name, value in torch.func.stack_module_state(list(nets))[0].items():
            self.register_parameter(name, nn.Parameter(value.detach().clone()))
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def state_of(self, net: int) -> dict[str, Tensor]:
        """The state dict of net number `net`, as its `PlainMLP` takes it."""
        return {name: value[net].clone() for name, value in self.state_dict().items()}

    @property
    def column_flops(self) -> int:
        """Forward FLOPs a sample of one column: one product with the inputs and one with the outputs."""
        return 2 * (self.up_weight.shape[2] + self.down_weight.shape[2])

    def join(self, masks: Sequence[SubnetMask | None]) -> list[LayerMask] | None:
        """The masks of the nets' one layer; None where all are full."""
        layers = [only_layer(mask) for mask in masks]
        return None if all(layer is None for layer in layers) else [layer or _FULL for layer in layers]

    def _outputs(self, x: Tensor, layers: Sequence[LayerMask] | None) -> Tensor:
        x = x.expand(self.num_nets, -1, -1)
        active = gelu(torch.baddbmm(self.up_bias[:, None], x, self.up_weight.mT))
        if layers is not None:
            active = active * self._gates(layers, active)
        outputs = torch.baddbmm(self.down_bias[:, None], active, self.down_weight)
        return outputs.squeeze(2) if outputs.shape[2] == 1 else outputs

    def _gates(self, layers: Sequence[LayerMask], active: Tensor) -> Tensor:
        """(N, 1 or B, M): 1/p for what is kept and 0 for the rest."""
        if any(layer.dropout for layer in layers):
            ones = torch.ones_like(active[0])
            drops = [layer.dropout for layer in layers]
            if not all(drops):
                raise InputError("nets of one bank drop single units or none does; give them one method")
            return torch.stack([drop_units(ones, drop, "columns") for drop in drops])
        gates = active.new_zeros(self.num_nets, 1, self.shape.mlp_columns)
        for gate, layer in zip(gates, layers, strict=True):
            gate[0, slice(None) if layer.columns is None else layer.columns] = layer.column_scale
        return gates

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "_ B d"], layers: Sequence[LayerMask] | None = None
    ) -> Float[Tensor, "N B"] | Float[Tensor, "N B K"]:
        """Outputs of every net on its own inputs (a leading axis of 1 is shared by all)."""
        return self._outputs(x, layers)

    @torch.no_grad()
    def losses(
        self,
        x: Float[Tensor, "_ B d"],
        targets: Float[Tensor, "N B"] | Int64[Tensor, "N B"],
        layers: Sequence[LayerMask] | None = None,
    ) -> Float[Tensor, " N"]:
        """Mean squared error or cross-entropy (nats) of every net."""
        return sample_losses(self._outputs(x, layers), targets).mean(1)

    @torch.enable_grad()
    def gradients(
        self,
        x: Float[Tensor, "_ B d"],
        targets: Float[Tensor, "N B"] | Int64[Tensor, "N B"],
        layers: Sequence[LayerMask] | None = None,
    ) -> Float[Tensor, " N"]:
        """The loss of every net; the gradient of each net's own loss replaces every `.grad`."""
        self.zero_grad(set_to_none=False)
        losses = sample_losses(self._outputs(x, layers), targets).mean(1)
        losses.sum().backward()  # nets share no parameter
        return losses.detach()
