"""The parts every family is wired from: norm, attention, MLP, residual block, head loss.

Each part takes its slice of the mask as an argument and computes only what is active. Sampled weights are stored with
the sampled axis first, so that selecting heads or columns copies whole contiguous rows (EST B.1, B.2). With no mask
nothing is copied at all.

Shape letters: B sequences, T tokens, D hidden, H heads, K active heads, E width of a head, M MLP columns, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask

IGNORED_LABEL = -100
_FULL = LayerMask()


class _SelectRows(torch.autograd.Function):
    """`weight[index]` for distinct indices. Its backward writes rows instead of accumulating them, which is faster."""

    @staticmethod
    def forward(ctx, weight: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = weight.shape
        return weight.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, index, grad), None


def select_rows(weight: Tensor, index: Int64[Tensor, " k"] | None) -> Tensor:
    """The rows `index` (distinct) of `weight`, or `weight` itself when `index` is None."""
    return weight if index is None else _SelectRows.apply(weight, index)


def scaled_projection(x: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`scale * x @ weight + bias`: the bias is not sampled, so it is not scaled (EST eqs. 5, 6)."""
    # addmm multiplies by alpha inside the matrix product, so that 1/p costs no pass over the activations.
    flat = torch.addmm(bias, x.flatten(0, -2), weight, alpha=scale)
    return flat.view(*x.shape[:-1], weight.shape[1])


_GATE_SLOPE = 2 * math.sqrt(2 / math.pi)
_GATE_CUBIC = 0.044715 * _GATE_SLOPE


def gelu_gate(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sigmoid(u), u = 2 sqrt(2/pi) (x + 0.044715 x^3): GELU's tanh form is x times this."""
    return torch.addcmul(x.new_tensor(_GATE_SLOPE), x, x, value=_GATE_CUBIC).mul_(x).sigmoid_()


def gelu_slope(x: Float[Tensor, "*shape"], gate: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Derivative of GELU's tanh form at `x`, from the gate there."""
    # d(x s(u))/dx = s + s (1 - s) x u'(x), built in one buffer.
    slope = torch.addcmul(x.new_tensor(_GATE_SLOPE), x, x, value=3 * _GATE_CUBIC).mul_(x)
    slope.addcmul_(slope, gate, value=-1)
    return torch.addcmul(gate, gate, slope, out=slope)


class _TanhGELU(torch.autograd.Function):
    """GELU's tanh form written as x times its gate.

    The same function to rounding: 1 + tanh(u/2) = 2 sigmoid(u). torch's CPU kernel evaluates tanh in both directions;
    one sigmoid, kept for the backward, takes half its time.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        gate = gelu_gate(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates twice: torch's own derivative is differentiable
            return torch.autograd.grad(F.gelu(x, approximate="tanh"), x, grad, create_graph=True)[0]
        return gelu_slope(x, gate).mul_(grad)


def gelu(x: Tensor) -> Tensor:
    """GELU in the tanh form of GPT-2 (`gelu_new`)."""
    if x.device.type == "cpu" and x.requires_grad and not torch._C._are_functorch_transforms_active():
        return _TanhGELU.apply(x)
    return F.gelu(x, approximate="tanh")


class Attention(nn.Module):
    """Causal multi-head self-attention over any subset of its heads (EST eqs. 2, 5)."""

    def __init__(self, hidden: int, num_heads: int) -> None:
        super().__init__()
        head_dim = hidden // num_heads
        self.qkv_weight = nn.Parameter(torch.empty(num_heads, 3, head_dim, hidden))  # (H, 3, E, D)
        self.qkv_bias = nn.Parameter(torch.empty(num_heads, 3, head_dim))
        self.out_weight = nn.Parameter(torch.empty(num_heads, head_dim, hidden))  # (H, E, D)
        self.out_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Float[Tensor, "B T D"], mask: LayerMask = _FULL) -> Float[Tensor, "B T D"]:
        """Attention output of the active heads, scaled by `mask.head_scale`, plus the output bias."""
        qkv_weight = select_rows(self.qkv_weight, mask.heads)
        qkv_bias = select_rows(self.qkv_bias, mask.heads)
        out_weight = select_rows(self.out_weight, mask.heads)
        num_active, _, head_dim, _ = qkv_weight.shape
        qkv = F.linear(x, qkv_weight.flatten(0, 2), qkv_bias.flatten())
        # Unbinding where the three lie keeps their gradient in the layout of `qkv`: one copy in the backward, not two.
        parts = qkv.view(*x.shape[:2], num_active, 3, head_dim).unbind(3)
        query, key, value = (part.transpose(1, 2) for part in parts)  # (B, K, T, E) each
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined = heads.transpose(1, 2).flatten(2)  # (B, T, K E)
        return scaled_projection(joined, out_weight.flatten(0, 1), self.out_bias, mask.head_scale)


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


def _add_branch(x: Tensor, branch: Tensor, scale: float) -> Tensor:
    # alpha multiplies inside the addition: a scaled branch costs no pass over the activations either.
    return x + branch if scale == 1 else torch.add(x, branch, alpha=scale)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + MLP(norm(x)). `num_heads=0` leaves attention out."""

    def __init__(self, hidden: int, num_heads: int, mlp_columns: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden) if num_heads else None
        self.attention = Attention(hidden, num_heads) if num_heads else None
        self.mlp_norm = nn.LayerNorm(hidden)
        self.mlp = MLP(hidden, mlp_columns)

    def forward(self, x: Float[Tensor, "*batch D"], mask: LayerMask = _FULL) -> Float[Tensor, "*batch D"]:
        """The layer's output with its residual; `mask.scale` is the stack's business, not the layer's."""
        if self.attention is not None:
            x = _add_branch(x, self.attention(self.attention_norm(x), mask), mask.sublayer_scale)
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
    blocks: nn.ModuleList, x: Float[Tensor, "*batch D"], mask: SubnetMask | None
) -> Float[Tensor, "*batch D"]:
    """Run the active blocks: x + scale_l f_l(x) for those, x for the bypassed (EST eq. 7, RaPTr's (p, I)-subnetwork).

    Raises:
        InputError: the mask is for another number of layers.
    """
    if mask is None:
        for block in blocks:
            x = block(x)
        return x
    if len(mask.layers) != len(blocks):
        raise InputError(f"a mask of {len(mask.layers)} layers does not fit a model of {len(blocks)} layers")
    for block, layer in zip(blocks, mask.layers, strict=True):
        if layer is not None:
            y = block(x, layer)
            x = y if layer.scale == 1 else torch.lerp(x, y, layer.scale)
    return x


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of `hidden @ weight.T`, a chunk of tokens at a time, gradients taken on the way.

    The logits (tokens x vocabulary, by far the largest tensor of a language model) exist one chunk at a time and are
    turned into their own gradient in place, so memory and memory traffic stay small. The arithmetic is that of
    `F.cross_entropy(F.linear(hidden, weight), labels)`.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
        count = (labels != IGNORED_LABEL).sum().clamp(min=1)
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        # Under autocast the head multiplies in the activations' precision; sums stay in the weight's.
        head = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.empty_like(weight) if needs_grad else None
        total = weight.new_zeros(())
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                part, target = hidden[start : start + chunk], labels[start : start + chunk]
                logits = (part @ head.T).to(weight.dtype)
                valid = target != IGNORED_LABEL
                index = target.where(valid, 0)[:, None]
                top = logits.amax(1, keepdim=True)
                logits -= top
                picked = logits.gather(1, index).squeeze(1)
                logits.exp_()
                normaliser = logits.sum(1)
                total += ((normaliser.log() - picked) * valid).sum()
                if needs_grad:
                    weights = valid.to(logits.dtype) / count
                    logits *= (weights / normaliser)[:, None]  # softmax / count
                    logits.scatter_add_(1, index, -weights[:, None])
                    grad = logits.to(hidden.dtype)
                    torch.mm(grad, head, out=grad_hidden[start : start + chunk])
                    if head.dtype == weight.dtype:
                        grad_weight.addmm_(grad.T, part, beta=min(start, 1))  # the first chunk overwrites
                    elif start:
                        grad_weight += grad.T @ part
                    else:
                        grad_weight.copy_(grad.T @ part)
        if needs_grad:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        # The usual case on CPU, where a pass over the head's gradient costs as much as a layer.
        if grad.device.type == "cpu" and grad.item() == 1:
            return grad_hidden, grad_weight, None, None
        return grad_hidden * grad, grad_weight * grad, None, None


def linear_cross_entropy(
    hidden: Float[Tensor, "B T D"],
    weight: Float[Tensor, "V D"],
    labels: Int64[Tensor, "B T"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Mean token cross entropy, in nats, of the tied LM head `hidden @ weight.T` without ever holding all logits.

    Args:
        hidden: final hidden states.
        weight: the head, one row a vocabulary entry.
        labels: target ids; -100 is ignored.
        chunk: tokens whose logits exist at once; by default equal chunks of at most 2**25 logits (128 MiB in float32),
            large enough for full speed.
    """
    if chunk is None:
        chunks = math.ceil(labels.numel() * len(weight) / 2**25)
        chunk = math.ceil(labels.numel() / chunks)
    return _LinearCrossEntropy.apply(hidden.flatten(0, 1), weight, labels.flatten(), chunk)
