"""Every Taylor rule against nested forward derivatives; a rule that is registered and has no case here fails."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from est_analysis.curvature.head import HeadInputs
from est_analysis.curvature.loss import head_cross_entropy
from est_analysis.curvature.probes import Probes
from est_analysis.curvature.taylor import attention, cross_entropy, engine, jet, structure  # noqa: F401
from est_analysis.curvature.taylor.jet import FUNCTIONS, RULES, Jet, Layout, UnsupportedOperator
from est_analysis.rng import stream

aten = torch.ops.aten
LAYOUT = Layout(probes=4, groups=2)
# A few dozen float64 products and quotients of order 1, some of functions like 1/x^3 at 0.3: rounding of 1e-14 or so.
CLOSE = {"atol": 1e-11, "rtol": 1e-11}


def randn(*shape, name="x"):
    return torch.randn(*shape, generator=stream(0, name), dtype=torch.float64)


def positive(stack):
    stack[0] = stack[0].abs() + 0.3
    return stack


def stack_of_shape(shape, name, change=None):
    """Arbitrary coefficients, second derivatives included."""
    stack = randn(LAYOUT.size, *shape, name=name)
    return stack if change is None else change(stack)


def expected(function, stacks, varying):
    """The coefficients of `function` by the chain rule: c = f'[c] + sum_k f''[b_k, b_k], through torch.func.jvp."""

    def of_varying(*values):
        inputs = [stack[0] for stack in stacks]
        for index, value in zip(varying, values, strict=True):
            inputs[index] = value
        return function(*inputs)

    def along(coefficient):
        return tuple(stacks[index][coefficient] for index in varying)

    def slope(point, direction):
        return torch.func.jvp(of_varying, point, direction)[1]

    point = along(0)
    out = [of_varying(*point), *(slope(point, along(1 + k)) for k in range(4)), None, None]
    for group in range(2):
        total = slope(point, along(5 + group))
        for k in (2 * group, 2 * group + 1):
            direction = along(1 + k)
            total = total + torch.func.jvp(lambda *x, d=direction: slope(x, d), point, direction)[1]
        out[5 + group] = total
    return torch.stack(out)


def check(function, *stacks, varying=None, close=CLOSE):
    """`function` of jets has the coefficients of the chain rule, whichever of its arguments are constants."""
    everything = range(len(stacks)) if varying is None else varying
    subsets = [s for n in range(1, len(everything) + 1) for s in itertools.combinations(everything, n)]
    for subset in subsets:
        inputs = [Jet(stack.clone(), LAYOUT) if i in subset else stack[0] for i, stack in enumerate(stacks)]
        result = function(*inputs)
        assert isinstance(result, Jet), subset
        wanted = expected(function, stacks, subset)
        assert result.shape == wanted.shape[1:]
        assert result.dtype == wanted.dtype
        torch.testing.assert_close(result.stack, wanted, **close, msg=lambda text, s=subset: f"jets {s}: {text}")
        torch.testing.assert_close(result.value, wanted[0], **close)


# --- operators by themselves: a function of tensors and their shapes -------------------------------------------------

A, AA, P, S = (3, 4), (4, 3), ((3, 4), positive), ()
INDEX, ROWS = torch.tensor([2, 0, 2]), torch.tensor([[1, 3], [0, 0], [2, 1]])
KEEP = torch.tensor([[True, False, True, True], [False, True, False, True], [True, True, True, False]])


def each(op, *argument_lists, shape=A):
    return [((lambda x, args=args: op(x, *args)), shape) for args in argument_lists or ((),)]


def by(op, formula):
    """An operator whose own forward derivatives torch lacks, or gets wrong the second time, and its formula."""
    return lambda *inputs: (op if any(isinstance(x, Jet) for x in inputs) else formula)(*inputs)


def normal(x, axes, weight=None, bias=None, eps=0.1):
    """Layer norm over the last `axes`."""
    axes = tuple(range(-axes, 0))
    x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + eps).sqrt()
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


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


def _stacks(shapes):
    """The stacks of a case's tensors; a shape may come with a change of its values."""
    made = []
    for i, shape in enumerate(shapes):
        shape, change = shape if len(shape) == 2 and callable(shape[-1]) else (shape, None)
        made.append(stack_of_shape(shape, f"input {i}", change))
    return made


@pytest.mark.parametrize("func", [func for func in RULES if func not in CONSTANT | OTHERS], ids=str)
def test_rule(func, monkeypatch):
    assert func in CASES, "a rule without a test: write its case, or delete it"
    rule, calls = RULES[func], []
    monkeypatch.setitem(RULES, func, lambda *args, **kwargs: calls.append(func) or rule(*args, **kwargs))
    for function, *shapes in CASES[func]:
        stacks = _stacks(shapes)
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


# --- what is made of them ---------------------------------------------------------------------------------------------


def _inplace(change):
    def function(x, *others):
        x = x.clone()
        change(x, *others)
        return x

    return function


IN_PLACE = {
    "+=": (lambda x, y: x.add_(y, alpha=2), A, (4,)),
    "-=": (lambda x, y: x.sub_(y), A, A),
    "*=": (lambda x, y: x.mul_(y), A, (3, 1)),
    "/=": (lambda x, y: x.div_(y), A, P),
    "number": (lambda x: x.mul_(0.3).add_(1).clamp_(-0.5, 1).exp_(), A),
    "relu": (lambda x: F.relu(x, inplace=True), A),
    "fill": (lambda x: x[0].fill_(2.0), A),
    "zero": (lambda x: x[:, 1].zero_(), A),
    "masked": (lambda x: x.masked_fill_(KEEP, -1.0), A),
    "addmm": (lambda x, y, z: x.addmm_(y, z), A, (3, 2), (2, 4)),
    "addcmul": (lambda x, y, z: x.addcmul_(y, z, value=3), A, A, (4,)),
    "row": (lambda x, y: x[1].copy_(y), A, (4,)),
    "column": (lambda x, y: x.__setitem__((slice(None), 2), y), A, (3,)),
    "steps": (lambda x, y: x.__setitem__((..., slice(None, None, 2)), y), A, (3, 2)),
    "index": (lambda x, y: x.__setitem__(INDEX[:2], y), A, (2, 4)),
    "mask": (lambda x, y: x.__setitem__(KEEP, y), A, (8,)),
    "through a transpose": (lambda x, y: x.t()[1:3].mul_(y), A, (2, 3)),
    "through a flat view": (lambda x, y: x.view(-1)[3:7].add_(y), A, (4,)),
    "through two views": (lambda x, y: (x.view(2, 6)[1].mul_(y), x[0].add_(x[2])), A, (6,)),
    "through parts": (lambda x, y: [part.mul_(y) for part in x.chunk(2, -1)], A, S),
    "through unbound rows": (lambda x, y: x.unbind(0)[2].sub_(y), A, S),
    "index_add": (lambda x, y: x.index_add_(0, INDEX, y), A, A),
    "of itself": (by(lambda x: x.mul_(x), lambda x: x.copy_(x * x)), A),
}


@pytest.mark.parametrize(("change", "shapes"), [(c, s) for c, *s in IN_PLACE.values()], ids=IN_PLACE.keys())
def test_in_place(change, shapes):
    for varying in ([0], list(range(len(shapes)))):  # the target always varies
        stacks = _stacks(shapes)
        inputs = [Jet(s.clone(), LAYOUT) if i in varying else s[0] for i, s in enumerate(stacks)]
        result = _inplace(change)(*inputs)
        torch.testing.assert_close(result.stack, expected(_inplace(change), stacks, varying), **CLOSE)
        assert all(torch.equal(x.stack, s) for x, s in zip(inputs, stacks, strict=True) if isinstance(x, Jet))


def test_parts_are_written_into_fresh_jets():
    def function(x, y):
        out = torch.zeros_like(x)
        out[0], out[1:] = y, x[1:] * y
        return out

    x, y = _stacks([A, (4,)])
    out = function(Jet(x, LAYOUT), Jet(y, LAYOUT))
    torch.testing.assert_close(
        out.stack, expected(lambda x, y: torch.stack([y, *(x[1:] * y)]), [x, y], [0, 1]), **CLOSE
    )


COMPOSED = {
    "square": (torch.square, A),
    "difference": (lambda x: 1 - x, A),
    "quotient": (lambda x: 2 / x, P),
    "vector": (torch.mv, A, (4,)),
    "dot": (torch.dot, (4,), (4,)),
    "vector bias": (torch.addmv, (3,), A, (4,)),
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=0.5), A, (3, 1), (4,)),
    "addcdiv": (lambda x, y, z: torch.addcdiv(x, y, z, value=0.5), A, (3, 1), ((4,), positive)),
    "RMS norm": (lambda x, w: F.rms_norm(x, (4,), w, 0.1), A, (4,)),
    "matmul": (torch.matmul, (2, 1, 3, 4), (5, 4, 2)),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), (2, 3, 4), (2, 5, 4)),
    "triangles": (lambda x: x.tril(-1) + 2 * x.triu(1), (4, 4)),
    "softmax of masked": (lambda x: x.masked_fill(KEEP, -math.inf).softmax(-1), A),
    "unfold": (lambda x: F.unfold(x, 2), (1, 2, 3, 3)),
    "powers": (lambda x: x**3 + x.pow(2).mean(-1, keepdim=True), A),
    "flatten": (lambda x: x.transpose(0, 1).flatten(), A),
    "interleave": (lambda x: x.repeat_interleave(2, -1), A),
    "maximum": (lambda x: x.clamp(min=0.1).amax(), A),
    "norm": (lambda x: F.normalize(x, dim=-1), A),
    "where": (lambda x: torch.where(KEEP, 0.5, x) + torch.where(KEEP, x, 2.0), A),
    "reflected": (lambda x: F.pad(x, (1, 2), "reflect"), A),
}


@pytest.mark.parametrize(("function", "shapes"), [(f, s) for f, *s in COMPOSED.values()], ids=COMPOSED.keys())
def test_operators_that_torch_takes_apart(function, shapes):
    check(function, *_stacks(shapes))


def test_mixed_precision_promotes_as_torch_does():
    half = Jet(stack_of_shape(A, "x").bfloat16(), LAYOUT)
    single = torch.ones(4)
    for function in (torch.add, torch.sub, torch.mul, torch.div):
        for pair in ((half, single), (single, half), (half, Jet(single.expand(7, 4).clone(), LAYOUT)), (half, 2)):
            result = function(*pair)
            assert result.dtype == result.stack.dtype == function(*map(jet.value_of, pair)).dtype
    exact = Jet(half.stack.double(), LAYOUT)
    # 8 bits of bfloat16, rounded once.
    torch.testing.assert_close((half + single).stack.double(), (exact + single).stack, atol=1e-6, rtol=1e-6)


# --- parameters, whose derivatives nobody has stored ------------------------------------------------------------------


def parameter(*shape, name="w"):
    return Jet.parameter(randn(*shape, name=name), name, Probes(3, range(4)), LAYOUT)


def stored(jet):
    """The same coefficients, stored."""
    return Jet(torch.cat([jet.value[None], torch.stack(list(jet.directions())), torch.zeros(2, *jet.shape)]), LAYOUT)


VIEWS = {
    "row": lambda w: w[1],
    "column": lambda w: w[:, 2],
    "slice": lambda w: w[1:, 1:5:2],
    "transpose": lambda w: w.t(),
    "column of a transpose": lambda w: w.t()[1:3, 2],
    "flat": lambda w: w.view(-1)[5:],
    "heads": lambda w: w.view(4, 2, 3).permute(1, 0, 2)[1],
    "part": lambda w: w.chunk(3, dim=-1)[1],
    "unbound": lambda w: w.unbind(1)[4],
    "split": lambda w: w.split([1, 3])[1],
    "expanded": lambda w: w[None].expand(5, -1, -1)[3],
    "squeezed": lambda w: w[1:2].squeeze(0).unsqueeze(-1),
}


@pytest.mark.parametrize("at_once", [1 << 18, 0])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_of_a_parameter_has_the_parameters_own_signs(view, at_once, monkeypatch):
    monkeypatch.setattr(jet, "_AT_ONCE", at_once)
    w = parameter(4, 6)
    signs = Probes(3, range(4)).like("w", w.value)
    part = view(w)
    assert part.is_parameter
    assert torch.equal(torch.stack(list(part.directions())), torch.stack([view(s) for s in signs]))
    assert part._stack is None, "no need to store them"
    assert torch.equal(part.stack[0], view(w.value))
    assert torch.equal(part.stack[1:5], torch.stack([view(s) for s in signs]))
    assert part.stack[5:].eq(0).all()


def test_copies_of_parameters_are_no_parameters():
    w = parameter(4, 6)
    copy = w.t().reshape(-1)
    assert not copy.is_parameter
    assert torch.equal(copy.stack, stored(w).t().reshape(-1).stack)
    turned = Jet.parameter(randn(6, 4).t(), "w", Probes(3, range(4)), LAYOUT)
    assert torch.equal(turned.stack[1:5], w.stack[1:5]), "signs go by position, not by memory"
    with pytest.raises(UnsupportedOperator, match=r"as_strided.* of a transposed parameter"):
        w.t().as_strided((2,), (1,))


def test_writing_into_a_parameter_makes_it_a_tensor():
    w = parameter(4, 6)
    wanted = stored(w).mul_(2.0)
    w.mul_(2.0)
    assert not w.is_parameter
    assert torch.equal(w.stack, wanted.stack)


USES = {
    "linear": (lambda w, v, x: F.linear(x, w, v[:4]), (5, 6)),
    "linear of a vector": (lambda w, v, x: F.linear(x, w), (6,)),
    "linear of no rows": (lambda w, v, x: F.linear(x, w, v[:4]), (0, 6)),
    "addmm": (lambda w, v, x: torch.addmm(v, x, w), (5, 4)),
    "mm on the left": (lambda w, v, x: w @ x, (6, 3)),
    "bmm": (lambda w, v, x: torch.bmm(x, w.expand(2, 4, 6)), (2, 3, 4)),
    "both": (lambda w, v, x: torch.mm(w, w.t()) + x, (4, 4)),
    "embedding": (lambda w, v, x: F.embedding(ROWS, w) + x, (3, 2, 6)),
    "indexed": (lambda w, v, x: w[ROWS] * x, (3, 2, 6)),
    "norm": (by(lambda w, v, x: F.layer_norm(x, (6,), v, w[0], 0.1), lambda w, v, x: normal(x, 1, v, w[0])), (3, 6)),
    "convolution": (lambda w, v, x: F.conv1d(x, w.view(4, 3, 2), v[:4]), (2, 3, 5)),
    "scale": (lambda w, v, x: v * x, (4, 6)),
    "sum": (lambda w, v, x: x + w[0].exp(), (4, 6)),
}


@pytest.mark.parametrize("at_once", [1 << 18, 0])
@pytest.mark.parametrize(("function", "shape"), USES.values(), ids=USES.keys())
def test_a_parameter_acts_as_its_coefficients(function, shape, at_once, monkeypatch):
    monkeypatch.setattr(jet, "_AT_ONCE", at_once)
    w, v = parameter(4, 6), parameter(6, name="v")
    x = stack_of_shape(shape, "x")
    wanted = expected(function, [stored(w).stack, stored(v).stack, x], [0, 1, 2])
    torch.testing.assert_close(function(w, v, Jet(x, LAYOUT)).stack, wanted, **CLOSE)
    wanted = expected(function, [stored(w).stack, stored(v).stack, x], [0, 1])
    torch.testing.assert_close(function(w, v, x[0]).stack, wanted, **CLOSE)
    assert w.is_parameter


def test_the_padding_row_of_an_embedding_is_a_constant():
    rows = F.embedding(ROWS, parameter(4, 6), padding_idx=0)
    assert rows.stack[1:, ROWS == 0].eq(0).all()
    assert rows.stack[1:5, ROWS != 0].ne(0).all()
    assert torch.equal(rows.value, F.embedding(ROWS, parameter(4, 6).value))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_operator_without_a_rule_is_named():
    x = Jet(stack_of_shape(A, "x"), LAYOUT)
    for function, name in ((torch.special.bessel_j0, "bessel_j0"), (torch.linalg.inv, "linalg_inv")):
        with pytest.raises(UnsupportedOperator, match=rf"no Taylor rule for the operator .*{name}.*"):
            function(x[:, :3])


def test_a_constant_cannot_be_overwritten_by_a_jet():
    x, constant = Jet(stack_of_shape(A, "x"), LAYOUT), torch.zeros(A, dtype=torch.float64)
    for write in (lambda: constant.add_(x), lambda: constant.__setitem__(0, x[0]), lambda: constant.copy_(x)):
        with pytest.raises(UnsupportedOperator, match="writes what depends on parameters"):
            write()
    assert constant.eq(0).all()


# --- the rules of functions -------------------------------------------------------------------------------------------


def test_every_function_with_a_rule_is_tested_below():
    assert set(FUNCTIONS) == {F.linear, F.scaled_dot_product_attention, head_cross_entropy}


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_linear(shape):
    check(F.linear, *_stacks([shape, (5, 4), (5,)]))
    check(F.linear, *_stacks([shape, (5, 4)]))


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
    stacks = _stacks(shapes)
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

    check(attend, *_stacks([(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3), (2, 3, 5)]))


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
