"""What is made of the rules: writing in place, operators that torch takes apart, jets of parameters, refusals."""

import math
from pathlib import Path
from runpy import run_path

import pytest
import torch
import torch.nn.functional as F

from est_analysis.curvature.probes import Probes
from est_analysis.curvature.taylor import engine, jet  # noqa: F401
from est_analysis.curvature.taylor.jet import Jet, UnsupportedOperator

INDEX = torch.tensor([2, 0, 2])
SHARED = run_path(str(Path(__file__).parent / "chain_rule.py"))
A, CLOSE, KEEP, LAYOUT, P, ROWS, S = map(SHARED.get, ("A", "CLOSE", "KEEP", "LAYOUT", "P", "ROWS", "S"))
by, check, expected, normal, parameter, positive, randn, stack_of_shape, stacks_of, stored = map(
    SHARED.get,
    ("by", "check", "expected", "normal", "parameter", "positive", "randn", "stack_of_shape", "stacks_of", "stored"),
)


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
        stacks = stacks_of(shapes)
        inputs = [Jet(s.clone(), LAYOUT) if i in varying else s[0] for i, s in enumerate(stacks)]
        result = _inplace(change)(*inputs)
        torch.testing.assert_close(result.stack, expected(_inplace(change), stacks, varying), **CLOSE)
        assert all(torch.equal(x.stack, s) for x, s in zip(inputs, stacks, strict=True) if isinstance(x, Jet))


def test_parts_are_written_into_fresh_jets():
    def function(x, y):
        out = torch.zeros_like(x)
        out[0], out[1:] = y, x[1:] * y
        return out

    x, y = stacks_of([A, (4,)])
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
    check(function, *stacks_of(shapes))


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
