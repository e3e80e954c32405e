"""What a training method is: the decision, each step, which part of the model trains."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.subnet.cost import Architecture
from est_analysis.subnet.mask import StackShape, SubnetMask
from est_analysis.subnet.schedule import Rates, Schedule

OptimizerGrowth = Literal["copy", "zero", "reset_all"]
DepthInit = Literal["zero", "copy"]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Layers that become copies of others between two steps.

    Attributes:
        copies: (target, source) layers, 0-based; every source is read before any target is written.
        optimizer: what the optimizer then knows of the targets. `copy`: what it knows of their sources, step counts
            included; `zero`: nothing, as of new layers; `reset_all`: it forgets every parameter of the model.
    """

    copies: tuple[tuple[int, int], ...]
    optimizer: OptimizerGrowth = "copy"


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """A model that is replaced, between two steps, by a larger one that computes the same (`train.enlarge`).

    Attributes:
        sym_break: standard deviation of the noise between the parts of a widened matrix, in units of its own rms.
        depth_init: new layers are copies. `zero`: with zero output projections, so that they change nothing, and new to
            the optimizer; `copy`: with all that they and the optimizer have, which changes the loss.
        stream: seed and names of the noise's stream (`rng.stream`).
    """

    sym_break: float
    depth_init: DepthInit
    stream: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A training method on a stack of a given shape, for a given schedule and seed.

    The loop knows nothing else of a method. `mask` and `growth` are pure functions of the step, so they may be called
    ahead of time, on every rank and after a resume, and always give the same. A subclass is one file and one line in
    `methods.METHODS`; its module docstring is the method's card, and fields that it adds are its options.

    Attributes:
        shape: the stack to sample from.
        schedule: stages in steps of this run (already rescaled).
        seed: seed of the run; masks draw from the streams ("mask", step).
    """

    default_schedule: ClassVar[str]
    has_stages: ClassVar[bool] = True  # whether what trains changes at the transitions of its course
    head_sampling = "within_groups"  # a field of the methods that sample heads

    shape: StackShape
    schedule: Schedule
    seed: int

    @abstractmethod
    def mask(self, step: int) -> SubnetMask | None:
        """The subnetwork of step number `step` (from 1); None is the full model."""

    @abstractmethod
    def expected_rates(self, step: int) -> Rates:
        """The expected share of the layers that `mask(step)` runs, and of an active one's heads and columns."""

    @property
    def course(self) -> Schedule:
        """The stages that a run goes through: those of the schedule, unless that is no more than a measure to it."""
        return self.schedule

    def growth(self, step: int) -> Growth | Enlargement | None:
        """What grows just before step number `step` (from 1). Only methods that change the model have any."""
        return None

    def model_mask(self, step: int) -> SubnetMask | None:
        """What counts as the model after step number `step`: None, all of it, unless some of it has yet to grow."""
        return None

    def existing(self, step: int) -> Rates:
        """The share of the final model's sizes that exists at step number `step` (from 1); all, unless it grows."""
        return Rates()

    def steps_to_train(self, architecture: Architecture) -> int:
        """Steps that a run takes on `architecture`: those of the schedule, unless the method stops earlier."""
        return self.schedule.total_steps

    def generator(self, step: int):
        """The generator of this step's mask."""
        return stream(self.seed, "mask", step)

    def check(self) -> "Method":
        """Draw once in every stage, so that rates that do not fit the shape are refused before training starts."""
        for before in (0, *self.course.transitions):
            self.mask(before + 1)
            self.growth(before + 1)
        return self


@dataclass(frozen=True, kw_only=True)
class StagedMethod(Method):
    """A method that draws from one law all through a stage of its schedule."""

    @abstractmethod
    def draw(self, rates: Rates, step: int) -> SubnetMask:
        """The subnetwork for step number `step` (from 1) in a stage that does sample, at `rates`."""

    def mask(self, step: int) -> SubnetMask | None:
        """A draw at the rates of the step's stage; None where they are all 1."""
        rates = self._rates[self.schedule.stage_at(step)]
        return None if rates.full else self.draw(rates, step)

    def expected_rates(self, step: int) -> Rates:
        """Those of the step's stage."""
        return self._rates[self.schedule.stage_at(step)]

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


def require_full_end(name: str, schedule: Schedule) -> None:
    """Refuse a schedule whose last stage is not the full model for a method that is defined to end with it."""
    if not schedule.spans[-1][1].full:
        raise InputError(
            f"schedule '{schedule.name}' never reaches the full model, and {name} ends with it; "
            "add a last stage with all rates 1"
        )
