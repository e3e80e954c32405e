"""The losses of sequences as a function of gates on heads, MLP columns and layers, to be differentiated in them.

A gate multiplies what its unit adds: a head's or a column's output on the way into the module's sum (a bias of that
sum is nobody's), a layer's whole residual branch. So sampling is a choice of gates (EST eqs. 5 to 7: 1/p or 0 for
heads and columns, 1 or 0 for layers), and the full model is all gates at 1. Of a module output U = sum_i r_i u_i and a
loss L, the derivative in r_i is u_i' dL/dU and the second one in r_i and r_j is u_i' H u_j, H being the Hessian in U.

These are no training gates: `LayerMask.head_gate` multiplies queries and keys too, in which the loss is not so simple.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from est_analysis.errors import InputError
from est_analysis.models.language_model import CausalLanguageModel, LanguageModel
from est_analysis.subnet.mask import LayerMask, StackShape, SubnetMask


class Gates(NamedTuple):
    """A factor a unit; with more axes in front where there are several of each."""

    heads: Tensor  # (L, H)
    columns: Tensor  # (L, M)
    layers: Tensor  # (L,)

    @staticmethod
    def ones(model: LanguageModel) -> "Gates":
        """The full model, in its precision and on its device.

        Raises:
            InputError: no causal model.
        """
        if not isinstance(model, CausalLanguageModel):
            family = type(model).__name__
            raise InputError(f"gates are put on causal models (gpt2, llama), not on {family}; give one of those")
        config, like = model.config, model.token_embedding
        return Gates(
            heads=like.new_ones(config.num_layers, config.num_heads),
            columns=like.new_ones(config.num_layers, config.mlp_columns),
            layers=like.new_ones(config.num_layers),
        )


def gates_of(mask: SubnetMask, shape: StackShape) -> Gates:
    """The gates with which the full model computes what `mask` does.

    Those of the heads and columns of a bypassed layer are 1: it does not matter what they are, and at 1 they are not
    perturbed.

    Raises:
        InputError: the mask does more than choose and scale units.

    >>> layer = LayerMask(heads=torch.tensor([1]), head_scale=2.0)
    >>> gates = gates_of(SubnetMask(layers=(layer, None)), StackShape(num_layers=2, num_heads=2, mlp_columns=1))
    >>> gates.heads.tolist(), gates.layers.tolist()
    ([[0.0, 2.0], [1.0, 1.0]], [1.0, 0.0])
    """

    def units(count: int, kept: Tensor | None, scale: float) -> Tensor:
        if kept is None:
            return torch.full((count,), scale)
        return torch.zeros(count).index_fill_(0, kept.cpu(), scale)

    for layer in mask.layers:
        plain = layer is None or (layer.head_gate is layer.column_gate is layer.dropout is None)
        if not (plain and (layer is None or layer.sublayer_scale == 1)):
            raise InputError("only masks that choose heads, columns and layers are gates; take one of EST or RaPTr")
    layers = [layer or LayerMask() for layer in mask.layers]
    return Gates(
        heads=torch.stack([units(shape.num_heads, one.heads, one.head_scale) for one in layers]),
        columns=torch.stack([units(shape.mlp_columns, one.columns, one.column_scale) for one in layers]),
        layers=torch.tensor([0.0 if layer is None else float(layer.scale) for layer in mask.layers]),
    )


def sequence_losses(
    model: CausalLanguageModel,
    tokens: Int64[Tensor, "B T"],
    labels: Int64[Tensor, "B T"],
    mask: SubnetMask | None = None,
) -> Float[Tensor, " B"]:
    """Mean cross entropy of each sequence under `mask`, nats a token."""
    return _mean_losses(model(tokens, mask), labels)


def gated_logits(model: CausalLanguageModel, gates: Gates, tokens: Int64[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    """Logits with `gates`: a pure function of them, differentiable any number of times; the weights are constants.

    Everything is computed, whatever the gates.
    """
    weights: dict[str, Tensor] = {}
    for index, block in enumerate(model.blocks):
        heads, columns = gates.heads[index], gates.columns[index]
        weights[f"blocks.{index}.attention.out_weight"] = block.attention.out_weight.detach() * heads[:, None, None]
        weights[f"blocks.{index}.mlp.down_weight"] = block.mlp.down_weight.detach() * columns[:, None]
    mask = SubnetMask(layers=tuple(LayerMask(scale=scale) for scale in gates.layers.unbind()))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        return functional_call(model, weights, (tokens, mask))


def gated_losses(
    model: CausalLanguageModel, gates: Gates, tokens: Int64[Tensor, "B T"], labels: Int64[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Mean cross entropy of each sequence with `gates`, nats a token."""
    return _mean_losses(gated_logits(model, gates, tokens), labels)


def gate_gradients(model: CausalLanguageModel, tokens: Int64[Tensor, "B T"], labels: Int64[Tensor, "B T"]) -> Gates:
    """Gradients of each sequence's loss in the gates of the full model, (B, ...).

    A mask is the same for all positions, and so is a gate: the sum over positions is part of its derivative.
    """

    def loss(gates: Gates, tokens: Tensor, labels: Tensor) -> Tensor:
        return gated_losses(model, gates, tokens[None], labels[None])[0]

    return vmap(grad(loss), in_dims=(None, 0, 0))(Gates.ones(model), tokens, labels)


def _mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
