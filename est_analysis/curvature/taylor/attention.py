"""The rule of fused attention: a few heads and rows of scores at a time, so that no (T, T) matrix exists whole."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from est_analysis.curvature.taylor.jet import FUNCTIONS, Jet, Layout, aligned, layout_of, stack_of
from est_analysis.curvature.taylor.normalise import softmax_stack

_CHUNK = 1 << 21  # scores held at once, all coefficients together


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    layout = layout_of(query, key, value, attn_mask)
    if not enable_gqa:  # one key head may serve all queries
        lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
        query, key, value = (x.expand(*lead, *x.shape[-2:]) for x in (query, key, value))
    q, k, v = (stack_of(x, layout) for x in (query, key, value))
    lead, rows, columns = query.shape[:-2], query.shape[-2], key.shape[-2]
    heads = math.prod(lead)
    shared = query.shape[-3] // key.shape[-3] if enable_gqa else 1  # query heads that share a key head
    q, k, v = (x.reshape(layout.size, -1, *x.shape[-2:]) for x in (q, k, v))
    q = q * (query.shape[-1] ** -0.5 if scale is None else scale)
    mask = _mask(attn_mask, layout, (*lead, rows, columns))
    out = q.new_empty(layout.size, heads, rows, v.shape[-1])
    height = min(rows, max(16, _CHUNK // (layout.size * columns)))
    width = max(1, _CHUNK // (layout.size * columns * height))
    width = shared if shared > 1 else width
    for head in range(0, heads, width):
        mine = slice(head, head + width)
        theirs = slice(head // shared, head // shared + 1) if shared > 1 else mine
        for row in range(0, rows, height):
            part = slice(row, row + height)
            end = min(columns, row + height) if is_causal else columns
            scores = _product(q[:, mine, part], k[:, theirs, :end].transpose(-1, -2), layout)
            if is_causal:
                ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(row + 1)
                scores[0].masked_fill_(ahead, -math.inf)
            blind = None if mask is None else _apply_mask(scores, mask[:, mine, part, :end])
            weights = softmax_stack(scores, layout)
            if blind is not None:
                weights.masked_fill_(blind, 0)
            out[:, mine, part] = _product(weights, v[:, theirs, :end], layout)
    return Jet(out.view(layout.size, *lead, rows, -1), layout)


FUNCTIONS[F.scaled_dot_product_attention] = _attention


def _product(x: Tensor, y: Tensor, layout: Layout) -> Tensor:
    """The stack of x @ y, from stacks (C, heads, .., ..); y may have one head for all of x."""
    product = torch.matmul(x, y[0])
    xa = x[0]
    product[1:] += torch.matmul(xa, y[1:])
    for probe in range(layout.probes):
        product[layout.group(probe)].add_(torch.matmul(x[1 + probe], y[1 + probe]), alpha=2)
    return product


def _mask(mask: Tensor | None, layout: Layout, shape: tuple[int, ...]) -> Tensor | None:
    """The mask's stack over the heads, (1 or C, heads, rows, columns); one coefficient if no parameter decides it."""
    if mask is None:
        return None
    stack = aligned(mask.stack, len(shape)) if isinstance(mask, Jet) else mask[None].expand(1, *shape)
    return stack.expand(-1, *shape).reshape(-1, math.prod(shape[:-2]), *shape[-2:])


def _apply_mask(scores: Tensor, mask: Tensor) -> Tensor | None:
    """Mask the scores; returns which rows see nothing (heads, rows, 1), whose attention is zero and not undefined."""
    if mask.dtype == torch.bool:
        scores[0].masked_fill_(~mask[0], -math.inf)
    else:
        scores[: len(mask)] += mask
    blind = scores[0].amax(-1, keepdim=True) == -math.inf
    if not blind.any():
        return None
    scores[0].masked_fill_(blind, 0)
    return blind
