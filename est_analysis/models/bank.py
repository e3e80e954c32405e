"""Many independent residual nets trained as one computation: the same arithmetic as one by one, in batched products.

A small net keeps no core busy: most of its step is spent between operations. Here every parameter has a leading axis
of nets and a layer's active nets go through one batched product. The gradient is written out by hand, since a stack of
x + MLP(norm(x)) is all there is to differentiate. Nothing crosses nets, so each is trained as if it were alone.

Letters: N nets, n active ones of a layer, B samples, d inputs, w width, M columns of an MLP, m active ones, K classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.parts import gelu_gate, gelu_slope
from est_analysis.models.resnet import ResidualNet
from est_analysis.subnet.mask import LayerMask, SubnetMask

_EPSILON = 1e-5  # of nn.LayerNorm
_FULL = LayerMask()


@dataclass(frozen=True, kw_only=True, eq=False)
class BankLayer:
    """One layer of N subnetworks.

    Attributes:
        nets: (n,) indices of the nets in which it runs, None for all.
        rows: (n * m,) active columns as rows of the flattened (N * M, w) weights, None for all of those nets.
        scale: (n, 1, 1) factor on the branch, or None for 1.
        column_scale: factor on the MLP's output before its bias.
    """

    nets: Tensor | None = None
    rows: Tensor | None = None
    scale: Tensor | None = None
    column_scale: float = 1.0


def join_masks(masks: Sequence[SubnetMask | None], mlp_columns: int) -> list[BankLayer | None] | None:
    """The masks of N nets, layer by layer; None for a layer that runs in none of them, None alone for full models.

    Raises:
        InputError: nets that run a layer with different numbers of columns or column scales, or with single units
            gated or dropped.
    """
    if all(mask is None for mask in masks):
        return None
    depth = next(len(mask.layers) for mask in masks if mask is not None)
    layers = [(_FULL,) * depth if mask is None else mask.layers for mask in masks]
    return [
        _join([(net, one[i]) for net, one in enumerate(layers) if one[i]], len(masks), mlp_columns)
        for i in range(depth)
    ]


def _join(active: list[tuple[int, LayerMask]], count: int, mlp_columns: int) -> BankLayer | None:
    if not active:
        return None
    nets = torch.tensor([net for net, _ in active])
    masks = [mask for _, mask in active]
    if any(mask.column_gate is not None or mask.dropout is not None for mask in masks):
        raise InputError("nets of one bank cannot gate or drop single units; train such methods one by one")
    widths = {None if mask.columns is None else len(mask.columns) for mask in masks}
    scales = {mask.column_scale for mask in masks}
    if len(widths) > 1 or len(scales) > 1:
        raise InputError(f"nets of one bank run a layer with {widths} columns at scales {scales}; they must agree")
    branch = [mask.scale * mask.sublayer_scale for mask in masks]
    rows = None
    if widths != {None}:
        rows = (nets[:, None] * mlp_columns + torch.stack([mask.columns for mask in masks])).flatten()
    return BankLayer(
        nets=None if len(active) == count else nets,
        rows=rows,
        scale=None
        if all(factor == 1 for factor in branch)
        else torch.tensor(branch, dtype=torch.float64).view(-1, 1, 1),
        column_scale=scales.pop(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Norm:
    """A normalised input and what its backward needs; `gain` is None where there is no norm."""

    normed: Tensor  # (n, B, w), without gain and shift
    rstd: Tensor | None  # (n, B, 1)
    gain: Tensor | None  # (n, w)
    shift: Tensor | None

    @staticmethod
    def of(norm: nn.Module, x: Tensor, nets: Tensor | None) -> "_Norm":
        if not isinstance(norm, nn.LayerNorm):
            return _Norm(normed=x, rstd=None, gain=None, shift=None)
        normed, _, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, _EPSILON)
        return _Norm(normed=normed, rstd=rstd, gain=_take(norm.weight, nets), shift=_take(norm.bias, nets))

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the matrix that follows, made to act on `normed`: saves passes over the activations."""
        if self.gain is None:
            return weight, bias
        folded = weight * self.gain[:, None]
        # `normed` has no mean, so neither need the rows: the gradient of `normed` then has none by itself.
        folded -= folded.mean(2, keepdim=True)
        return folded, bias + (weight @ self.shift[:, :, None]).squeeze(2)

    def unfold(self, weight: Tensor, grad: Tensor, bias_grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of weight, gain and shift from those of the folded weight and bias."""
        if self.gain is None:
            return grad, None, None
        own = torch.addcmul(bias_grad[:, :, None] * self.shift[:, None], grad, self.gain[:, None])
        return own, (grad * weight).sum(1), (bias_grad[:, None] @ weight).squeeze(1)

    def backward(self, gradient: Tensor) -> Tensor:
        """Gradient of the input from that of `normed`, which has no mean over the width (see `fold`)."""
        if self.rstd is None:
            return gradient
        along = (gradient * self.normed).mean(2, keepdim=True)
        return torch.addcmul(gradient, self.normed, along, value=-1).mul_(self.rstd)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """What the backward of one layer needs of its forward."""

    layer: BankLayer
    norm: _Norm
    up: Tensor  # (n, m, w), as stored
    folded: Tensor  # (n, m, w), with the norm's gain
    down: Tensor  # (n, m, w)
    pre: Tensor  # (n, B, m), before GELU
    gate: Tensor  # (n, B, m)
    active: Tensor  # (n, B, m), after GELU


class ResidualNetBank(nn.Module):
    """N residual nets of one shape; parameters carry the names of `ResidualNet`'s and a leading axis of nets.

    Args:
        nets: initialised nets of one architecture; their parameters are copied. Nets of one output learn by squared
            error, those of several by cross-entropy.
    """

    def __init__(self, nets: Sequence[ResidualNet]) -> None:
        super().__init__()
        if not nets:
            raise InputError("a bank of 0 nets has nothing to train; give at least one")
        self.shape, self.num_nets, self.residual = nets[0].shape, len(nets), nets[0].residual
        stacked, _ = torch.func.stack_module_state(list(nets))
        skeleton = copy.deepcopy(nets[0])
        for name, value in stacked.items():
            owner, _, leaf = name.rpartition(".")
            setattr(skeleton.get_submodule(owner), leaf, nn.Parameter(value.detach().clone(), requires_grad=False))
        self.inputs, self.blocks = skeleton.inputs, skeleton.blocks
        self.final_norm, self.output = skeleton.final_norm, skeleton.output
        self.classifies = nets[0].output.out_features > 1
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def state_of(self, net: int) -> dict[str, Tensor]:
        """The state dict of net number `net`, as its `ResidualNet` takes it."""
        return {name: value[net].clone() for name, value in self.state_dict().items()}

    @property
    def column_flops(self) -> int:
        """Forward FLOPs a sample of one column of one layer: two products with the stream."""
        return 4 * self.blocks[0].mlp.down_bias.shape[1]

    def join(self, masks: Sequence[SubnetMask | None]) -> list[BankLayer | None] | None:
        """The nets' masks as `forward` takes them (`join_masks`)."""
        return join_masks(masks, self.shape.mlp_columns)

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "_ B d"], layers: Sequence[BankLayer | None] | None = None
    ) -> Float[Tensor, "N B"] | Float[Tensor, "N B K"]:
        """Outputs of every net on its own inputs (a leading axis of 1 is shared by all)."""
        stream = self._enter(x)
        for block, layer in self._pairs(layers):
            if layer is not None:
                self._run(block, layer, stream)
        outputs = self._leave(stream)[0]
        return outputs if self.classifies else outputs.squeeze(2)

    @torch.no_grad()
    def losses(
        self,
        x: Float[Tensor, "_ B d"],
        targets: Float[Tensor, "N B"] | Int64[Tensor, "N B"],
        layers: Sequence[BankLayer | None] | None = None,
    ) -> Float[Tensor, " N"]:
        """Mean squared error or cross-entropy (nats) of every net."""
        return sample_losses(self(x, layers), targets).mean(1)

    @torch.no_grad()
    def gradients(
        self,
        x: Float[Tensor, "_ B d"],
        targets: Float[Tensor, "N B"] | Int64[Tensor, "N B"],
        layers: Sequence[BankLayer | None] | None = None,
    ) -> Float[Tensor, " N"]:
        """The loss of every net; the gradient of each net's own loss replaces every `.grad`."""
        stream = self._enter(x)
        runs = [layer and self._run(block, layer, stream) for block, layer in self._pairs(layers)]
        outputs, norm, folded = self._leave(stream)
        outputs = outputs if self.classifies else outputs.squeeze(2)
        gradient = self._leave_backward(_loss_slopes(outputs, targets) / x.shape[1], norm, folded)
        for block, run in zip(reversed(self.blocks), reversed(runs), strict=True):
            if run is None:
                for parameter in block.parameters():
                    parameter.grad.zero_()
            else:
                self._run_backward(block, run, gradient)
        torch.bmm(gradient.transpose(1, 2), x.expand(self.num_nets, -1, -1), out=self.inputs.weight.grad)
        self.inputs.bias.grad.copy_(_sum_samples(gradient))
        return sample_losses(outputs, targets).mean(1)

    def _pairs(self, layers: Sequence[BankLayer | None] | None):
        layers = (BankLayer(),) * len(self.blocks) if layers is None else layers
        if len(layers) != len(self.blocks):
            raise InputError(f"a mask of {len(layers)} layers does not fit a bank of {len(self.blocks)} layers")
        return zip(self.blocks, layers, strict=True)

    # Ends of the nets -------------------------------------------------------------------------------------------------

    def _enter(self, x: Tensor) -> Tensor:
        x = x.expand(self.num_nets, -1, -1)
        return torch.baddbmm(self.inputs.bias[:, None], x, self.inputs.weight.transpose(1, 2))

    def _leave(self, stream: Tensor) -> tuple[Tensor, _Norm, Tensor]:
        norm = _Norm.of(self.final_norm, stream, None)
        folded, bias = norm.fold(self.output.weight, self.output.bias)
        outputs = torch.baddbmm(bias[:, None], norm.normed, folded.transpose(1, 2))
        return outputs, norm, folded  # (N, B, K)

    def _leave_backward(self, slopes: Tensor, norm: _Norm, folded: Tensor) -> Tensor:
        """The gradient of the end of the stream from that of the outputs, (N, B, K)."""
        total = slopes.sum(1)  # (N, K)
        weight, gain, shift = norm.unfold(self.output.weight, slopes.transpose(1, 2) @ norm.normed, total)
        self.output.weight.grad.copy_(weight)
        self.output.bias.grad.copy_(total)
        _put_norm(self.final_norm, None, gain, shift)
        return norm.backward(slopes @ folded)

    # One layer --------------------------------------------------------------------------------------------------------

    def _run(self, block: nn.Module, layer: BankLayer, stream: Tensor) -> _Run:
        """Advance `stream` (N, B, w) in place through the layer's active nets."""
        inputs = _take(stream, layer.nets)
        norm = _Norm.of(block.mlp_norm, inputs, layer.nets)
        up, down = _take_rows(block.mlp.up_weight, layer), _take_rows(block.mlp.down_weight, layer)
        bias = _take_rows(block.mlp.up_bias[..., None], layer).squeeze(2)
        folded, bias = norm.fold(up, bias)
        pre = torch.baddbmm(bias[:, None], norm.normed, folded.transpose(1, 2))
        gate = gelu_gate(pre)
        active = pre * gate
        branch = torch.baddbmm(_take(block.mlp.down_bias, layer.nets)[:, None], active, down, alpha=layer.column_scale)
        if layer.scale is not None:
            branch *= layer.scale.to(branch.dtype)
        _overwrite(stream, layer.nets, inputs + branch if self.residual else branch)
        return _Run(layer=layer, norm=norm, up=up, folded=folded, down=down, pre=pre, gate=gate, active=active)

    def _run_backward(self, block: nn.Module, run: _Run, gradient: Tensor) -> None:
        """Write the block's gradients and turn `gradient` (N, B, w) of its output into that of its input, in place."""
        layer, nets = run.layer, run.layer.nets
        entering = outer = _take(gradient, nets)
        if layer.scale is not None:
            outer = entering * layer.scale.to(outer.dtype)
        _put(block.mlp.down_bias, nets, _sum_samples(outer))
        _put_rows(block.mlp.down_weight, layer, layer.column_scale * (run.active.transpose(1, 2) @ outer))
        inner = torch.baddbmm(run.pre, outer, run.down.transpose(1, 2), beta=0, alpha=layer.column_scale)
        inner *= gelu_slope(run.pre, run.gate)
        total = _sum_samples(inner)
        weight, gain, shift = run.norm.unfold(run.up, inner.transpose(1, 2) @ run.norm.normed, total)
        _put_rows(block.mlp.up_weight, layer, weight)
        _put_rows(block.mlp.up_bias, layer, total)
        _put_norm(block.mlp_norm, nets, gain, shift)
        change = run.norm.backward(inner @ run.folded)
        _overwrite(gradient, nets, entering + change if self.residual else change)


def sample_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """(N, B): squared errors of outputs (N, B), or cross-entropies in nats of outputs (N, B, K) and classes (N, B)."""
    if outputs.dim() == 2:
        return (outputs - targets).square()
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def _loss_slopes(outputs: Tensor, targets: Tensor) -> Tensor:
    """(N, B, K): the gradient of `sample_losses` in the outputs."""
    if outputs.dim() == 2:
        return 2 * (outputs - targets)[:, :, None]
    return outputs.softmax(2).scatter_add_(
        2, targets[:, :, None], outputs.new_full((1,), -1.0).expand(*targets.shape, 1)
    )


def _take(value: Tensor, nets: Tensor | None) -> Tensor:
    # A copy where all are meant: the stream is advanced in place and its earlier value is needed.
    return value.clone() if nets is None else value.index_select(0, nets)


def _overwrite(stream: Tensor, nets: Tensor | None, value: Tensor) -> None:
    stream.copy_(value) if nets is None else stream.index_copy_(0, nets, value)


def _put(parameter: Tensor, nets: Tensor | None, value: Tensor) -> None:
    """Set the gradient of the active nets to `value`, of all others to zero."""
    if nets is None:
        parameter.grad.copy_(value)
    else:
        parameter.grad.zero_().index_copy_(0, nets, value)


def _take_rows(weight: Tensor, layer: BankLayer) -> Tensor:
    """(n, m, w): the active columns' rows of `weight` (N, M, w)."""
    if layer.rows is None:
        return weight if layer.nets is None else weight.index_select(0, layer.nets)
    count = weight.shape[0] if layer.nets is None else len(layer.nets)
    return weight.flatten(0, 1).index_select(0, layer.rows).view(count, -1, weight.shape[2])


def _put_rows(parameter: Tensor, layer: BankLayer, value: Tensor) -> None:
    if layer.rows is None:
        _put(parameter, layer.nets, value)
    else:
        parameter.grad.zero_().flatten(0, 1).index_copy_(0, layer.rows, value.flatten(0, 1))


def _put_norm(norm: nn.Module, nets: Tensor | None, gain: Tensor | None, shift: Tensor | None) -> None:
    if gain is not None:
        _put(norm.weight, nets, gain)
        _put(norm.bias, nets, shift)


def _sum_samples(x: Tensor) -> Tensor:
    """(n, B, k) -> (n, k), as a product: a sum over the middle axis is slower."""
    return (x.new_ones(1, 1, 1).expand(x.shape[0], 1, x.shape[1]) @ x).squeeze(1)
