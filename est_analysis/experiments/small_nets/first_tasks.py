"""The two tasks of the first experiments, for many seeds at once: handwritten digits and Boolean polynomials.

Batches are pure functions of (seed, step). The digits are few, so a net sees each many times; polynomials give fresh
points for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from est_analysis.data.boolean import BooleanPolynomial, random_polynomial
from est_analysis.data.digits import NUM_CLASSES, NUM_PIXELS, split_digits
from est_analysis.errors import unknown_name
from est_analysis.models.bank import sample_losses
from est_analysis.rng import stream

_BLOCK = 64  # steps whose draws are made together


@dataclass(frozen=True, kw_only=True)
class TaskSizes:
    """How large the tasks are.

    Attributes:
        batch_size: samples a step.
        held_out: samples on which nets are measured.
        dimension, max_degree, terms: of the polynomials: d, k and the number of terms of each degree.
    """

    batch_size: int = 64
    held_out: int = 500
    dimension: int = 12
    max_degree: int = 4
    terms: int = 4


class DigitsTask:
    """Which digit it is: cross-entropy in nats, and the accuracy in percent."""

    num_inputs, num_outputs = NUM_PIXELS, NUM_CLASSES

    def __init__(self, sizes: TaskSizes, seeds: Sequence[int]) -> None:
        self.sizes, self.seeds = sizes, seeds
        pairs = [split_digits(seed, held_out=sizes.held_out) for seed in seeds]
        self._x, self._y = (torch.stack([getattr(train, name) for train, _ in pairs]) for name in ("x", "y"))
        self.held_out = tuple(torch.stack([getattr(test, name) for _, test in pairs]) for name in ("x", "y"))
        self._block, self._index = -1, None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (N, B, 64) and classes (N, B) of step number `step`, drawn with replacement."""
        block, offset = divmod(step, _BLOCK)
        if block != self._block:
            size = (_BLOCK, self.sizes.batch_size)
            draws = [torch.randint(self._y.shape[1], size, generator=stream(one, "data", block)) for one in self.seeds]
            self._index, self._block = torch.stack(draws), block
        index = self._index[:, offset]
        return self._x.gather(1, index[:, :, None].expand(-1, -1, NUM_PIXELS)), self._y.gather(1, index)

    def measure(self, nets: Callable[[Tensor], Tensor]) -> dict[str, Sequence[float]]:
        """`validation_loss` and `accuracy` on held-out images, `training_loss` on all training images."""
        x, y = self.held_out
        outputs = nets(x)
        return {
            "validation_loss": sample_losses(outputs, y).mean(1).tolist(),
            "accuracy": (100 * (outputs.argmax(2) == y).double().mean(1)).tolist(),
            "training_loss": sample_losses(nets(self._x), self._y).mean(1).tolist(),
        }


class PolynomialTask:
    """A polynomial on {-1, +1}^d, one a seed: squared error, in parts of the polynomial's variance."""

    num_outputs = 1

    def __init__(self, sizes: TaskSizes, seeds: Sequence[int]) -> None:
        self.sizes, self.seeds, self.num_inputs = sizes, seeds, sizes.dimension
        self._polynomials = [self._polynomial(seed) for seed in seeds]
        self._block, self._drawn = -1, None
        points = torch.stack([self._points(seed, (sizes.held_out,), "held-out") for seed in seeds])
        self.held_out = (points, self._values(points))

    def _polynomial(self, seed: int) -> BooleanPolynomial:
        """Divided by its standard deviation: a loss of 1 is that of knowing nothing."""
        found = random_polynomial(
            dimension=self.sizes.dimension,
            max_degree=self.sizes.max_degree,
            terms=self.sizes.terms,
            generator=stream(seed, "polynomial"),
        )
        unit = found.coefficients / found.variance**0.5
        return BooleanPolynomial(dimension=found.dimension, supports=found.supports, coefficients=unit)

    def _points(self, seed: int, size: tuple[int, ...], *names: str | int) -> Tensor:
        draws = torch.randint(2, (*size, self.num_inputs), generator=stream(seed, *names))
        return (draws * 2 - 1).float()

    def _values(self, x: Tensor) -> Tensor:
        return torch.stack([f(one) for f, one in zip(self._polynomials, x, strict=True)]).float()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Fresh points (N, B, d) and values (N, B) of step number `step`."""
        block, offset = divmod(step, _BLOCK)
        if block != self._block:
            size = (_BLOCK, self.sizes.batch_size)
            self._drawn = torch.stack([self._points(seed, size, "data", block) for seed in self.seeds])
            self._block = block
        x = self._drawn[:, offset]
        return x, self._values(x)

    def measure(self, nets: Callable[[Tensor], Tensor]) -> dict[str, Sequence[float]]:
        """`validation_loss`: mean squared error on held-out points over the variance."""
        x, y = self.held_out
        return {"validation_loss": sample_losses(nets(x), y).mean(1).tolist()}


TASKS: dict[str, type[DigitsTask] | type[PolynomialTask]] = {"digits": DigitsTask, "polynomial": PolynomialTask}


def open_task(name: str, sizes: TaskSizes, seeds: Sequence[int]) -> DigitsTask | PolynomialTask:
    """The task called `name` for `seeds`.

    Raises:
        InputError: no such task.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name](sizes, seeds)
