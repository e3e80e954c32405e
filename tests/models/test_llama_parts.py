"""RMSNorm, rotary positions and the SiLU gate against torch's own, in two derivatives, by every path there is."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from est_analysis.models.parts import RMSNorm, gated_silu, rotary_table, rotate
from est_analysis.rng import stream

# Sums of at most 8 products of order one in float64.
EXACT = {"atol": 1e-13, "rtol": 1e-13}


def _randn(*shape, name="x"):
    return torch.randn(*shape, dtype=torch.float64, generator=stream(0, name))


def _norm(x, weight):
    norm = RMSNorm(x.shape[-1], 1e-2)
    return torch.func.functional_call(norm, {"weight": weight}, (x,))


def _turn(x):
    return rotate(x, *rotary_table(x.shape[1], x.shape[3], 50.0, like=x))


PARTS = {
    "norm": (_norm, lambda x, w: F.rms_norm(x, (8,), w, 1e-2), (_randn(2, 3, 8), _randn(8, name="w"))),
    "gate": (gated_silu, lambda g, u: F.silu(g) * u, (_randn(2, 5), _randn(2, 5, name="u"))),
    "rotation": (_turn, lambda x: _theirs(x), (_randn(2, 5, 3, 8),)),
}
every_part = pytest.mark.parametrize(("ours", "reference", "inputs"), PARTS.values(), ids=PARTS.keys())


def _theirs(x):
    # Our table has the sign of the first half's sine; its second half is the sine itself.
    cos, sin = (torch.cat((half, half), -1)[None, :, 0] for half in _second_halves(x))
    return apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)[0]


def _second_halves(x):
    return (table.chunk(2, -1)[1] for table in rotary_table(x.shape[1], 8, 50.0, like=x))


def _trained(inputs):
    return tuple(value.clone().requires_grad_() for value in inputs)


@every_part
def test_value_and_gradient_by_every_path(ours, reference, inputs):
    expected = reference(*inputs)
    torch.testing.assert_close(ours(*inputs), expected, **EXACT)
    here, there = _trained(inputs), _trained(inputs)
    left, right = ours(*here), reference(*there)
    torch.testing.assert_close(left, expected, **EXACT)
    weights = _randn(*expected.shape, name="weights")
    grads = [torch.autograd.grad((y * weights).sum(), x) for y, x in ((left, here), (right, there))]
    torch.testing.assert_close(*grads, **EXACT)
    numbers = tuple(range(len(inputs)))
    transformed = torch.func.grad(lambda *values: (ours(*values) * weights).sum(), argnums=numbers)(*inputs)
    torch.testing.assert_close(transformed, grads[1], **EXACT)


@every_part
def test_two_derivatives_by_finite_differences(ours, reference, inputs):
    assert torch.autograd.gradcheck(ours, _trained(inputs))
    assert torch.autograd.gradgradcheck(ours, _trained(inputs))


def test_only_some_inputs_trained():
    x, weight = _randn(3, 8), _randn(8, name="w")
    (gradient,) = torch.autograd.grad(_norm(x.requires_grad_(), weight).sum(), x)
    (expected,) = torch.autograd.grad(F.rms_norm(x, (8,), weight, 1e-2).sum(), x)
    torch.testing.assert_close(gradient, expected, **EXACT)


def test_a_rotation_keeps_lengths_and_depends_on_distance_alone():
    query, key = _randn(1, 6, 1, 8, name="q"), _randn(1, 6, 1, 8, name="k")
    same_query, same_key = query[:, :1].expand_as(query), key[:, :1].expand_as(key)
    scores = (_turn(same_query)[0, :, 0] @ _turn(same_key)[0, :, 0].T).diagonal(1)
    # The angles are float32 numbers up to 6: their differences agree to 1e-6.
    torch.testing.assert_close(scores, scores[:1].expand_as(scores), atol=1e-5, rtol=0)
    torch.testing.assert_close(_turn(query).norm(dim=-1), query.norm(dim=-1), atol=1e-6, rtol=0)
    assert (_turn(query) - query).abs().max() > 0.1


def test_narrow_precision(make, tokens):
    """Autocast and a model in bfloat16 compute what float32 does, to bfloat16's eight bits."""
    model = make("llama").float()
    model.initialise(0)
    expected = model.loss(tokens, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.loss(tokens, tokens)
    mixed.backward()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(model.bfloat16().loss(tokens, tokens).float(), expected, atol=0.05, rtol=0)
