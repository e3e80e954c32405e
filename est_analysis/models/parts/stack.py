"""A residual block, a stack of them under a mask, and their initialisation."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask

_FULL = LayerMask()


def _add_branch(x: Tensor, branch: Tensor, scale: float) -> Tensor:
    # alpha multiplies inside the addition: a scaled branch costs no pass over the activations either.
    return x + branch if scale == 1 else torch.add(x, branch, alpha=scale)


class Block(nn.Module):
    """One residual layer. Pre-norm: x + attention(norm(x)), then x + MLP(norm(x)). No `attention` leaves that out.

    Post-norm, as in BERT, is norm(x + attention(x)), then norm(x + MLP(x)).

    Args:
        attention_norm, mlp_norm: modules of the residual stream alone.
        attention: takes the normalised stream, the layer's mask and whatever the stack shares.
        mlp: takes the normalised stream and the layer's mask.
        post_norm: where the norms are.
    """

    def __init__(
        self,
        *,
        attention_norm: nn.Module | None,
        attention: nn.Module | None,
        mlp_norm: nn.Module,
        mlp: nn.Module,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL, *shared: object
    ) -> Float[Tensor, "*batch D"]:
        """The layer's output with its residual; `mask.scale` is the stack's business, not the layer's."""
        if self.post_norm:
            return self._post_norm(x, mask, *shared)
        if self.attention is not None:
            x = _add_branch(x, self.attention(self.attention_norm(x), mask, *shared), mask.sublayer_scale)
        return _add_branch(x, self.mlp(self.mlp_norm(x), mask), mask.sublayer_scale)

    def _post_norm(self, x: Tensor, mask: LayerMask, *shared: object) -> Tensor:
        if self.attention is not None:
            x = self.attention_norm(_add_branch(x, self.attention(x, mask, *shared), mask.sublayer_scale))
        return self.mlp_norm(_add_branch(x, self.mlp(x, mask), mask.sublayer_scale))


class DecoderBlock(nn.Module):
    """One pre-norm layer of a decoder that also attends to an encoder: self-attention, cross-attention, MLP.

    Args:
        attention_norm, cross_norm, mlp_norm: modules of the residual stream alone.
        attention: takes the normalised stream, the layer's mask and the decoder's positions.
        cross_attention: takes the normalised stream, the layer's mask, the encoder's output and its padding.
        mlp: takes the normalised stream and the layer's mask.
    """

    def __init__(
        self,
        *,
        attention_norm: nn.Module,
        attention: nn.Module,
        cross_norm: nn.Module,
        cross_attention: nn.Module,
        mlp_norm: nn.Module,
        mlp: nn.Module,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.cross_norm = cross_norm
        self.cross_attention = cross_attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(
        self, x: Float[Tensor, "B U D"], mask: LayerMask, positions: Tensor, memory: Tensor, padding: Tensor | None
    ) -> Float[Tensor, "B U D"]:
        """The layer's output with its residual; `mask.scale` is the stack's business, not the layer's."""
        if mask.dropout is not None:  # not the draws of the encoder's layer, which has the same mask
            mask = replace(mask, dropout=replace(mask.dropout, stream=(*mask.dropout.stream, "decoder")))
        x = _add_branch(x, self.attention(self.attention_norm(x), mask, positions), mask.sublayer_scale)
        x = _add_branch(x, self.cross_attention(self.cross_norm(x), mask, memory, padding), mask.sublayer_scale)
        return _add_branch(x, self.mlp(self.mlp_norm(x), mask), mask.sublayer_scale)


def draw_parameters(model: nn.Module, seed: int, std: Callable[[str, Tensor], float]) -> None:
    """Initialise in place: biases 0, norms the identity, every other weight N(0, std(name, weight)^2).

    Every parameter draws from its own stream of `seed`, so one does not depend on another.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                generator = stream(seed, "init", name, device=parameter.device)
                parameter.normal_(0.0, std(name, parameter), generator=generator)


def run_stack(
    blocks: nn.ModuleList | list[nn.Module], x: Float[Tensor, "*batch D"], mask: SubnetMask | None, *shared: object
) -> Float[Tensor, "*batch D"]:
    """Run the active blocks: x + scale_l f_l(x) for those, x for the bypassed (EST eq. 7, RaPTr's (p, I)-subnetwork).

    Args:
        blocks: the layers.
        x: the residual stream.
        mask: what is active, None for everything.
        shared: what the attention of every layer takes besides, such as a table of positions.

    Raises:
        InputError: the mask is for another number of layers.
    """
    if mask is None:
        for block in blocks:
            x = block(x, _FULL, *shared)
        return x
    if len(mask.layers) != len(blocks):
        raise InputError(f"a mask of {len(mask.layers)} layers does not fit a model of {len(blocks)} layers")
    for block, layer in zip(blocks, mask.layers, strict=True):
        if layer is not None:
            x = _scaled_step(x, block(x, layer, *shared), layer.scale)
    return x


def _scaled_step(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    if isinstance(scale, Tensor):  # somebody differentiates in it, at 1 too
        return x + scale * (y - x)
    return y if scale == 1 else torch.lerp(x, y, scale)
