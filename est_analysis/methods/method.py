"""What a training method is: the decision, each step, which part of the model trains."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.subnet.mask import StackShape, SubnetMask
from est_analysis.subnet.schedule import Rates, Schedule


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A training method on a stack of a given shape, for a given schedule and seed.

    The loop knows nothing else of a method. `mask` is a pure function of the step, so it may be called ahead of time,
    on every rank and after a resume, and always gives the same subnetwork. A subclass is one file and one line in
    `methods.METHODS`; its module docstring is the method's card.

    Attributes:
        shape: the stack to sample from.
        schedule: stages in steps of this run (already rescaled).
        seed: seed of the run; masks draw from the streams ("mask", step).
    """

    shape: StackShape
    schedule: Schedule
    seed: int

    @abstractmethod
    def draw(self, rates: Rates, step: int) -> SubnetMask:
        """The subnetwork for step number `step` (from 1) in a stage that does sample, at `rates`."""

    def mask(self, step: int) -> SubnetMask | None:
        """The subnetwork of step number `step` (from 1); None is the full model."""
        rates = self._rates[self.schedule.stage_at(step)]
        return None if rates.full else self.draw(rates, step)

    def generator(self, step: int):
        """The generator of this step's mask."""
        return stream(self.seed, "mask", step)

    def check(self) -> "Method":
        """Draw once in every stage, so that rates that do not fit the shape are refused before training starts."""
        for rates in self._rates:
            if not rates.full:
                self.draw(rates, 1)
        return self

    @cached_property
    def _rates(self) -> tuple[Rates, ...]:
        return tuple(rates for _, rates in self.schedule.spans)


def require_depth_only(name: str, schedule: Schedule) -> None:
    """Refuse a schedule that samples heads or columns for a method that only drops layers."""
    for _, rates in schedule.spans:
        if rates.heads != 1 or rates.mlp != 1:
            raise InputError(
                f"schedule '{schedule.name}' samples heads or MLP columns, {name} only layers; "
                "use a schedule such as bert-raptr-6-8-10-12"
            )
