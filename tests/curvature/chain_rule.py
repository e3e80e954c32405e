"""What the tests of Taylor rules share: arbitrary jets, and their coefficients by the chain rule."""

import itertools

import torch

from est_analysis.curvature.probes import Probes
from est_analysis.curvature.taylor.jet import Jet, Layout
from est_analysis.rng import stream

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


A, P, S = (3, 4), ((3, 4), positive), ()
ROWS = torch.tensor([[1, 3], [0, 0], [2, 1]])
KEEP = torch.tensor([[True, False, True, True], [False, True, False, True], [True, True, True, False]])


def by(op, formula):
    """An operator whose own forward derivatives torch lacks, or gets wrong the second time, and its formula."""
    return lambda *inputs: (op if any(isinstance(x, Jet) for x in inputs) else formula)(*inputs)


def normal(x, axes, weight=None, bias=None, eps=0.1):
    """Layer norm over the last `axes`."""
    axes = tuple(range(-axes, 0))
    x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + eps).sqrt()
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def stacks_of(shapes):
    """The stacks of a case's tensors; a shape may come with a change of its values."""
    made = []
    for i, shape in enumerate(shapes):
        shape, change = shape if len(shape) == 2 and callable(shape[-1]) else (shape, None)
        made.append(stack_of_shape(shape, f"input {i}", change))
    return made


def parameter(*shape, name="w"):
    return Jet.parameter(randn(*shape, name=name), name, Probes(3, range(4)), LAYOUT)


def stored(jet):
    """The same coefficients, stored."""
    return Jet(torch.cat([jet.value[None], torch.stack(list(jet.directions())), torch.zeros(2, *jet.shape)]), LAYOUT)
