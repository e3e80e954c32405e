"""The Taylor rules of whole functions: linear, attention, cross-entropy."""

import math
from pathlib import Path
from runpy import run_path

import pytest
import torch
import torch.nn.functional as F

from est_analysis.curvature.head import HeadInputs
from est_analysis.curvature.loss import head_cross_entropy
from est_analysis.curvature.taylor import attention, cross_entropy, engine  # noqa: F401
from est_analysis.curvature.taylor.jet import FUNCTIONS, Jet
from est_analysis.rng import stream

SHARED = run_path(str(Path(__file__).parent / "chain_rule.py"))
A, CLOSE, LAYOUT = map(SHARED.get, ("A", "CLOSE", "LAYOUT"))
check, expected, parameter, randn, stack_of_shape, stacks_of, stored = map(
    SHARED.get, ("check", "expected", "parameter", "randn", "stack_of_shape", "stacks_of", "stored")
)


def test_every_function_with_a_rule_is_tested_below():
    assert set(FUNCTIONS) == {F.linear, F.scaled_dot_product_attention, head_cross_entropy}


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_linear(shape):
    check(F.linear, *stacks_of([shape, (5, 4), (5,)]))
    check(F.linear, *stacks_of([shape, (5, 4)]))


def explicit_attention(q, k, v, mask=None, causal=False, scale=None, gqa=False):
    """Attention as its formula; rows that see nothing are zero."""
    if gqa:
        k, v = (x.repeat_interleave(q.shape[-3] // k.shape[-3], -3) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool)
    seen = seen.tril() if causal else seen
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & mask
    elif mask is not None:
        seen = seen & (mask > -math.inf)
        scores = scores + mask.masked_fill(mask == -math.inf, 0)
    weights = scores.masked_fill(~seen, -1e300).softmax(-1)
    return weights.masked_fill(~seen, 0) @ v


HEADS = [(2, 4, 19, 3), (2, 4, 21, 3), (2, 4, 21, 5)]
SEEN = torch.rand(2, 1, 19, 21, generator=stream(0, "seen")) < 0.3
SEEN[0, 0, 2] = False
ADDED = randn(19, 21, name="mask").masked_fill(~SEEN[1, 0], -math.inf)
ADDED[3] = -math.inf
ATTENTION = {
    "plain": ({}, HEADS),
    "scaled": ({"scale": 0.3}, HEADS),
    "causal": ({"causal": True}, HEADS),
    "causal, fewer columns": ({"causal": True}, [HEADS[1], HEADS[0], (2, 4, 19, 5)]),
    "no heads": ({}, [shape[2:] for shape in HEADS]),
    "one batch axis": ({"causal": True}, [shape[1:] for shape in HEADS]),
    "one key head for all": ({}, [HEADS[0], (2, 1, 21, 3), (1, 1, 21, 5)]),
    "grouped": ({"gqa": True, "causal": True}, [HEADS[0], (2, 2, 21, 3), (2, 2, 21, 5)]),
    "grouped as many": ({"gqa": True}, HEADS),
    "seen": ({"mask": SEEN}, HEADS),
    "seen, grouped": ({"mask": SEEN, "gqa": True}, [HEADS[0], (2, 2, 21, 3), (2, 2, 21, 5)]),
    "added": ({"mask": ADDED}, HEADS),
}


@pytest.mark.parametrize("chunk", [1 << 21, 1, 7 * 21 * 16 * 3])
@pytest.mark.parametrize(("options", "shapes"), ATTENTION.values(), ids=ATTENTION.keys())
def test_attention(options, shapes, chunk, monkeypatch):
    monkeypatch.setattr(attention, "_CHUNK", chunk)
    names = {"mask": "attn_mask", "causal": "is_causal", "scale": "scale", "gqa": "enable_gqa"}
    stacks = stacks_of(shapes)
    jets = [Jet(s, LAYOUT) for s in stacks]
    out = F.scaled_dot_product_attention(*jets, **{names[name]: value for name, value in options.items()})
    wanted = expected(lambda q, k, v: explicit_attention(q, k, v, **options), stacks, [0, 1, 2])
    torch.testing.assert_close(out.stack, wanted, **CLOSE)
    plain = F.scaled_dot_product_attention(*(s[0] for s in stacks), **{names[n]: v for n, v in options.items()})
    torch.testing.assert_close(out.value, plain, **CLOSE)


def test_attention_with_a_learned_mask_and_with_constants():
    def attend(q, k, v, mask):
        if any(isinstance(x, Jet) for x in (q, k, v, mask)):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return explicit_attention(q, k, v, mask)

    check(attend, *stacks_of([(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3), (2, 3, 5)]))


AFTER = {
    "linear": None,
    "soft cap": lambda z: 2 * torch.tanh(z / 2),
    "scale": lambda z: z * 0.3,
}


@pytest.mark.parametrize("chunk", [1 << 23, 40])
@pytest.mark.parametrize("bias", ["none", "constant", "parameter"])
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER.keys())
def test_cross_entropy(after, bias, chunk, monkeypatch):
    monkeypatch.setattr(cross_entropy, "_CHUNK", chunk)
    targets = torch.tensor([0, 6, 2, 2, 1])
    hidden, weight, offset = stack_of_shape((5, 4), "hidden"), parameter(7, 4), parameter(7, name="bias")

    def loss(hidden, weight, offset):
        logits = F.linear(hidden, weight, None if bias == "none" else offset)
        return F.cross_entropy(logits if after is None else after(logits), targets, reduction="none")

    stacks = [hidden, stored(weight).stack, stored(offset).stack]
    unchanged = HeadInputs.__init__.__globals__["_unchanged"]
    used = {"none": None, "constant": offset.value, "parameter": offset}[bias]
    head = HeadInputs(torch.empty(0), weight, used, after or unchanged)
    out = head_cross_entropy(Jet(hidden, LAYOUT), head, targets)
    torch.testing.assert_close(out.stack, expected(loss, stacks, [0, 1, 2] if bias == "parameter" else [0, 1]), **CLOSE)


def test_cross_entropy_of_a_head_that_is_no_parameter():
    """A frozen head; a frozen body; a head computed from parameters; no head at all."""
    from est_analysis.curvature.head import _unchanged

    targets = torch.tensor([0, 6, 2, 2, 1])
    hidden, weight = stack_of_shape((5, 4), "hidden"), parameter(7, 4)

    def loss(hidden, weight):
        return F.cross_entropy(hidden @ weight.t(), targets, reduction="none")

    def of_jets(hidden, weight):
        return head_cross_entropy(hidden, HeadInputs(hidden, weight, None, _unchanged), targets).stack

    stacks = [hidden, stored(weight).stack]
    torch.testing.assert_close(of_jets(Jet(hidden, LAYOUT), weight.value), expected(loss, stacks, [0]), **CLOSE)
    torch.testing.assert_close(of_jets(hidden[0], weight), expected(loss, stacks, [1]), **CLOSE)
    torch.testing.assert_close(of_jets(Jet(hidden, LAYOUT), stored(weight)), expected(loss, stacks, [0, 1]), **CLOSE)
    logits = Jet(hidden, LAYOUT) @ weight.t()
    out = head_cross_entropy(logits, HeadInputs(logits, None, None, _unchanged), targets)
    torch.testing.assert_close(out.stack, expected(loss, stacks, [0, 1]), **CLOSE)
