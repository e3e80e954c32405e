"""Every Taylor rule against nested forward derivatives; a rule that is registered and has no case here fails."""

import math
from pathlib import Path
from runpy import run_path

import pytest
import torch

from est_analysis.curvature.taylor import engine, jet, structure  # noqa: F401
from est_analysis.curvature.taylor.jet import RULES, Jet

aten = torch.ops.aten

SHARED = run_path(str(Path(__file__).parent / "chain_rule.py"))
A, KEEP, LAYOUT, P, ROWS, S = map(SHARED.get, ("A", "KEEP", "LAYOUT", "P", "ROWS", "S"))
by, check, normal, positive, stack_of_shape, stacks_of = map(
    SHARED.get, ("by", "check", "normal", "positive", "stack_of_shape", "stacks_of")
)

AA = (4, 3)
INDEX = torch.tensor([2, 0, 2])


def each(op, *argument_lists, shape=A):
    return [((lambda x, args=args: op(x, *args)), shape) for args in argument_lists or ((),)]


def layer_norm(x, axes, *affine):
    shape = list(x.shape[-axes:])
    return aten.native_layer_norm.default(x, shape, *affine, *(None,) * (2 - len(affine)), 0.1)[0]


def norm_case(axes):
    return by(lambda *x: layer_norm(x[0], axes, *x[1:]), lambda *x: normal(x[0], axes, *x[1:]))


def group_norm(x, *affine):
    groups = normal(x.reshape(2, 2, -1), 1).reshape(x.shape)
    return groups if not affine else groups * affine[0][:, None] + affine[1][:, None]


def picked(op, index, *args, **kwargs):
    return lambda *tensors: op(*tensors, *args, **kwargs)[index]


def unary(*ops, shape=A):
    return {op: [(op, shape), (op, S if shape == A else (S, positive))] for op in ops}


def binary(op, **options):
    """Broadcasting either way, numbers without axes, and several forms of one operator."""
    shapes = [(A, A), (A, (4,)), ((3, 1), (2, 1, 4)), (S, A), (A, S), ((1, 4), (3, 1))]
    return [((lambda x, y: op(x, y, **options)), *pair) for pair in shapes]


CASES = {
    **unary(aten.exp.default, aten.expm1.default, aten.tanh.default, aten.sigmoid.default, aten.silu.default),
    **unary(
        aten.erf.default, aten.sin.default, aten.cos.default, aten.relu.default, aten.abs.default, aten.neg.default
    ),
    **unary(aten.log.default, aten.log1p.default, aten.reciprocal.default, aten.sqrt.default, shape=P),
    **unary(aten.rsqrt.default, shape=P),
    aten.gelu.default: [(aten.gelu.default, A), (lambda x: aten.gelu.default(x, approximate="tanh"), A)],
    aten.leaky_relu.default: each(aten.leaky_relu.default, (), (0.2,)),
    aten.elu.default: each(aten.elu.default, (), (0.7, 1.3, 0.9)),
    aten.softplus.default: each(aten.softplus.default, (), (2.0, 0.5)),
    aten.clamp.default: each(aten.clamp.default, (-0.5, 0.4), (None, 0.3), (-0.2,)),
    aten.clamp_min.default: each(aten.clamp_min.default, (0.2,)),
    aten.clamp_max.default: each(aten.clamp_max.default, (0.2,)),
    # The dispatcher leaves out arguments that are the defaults: (-0.2, 1) arrives as (-0.2,).
    aten.hardtanh.default: each(aten.hardtanh.default, (), (-0.2, 1), (-1, 0.3), (0, 6)),
    aten.pow.Tensor_Scalar: [
        *each(aten.pow.Tensor_Scalar, (0,), (1,), (2,), (2.0,), (3,)),
        *each(aten.pow.Tensor_Scalar, (-1,), (0.5,), (-1.5,), shape=P),
    ],
    aten.pow.Scalar: [(lambda x: aten.pow.Scalar(2.5, x), A)],
    aten.maximum.default: binary(aten.maximum.default),
    aten.minimum.default: binary(aten.minimum.default),
    aten.add.Tensor: [*binary(aten.add.Tensor), *binary(aten.add.Tensor, alpha=-0.7)],
    aten.sub.Tensor: [*binary(aten.sub.Tensor), *binary(aten.sub.Tensor, alpha=0.7)],
    aten.mul.Tensor: binary(aten.mul.Tensor),
    aten.div.Tensor: [
        (aten.div.Tensor, A, P),
        (aten.div.Tensor, (2, 1, 4), ((3, 1), positive)),
        (aten.div.Tensor, (4,), P),
        (aten.div.Tensor, A, (S, positive)),
    ],
    aten.add.Scalar: each(aten.add.Scalar, (0.7,), (0.7, 2)),
    aten.sub.Scalar: each(aten.sub.Scalar, (0.7,), (0.7, 2)),
    aten.rsub.Scalar: each(aten.rsub.Scalar, (0.7,), (0.7, 2)),
    aten.mul.Scalar: each(aten.mul.Scalar, (0.7,)),
    aten.div.Scalar: each(aten.div.Scalar, (0.7,)),
    aten.mm.default: [(aten.mm.default, A, AA)],
    aten.bmm.default: [(aten.bmm.default, (2, 3, 4), (2, 4, 5))],
    aten.addmm.default: [
        *((aten.addmm.default, bias, A, (4, 2)) for bias in ((3, 2), (2,), (3, 1))),
        (lambda bias, x, y: aten.addmm.default(bias, x, y, beta=0.5, alpha=-2), (2,), A, (4, 2)),
    ],
    aten.baddbmm.default: [
        (aten.baddbmm.default, (2, 1, 5), (2, 3, 4), (2, 4, 5)),
        (lambda bias, x, y: aten.baddbmm.default(bias, x, y, beta=0.5, alpha=-2), S, (2, 3, 4), (2, 4, 5)),
    ],
    aten.embedding.default: [
        (lambda w: aten.embedding.default(w, ROWS), A[::-1]),
        (lambda w: aten.embedding.default(w, torch.tensor(1)), A),
    ],
    aten.convolution.default: [
        (
            lambda x, w, b: aten.convolution.default(x, w, b, [2, 1], [1, 0], [1, 1], False, [0, 0], 1),
            *((2, 3, 4, 5), (4, 3, 2, 2), (4,)),
        ),
        (lambda x, w: aten.convolution.default(x, w, None, [1], [2], [2], False, [0], 2), (2, 4, 6), (4, 2, 2)),
        (lambda x, w, b: aten.convolution.default(x, w, b, [2], [0], [1], True, [0], 1), (2, 3, 4), (3, 2, 2), (2,)),
    ],
    aten._softmax.default: each(aten._softmax.default, (-1, False), (0, False), (1, False), shape=(2, 3, 4)),
    aten._log_softmax.default: each(aten._log_softmax.default, (-1, False), (0, False), shape=(2, 3, 4)),
    aten.logsumexp.default: each(aten.logsumexp.default, ([-1],), ([0], True), ([0, -1],), shape=(2, 3, 4)),
    aten.native_layer_norm.default: [
        *((norm_case(1), (2, 3, 4), *affine) for affine in ((), ((4,),), ((4,), (4,)))),
        (norm_case(2), (2, 3, 4), (3, 4), (3, 4)),
    ],
    aten.native_group_norm.default: [
        (
            by(lambda x, *wb: aten.native_group_norm.default(x, *wb, 2, 4, 3, 2, 0.1)[0], group_norm),
            *((2, 4, 3), (4,), (4,)),
        ),
        (by(lambda x: aten.native_group_norm.default(x, None, None, 2, 4, 6, 2, 0.1)[0], group_norm), (2, 4, 2, 3)),
    ],
    aten.var.correction: [
        (lambda x: aten.var.correction(x, [-1], keepdim=True), A),
        (lambda x: aten.var.correction(x, [0, 2], correction=0), (2, 3, 4)),
        (aten.var.correction, A),
    ],
    aten.var_mean.correction: [(picked(aten.var_mean.correction, i, [1], correction=0), A) for i in (0, 1)],
    aten.std.correction: [(lambda x: aten.std.correction(x, [-1]), A)],
    aten.max.dim: [(picked(aten.max.dim, 0, *args), A) for args in ((1,), (-2, True))],
    aten.amax.default: each(aten.amax.default, (), ([1],), ([0, -1], True), ([0, 2],), shape=(2, 3, 4)),
    aten.topk.default: [(picked(aten.topk.default, 0, *args), (3, 5)) for args in ((2,), (1, 0), (3, -1, False))],
    aten.max_pool2d_with_indices.default: [
        (picked(aten.max_pool2d_with_indices.default, 0, *args), shape)
        for args, shape in (([[2, 2]], (2, 3, 4, 6)), ([[3, 3], [2, 2], [1, 1]], (3, 4, 6)))
    ],
    aten.avg_pool2d.default: each(aten.avg_pool2d.default, ([2, 2],), ([3, 3], [2, 2], [1, 1]), shape=(2, 3, 4, 6)),
    aten._adaptive_avg_pool2d.default: each(aten._adaptive_avg_pool2d.default, ([2, 3],), shape=(3, 4, 6)),
    aten.nll_loss_forward.default: [
        (lambda x, w=w, r=r: aten.nll_loss_forward.default(x, torch.tensor([1, -5, 3]), w, r, -5)[0], A)
        for w in (None, torch.tensor([0.5, 1, 2, 3]).double())
        for r in (0, 1, 2)
    ],
    aten.nll_loss2d_forward.default: [
        (lambda x, r=r: aten.nll_loss2d_forward.default(x, ROWS[None], None, r, 0)[0], (1, 4, 3, 2)) for r in (0, 1, 2)
    ],
    aten.mse_loss.default: [((lambda x, y, r=r: aten.mse_loss.default(x, y, r)), A, A) for r in (0, 1, 2)],
    aten.view.default: each(aten.view.default, ([4, -1],), ([2, 1, 6],)),
    aten._unsafe_view.default: each(aten._unsafe_view.default, ([4, 3],)),
    aten.t.default: [(aten.t.default, A), (aten.t.default, (4,))],
    aten.transpose.int: each(aten.transpose.int, (0, -1), (-2, 1), shape=(2, 3, 4)),
    aten.permute.default: each(aten.permute.default, ([2, 0, 1],), ([-1, 0, -2],), shape=(2, 3, 4)),
    aten.unsqueeze.default: [
        *each(aten.unsqueeze.default, (0,), (-1,), (-2,)),
        *each(aten.unsqueeze.default, (0,), shape=S),
    ],
    aten.squeeze.default: each(aten.squeeze.default, (), shape=(1, 3, 1)),
    aten.squeeze.dim: each(aten.squeeze.dim, (0,), (-1,), (1,), shape=(1, 3, 1)),
    aten.squeeze.dims: each(aten.squeeze.dims, ([0, -1],), ([1, -3],), shape=(1, 3, 1)),
    aten.select.int: each(aten.select.int, (0, 1), (-1, -2)),
    aten.slice.Tensor: each(aten.slice.Tensor, (), (1, 1), (-1, 0, -1), (0, -2, 9223372036854775807, 2)),
    aten.split.Tensor: [(picked(aten.split.Tensor, i, 3, 1), A) for i in (0, 1)],
    aten.split_with_sizes.default: [(picked(aten.split_with_sizes.default, i, [1, 3], -1), A) for i in (0, 1)],
    aten.unbind.int: [(picked(aten.unbind.int, 1, *args), A) for args in ((), (-1,))],
    aten.expand.default: each(aten.expand.default, ([2, 3, -1],), ([3, 5],), shape=(3, 1))[:1]
    + each(aten.expand.default, ([3, 5],), ([2, -1, 5],), shape=(3, 1)),
    aten.as_strided.default: each(aten.as_strided.default, ([2, 2, 3], [4, 2, 1]), ([5], [2], 1)),
    aten.repeat.default: each(aten.repeat.default, ([2, 1, 3],)),
    aten.alias.default: each(aten.alias.default),
    aten.clone.default: [
        (aten.clone.default, A),
        (lambda x: aten.clone.default(x, memory_format=torch.contiguous_format), A),
    ],
    aten._to_copy.default: [(lambda x: aten._to_copy.default(x, dtype=torch.float64), A)],
    aten.view_as_complex.default: [(lambda x: aten.view_as_complex.default(x) * (1 + 2j), (3, 2))],
    aten.view_as_real.default: [(lambda x: aten.view_as_real.default(aten.view_as_complex.default(x) * 1j), (3, 2))],
    aten._fft_c2c.default: [
        (
            lambda x: torch.view_as_real(
                aten._fft_c2c.default(aten.view_as_complex.default(torch.stack([x, 2 * x], -1)), [0, 1], 0, True)
            ),
            A,
        )
    ],
    aten.sum.default: [*each(aten.sum.default), *each(aten.sum.default, shape=S)],
    aten.mean.default: [*each(aten.mean.default), *each(aten.mean.default, shape=S)],
    aten.sum.dim_IntList: each(aten.sum.dim_IntList, ([-1],), ([0, 1], True), (None,)),
    aten.mean.dim: each(aten.mean.dim, ([-1],), ([0, 1], True), (None,)),
    aten.cumsum.default: each(aten.cumsum.default, (0,), (-1,)),
    aten.flip.default: each(aten.flip.default, ([0, -1],)),
    aten.roll.default: each(aten.roll.default, ([2],), ([1, -1], [0, -1])),
    aten.constant_pad_nd.default: each(aten.constant_pad_nd.default, ([1, -2],), ([0, 0, 1, 1], 3.0)),
    aten.cat.default: [
        (lambda x, y: aten.cat.default([x, y], -1), A, (3, 2)),
        (lambda x: aten.cat.default([torch.empty(0).double(), x, x]), A),
    ],
    aten.stack.default: [(lambda x, y, d=d: aten.stack.default([x, y], d), A, A) for d in (0, 1, -1)],
    aten.gather.default: each(aten.gather.default, (1, ROWS), (-2, INDEX[None])),
    aten.index_select.default: each(aten.index_select.default, (0, INDEX), (-1, INDEX)),
    aten.index.Tensor: each(
        *(aten.index.Tensor, ([INDEX],), ([None, INDEX],), ([INDEX, INDEX],), ([INDEX, None, INDEX],)),
        *(([None, None, INDEX],), ([KEEP[:, :3]],), ([KEEP[0, :3], None, INDEX[:2]],)),
        shape=(3, 3, 3),
    ),
    aten.index_put.default: [
        (lambda x, y: aten.index_put.default(x, [INDEX], y, True), A, A),
        (lambda x, y: aten.index_put.default(x, [None, INDEX[:2]], y), A, S),
        (lambda x, y: aten.index_put.default(x, [KEEP], y), A, (8,)),
    ],
    aten.index_add.default: [
        (lambda x, y: aten.index_add.default(x, 0, INDEX, y), A, A),
        (lambda x, y: aten.index_add.default(x, -1, INDEX, y, alpha=0.5), A, (3, 3)),
    ],
    aten.scatter.src: [(lambda x, y: aten.scatter.src(x, 1, ROWS[1:, :1], y), A, A)],
    aten.scatter.value: each(aten.scatter.value, (-1, ROWS, 3.0)),
    aten.copy.default: [(by(aten.copy.default, lambda x, y: 0 * x + y), A, (4,))],
    aten.masked_fill.Scalar: [
        *each(aten.masked_fill.Scalar, (KEEP, 2.0), (KEEP[0], -math.inf)),
        *each(aten.masked_fill.Scalar, (KEEP, 2.0), shape=(4,)),
    ],
    aten.masked_fill.Tensor: [(lambda x, y: aten.masked_fill.Tensor(x, KEEP, y), A, S)],
    aten.where.self: [
        (lambda x, y, m=m: aten.where.self(m, x, y), *pair) for m in (KEEP, KEEP[0]) for pair in ((A, S), (S, A))
    ],
    aten.zeros_like.default: each(aten.zeros_like.default),
    aten.ones_like.default: each(aten.ones_like.default),
    aten.full_like.default: each(aten.full_like.default, (3.0,)),
    aten.new_zeros.default: each(aten.new_zeros.default, ([2],)),
    aten.new_ones.default: each(aten.new_ones.default, ([2],)),
    aten.new_full.default: each(aten.new_full.default, ([2], 3.0)),
}
# Rules whose results are constants, or whose derivatives are none; they have their own tests below.
CONSTANT = {func for func, found in RULES.items() if found is structure._value_only}
OTHERS = {aten.detach.default, aten.empty_like.default, aten.new_empty.default}
# What needs memory in order, for jets as for tensors.
IN_ORDER = {
    aten.view.default,
    aten.as_strided.default,
    aten.view_as_complex.default,
    aten._unsafe_view.default,
    aten.view_as_real.default,
    aten.native_group_norm.default,
}


@pytest.mark.parametrize("func", [func for func in RULES if func not in CONSTANT | OTHERS], ids=str)
def test_rule(func, monkeypatch):
    assert func in CASES, "a rule without a test: write its case, or delete it"
    rule, calls = RULES[func], []
    monkeypatch.setitem(RULES, func, lambda *args, **kwargs: calls.append(func) or rule(*args, **kwargs))
    for function, *shapes in CASES[func]:
        stacks = stacks_of(shapes)
        check(function, *stacks)
        if func not in IN_ORDER:
            # The axes in memory the other way round.
            check(
                function,
                *(
                    s.permute(0, *range(s.ndim - 1, 0, -1)).contiguous().permute(0, *range(s.ndim - 1, 0, -1))
                    for s in stacks
                ),
            )
    assert calls, "the case never reaches the rule"


def test_every_case_is_of_a_rule():
    assert set(CASES) <= set(RULES)


@pytest.mark.parametrize("func", sorted(CONSTANT, key=str), ids=str)
def test_constant_almost_everywhere(func):
    x, y = Jet(stack_of_shape(A, "x"), LAYOUT), Jet(stack_of_shape(A, "y"), LAYOUT)
    x = x[0, 0] if func is aten._local_scalar_dense.default else x
    given = {"dim": 1, "decimals": 1}
    needed = [a for a in func._schema.arguments[1:] if not a.has_default_value()]
    others = {a.name: y if str(a.type) == "Tensor" else 0.1 for a in needed if a.name == "other"}
    arguments = [x, *((given | others)[a.name] for a in needed if not a.kwarg_only)]
    keywords = {a.name: given[a.name] for a in needed if a.kwarg_only}
    result = func(*arguments, **keywords)
    assert not isinstance(result, Jet)
    values = func(*map(jet.value_of, arguments), **keywords)
    assert torch.equal(torch.as_tensor(result), torch.as_tensor(values))


def test_fresh_memory_and_detached_values():
    x = Jet(stack_of_shape(A, "x"), LAYOUT)
    for fresh in (torch.empty_like(x), x.new_empty(2, 3), x.new_zeros(3), torch.zeros_like(x)):
        assert fresh.stack[1:].eq(0).all()
    assert x.new_zeros(3, dtype=torch.long).dtype == torch.long
    assert type(x.new_zeros(3, dtype=torch.long)) is torch.Tensor
    assert type(x.detach()) is torch.Tensor
    assert torch.equal(x.detach(), x.value)
    assert type(x.long()) is torch.Tensor
