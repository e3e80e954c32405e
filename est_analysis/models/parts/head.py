"""The loss of a language model's head, without ever holding all logits."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED_LABEL = -100


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of `hidden @ weight.T + bias`, a chunk of tokens at a time, gradients taken on the way.

    The logits (tokens x vocabulary, by far the largest tensor of a language model) exist one chunk at a time and are
    turned into their own gradient in place, so memory and memory traffic stay small. The arithmetic is that of
    `F.cross_entropy(F.linear(hidden, weight), labels)`.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
        count = (labels != IGNORED_LABEL).sum().clamp(min=1)
        needs_grad = any(ctx.needs_input_grad)
        # Under autocast the head multiplies in the activations' precision; sums stay in the weight's.
        head = weight.to(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        # The first chunk overwrites it, if there is one.
        empty = torch.empty_like if len(hidden) else torch.zeros_like
        grad_weight = empty(weight) if needs_grad else None
        grad_bias = torch.zeros_like(bias) if needs_grad and bias is not None else None
        total = weight.new_zeros((), dtype=torch.promote_types(weight.dtype, torch.float32))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                part, target = hidden[start : start + chunk], labels[start : start + chunk]
                logits = (part @ head.T).to(weight.dtype)
                if bias is not None:
                    logits += bias
                valid = target != IGNORED_LABEL
                index = target.where(valid, 0)[:, None]
                top = logits.amax(1, keepdim=True)
                logits -= top
                picked = logits.gather(1, index).squeeze(1)
                logits.exp_()
                normaliser = logits.sum(1)
                total += ((normaliser.log() - picked) * valid).sum(dtype=total.dtype)
                if needs_grad:
                    weights = valid.to(logits.dtype) / count
                    logits *= (weights / normaliser)[:, None]  # softmax / count
                    logits.scatter_add_(1, index, -weights[:, None])
                    if grad_bias is not None:
                        grad_bias += logits.sum(0)
                    grad = logits.to(hidden.dtype)
                    torch.mm(grad, head, out=grad_hidden[start : start + chunk])
                    if head.dtype == weight.dtype:
                        grad_weight.addmm_(grad.T, part, beta=min(start, 1))
                    elif start:
                        grad_weight += grad.T @ part
                    else:
                        grad_weight.copy_(grad.T @ part)
        if needs_grad:
            ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return (total / count).to(weight.dtype)

    @staticmethod
    @once_differentiable  # the logits are gone: a second derivative has to be refused, not wrong
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        grads = ctx.saved_tensors
        # The usual case on CPU, where a pass over the head's gradient costs as much as a layer.
        if grad.device.type == "cpu" and grad.item() == 1:
            return *grads, None, None
        return *(None if each is None else each * grad for each in grads), None, None


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch D"],
    weight: Float[Tensor, "V D"],
    labels: Int64[Tensor, "*batch"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Mean token cross entropy, in nats, of the LM head `hidden @ weight.T + bias`, never holding all logits.

    Under autocast the head multiplies in its precision, as a linear layer does, whatever that of `hidden`: the final
    norm leaves it in float32.

    Args:
        hidden: final hidden states.
        weight: the head, one row a vocabulary entry.
        labels: target ids; -100 is ignored.
        bias: added to the logits, for heads that have one.
        chunk: tokens whose logits exist at once; by default equal chunks of at most 2**25 logits (128 MiB in float32),
            large enough for full speed.
    """
    device = hidden.device.type
    if not torch.is_grad_enabled():  # which `needs_input_grad` does not know: no gradients to make on the way
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    if chunk is None:
        chunks = max(1, math.ceil(labels.numel() * len(weight) / 2**25))
        chunk = max(1, math.ceil(labels.numel() / chunks))
    return _LinearCrossEntropy.apply(hidden.flatten(0, -2), weight, bias, labels.flatten(), chunk)
