"""The rule of a language model's head and loss together, where memory goes: (tokens, vocabulary) once a coefficient.

For the loss l = logsumexp(z) - z_y of logits z = W h + bias, with p = softmax(z) and g = p - e_y:

    b_k = <g, z.b_k>,    c = <g, z.c> + sum_k (<p, z.b_k^2> - <p, z.b_k>^2).

<g, z.c> needs no z.c: it is <W'g, h.c> + 2 sum_k <V_k'g, h.b_k> with V_k the k-th direction of W, of hidden size. So
one z.b_k exists at a time, for a chunk of tokens, however many probes there are.
"""

import torch
from torch import Tensor

from est_analysis.curvature.head import HeadInputs
from est_analysis.curvature.loss import head_cross_entropy
from est_analysis.curvature.taylor.jet import FUNCTIONS, Jet, Layout, value_of

_CHUNK = 1 << 23  # logits held at once


def _head_cross_entropy(hidden: Jet, head: HeadInputs, targets: Tensor) -> Jet:
    layout = hidden.coefficients
    fused = head.linear and (isinstance(head.weight, Jet) and head.weight.is_parameter)
    rows = max(1, _CHUNK // (head.vocabulary * (1 if fused else layout.size)))
    loss = _linear_loss if fused else _any_loss
    stacks = [
        loss(part, head, labels, layout)
        for part, labels in zip(hidden.stack.split(rows, dim=1), targets.split(rows), strict=True)
    ]
    return Jet(torch.cat(stacks, dim=1), layout)


FUNCTIONS[head_cross_entropy] = _head_cross_entropy


def _linear_loss(hidden: Tensor, head: HeadInputs, targets: Tensor, layout: Layout) -> Tensor:
    h, weight, bias = hidden[0], head.weight.value, head.bias
    logits = h @ weight.t()
    if bias is not None:
        logits += value_of(bias)
    total = logits.logsumexp(-1)
    out = hidden.new_empty(layout.size, len(targets))
    out[0] = total - logits.gather(1, targets[:, None])[:, 0]
    p = logits.sub_(total[:, None]).exp_()
    labels = targets[:, None]
    back = p @ weight - weight[targets]  # W'g
    for index in range(1 + layout.probes, layout.size):
        torch.linalg.vecdot(back, hidden[index], out=out[index])
    biases = bias.directions() if isinstance(bias, Jet) else [None] * layout.probes
    for probe, (signs, bias_signs) in enumerate(zip(head.weight.directions(), biases, strict=True)):
        first = hidden[1 + probe]
        b = first @ weight.t()
        b.addmm_(h, signs.t())
        if bias_signs is not None:
            b += bias_signs
        mean = torch.linalg.vecdot(p, b)
        out[1 + probe] = mean - b.gather(1, labels)[:, 0]
        spread = torch.linalg.vecdot(p, b.square_()) - mean.square()
        back = p @ signs - signs[targets]  # V_k'g
        out[layout.group(probe)] += spread + 2 * torch.linalg.vecdot(back, first)
    return out


def _any_loss(hidden: Tensor, head: HeadInputs, targets: Tensor, layout: Layout) -> Tensor:
    logits = head.logits(Jet(hidden, layout))
    total = torch.logsumexp(logits, -1, keepdim=True)
    return (total - logits.gather(1, targets[:, None]))[:, 0].stack
