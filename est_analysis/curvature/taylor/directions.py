"""First and second derivatives along directions that are given, rather than drawn as probes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Imported for the rules they register.
from est_analysis.curvature.taylor import attention, cross_entropy, normalise, pointwise, products, structure  # noqa: F401
from est_analysis.curvature.taylor.jet import Jet, Layout
from est_analysis.errors import InputError


@torch.no_grad()
def derivatives_along(
    function: Callable[..., Tensor], point: Sequence[Tensor], directions: Sequence[Tensor], *, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """d/dt and d2/dt2 of `function(*(point + t direction))` at t = 0, in one pass of jets, exact to rounding.

    Nested `torch.func.jvp` would do in principle, but torch's forward derivative of a layer norm is itself not
    differentiable in forward mode, and gives wrong numbers without a word.

    Args:
        function: of tensors shaped like those of `point`.
        point: where.
        directions: K of them, (K, *shape) for every tensor of the point.
        groups: second derivatives are summed over K / groups directions each; fewer groups are cheaper.

    Returns:
        First derivatives (K, *out), and second ones (groups, *out), each the mean over its group.

    Raises:
        InputError: a number of groups that does not divide that of directions.
        UnsupportedOperator: the function uses an operator without a rule.

    >>> at, along = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> first, second = derivatives_along(lambda x: (x * x).sum(), [at], [along], groups=2)
    >>> first.tolist(), second.tolist()
    ([2.0, 6.0], [2.0, 4.0])
    """
    count = len(directions[0])
    if groups < 1 or count % groups:
        raise InputError(f"{count} directions do not divide into {groups} groups; use a divisor")
    layout = Layout(count, groups)
    jets = [
        Jet(torch.cat([value[None], along.to(value), value.new_zeros(groups, *value.shape)]), layout)
        for value, along in zip(point, directions, strict=True)
    ]
    stack = function(*jets).stack
    return stack[1 : 1 + count], stack[1 + count :] / (count // groups)
