"""What the stacking methods and MSG share: a model that grows on top, by copies of the layers that have trained.

Growing from n to m layers, new layer n + i starts as a copy of layer 2n - m + i (from 0), so that the last m - n layers
are put on top of themselves; of a doubled stack these are all layers. Layers that have not grown yet are bypassed, in
evaluation too, and hold their initial values (less weight decay, where skipped layers get zero gradients), but they are
part of the saved model: a checkpoint taken before the last transition has untrained layers on top.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

from est_analysis.errors import InputError
from est_analysis.methods.method import Growth, Method, OptimizerGrowth, require_depth_only, require_full_end
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.sample import whole_count
from est_analysis.subnet.schedule import Rates, Schedule


@dataclass(frozen=True, kw_only=True)
class GrowingOnTop(Method):
    """A method whose stack grows on top and ends full.

    Attributes:
        optimizer: what the optimizer knows of new layers (`methods.method.Growth`).
    """

    name: ClassVar[str]  # the method's, in messages

    optimizer: OptimizerGrowth

    @abstractmethod
    def require_growth(self, now: int, grown: int) -> None:
        """Refuse a schedule that grows from `now` to `grown` layers, if this method does not."""

    def __post_init__(self) -> None:
        require_full_end(self.name, self.schedule)
        if self.schedule.warmup:
            raise InputError(
                f"schedule '{self.schedule.name}' warms up with the full model, which {self.name} cannot shrink "
                "again; use a schedule without a warm-up"
            )
        for now, grown in pairwise(self.depths):
            if now != grown:
                self.require_growth(now, grown)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Layers that train in each stage."""
        layers = self.shape.num_layers
        return tuple(whole_count(rates.layers, layers, symbol="p_L", unit="layers") for _, rates in self.schedule.spans)

    def growth(self, step: int) -> Growth | None:
        """Before the first step of a deeper stage: the new layers as copies of the last ones."""
        now, grown = (self.depths[self.schedule.stage_at(at)] for at in (step - 1, step))
        if now == grown:
            return None
        copies = tuple((now + i, 2 * now - grown + i) for i in range(grown - now))
        return Growth(copies=copies, optimizer=self.optimizer)


@dataclass(frozen=True, kw_only=True)
class Stacking(GrowingOnTop):
    """Stacking of whole layers."""

    def __post_init__(self) -> None:
        require_depth_only(self.name, self.schedule)
        super().__post_init__()

    def mask(self, step: int) -> SubnetMask | None:
        """The first layers whole, the others bypassed."""
        depth, layers = self.depths[self.schedule.stage_at(step)], self.shape.num_layers
        if depth == layers:
            return None
        return SubnetMask(layers=(LayerMask(),) * depth + (None,) * (layers - depth))

    def expected_rates(self, step: int) -> Rates:
        """The depth of the step's stage."""
        return Rates(layers=self.depths[self.schedule.stage_at(step)] / self.shape.num_layers)

    def model_mask(self, step: int) -> SubnetMask | None:
        """The layers there are."""
        return self.mask(max(step, 1))


def require_sources(schedule: Schedule, now: int, grown: int) -> None:
    """Refuse a growth from `now` to `grown` layers that has fewer layers to copy than new ones."""
    if grown > 2 * now:
        raise InputError(
            f"schedule '{schedule.name}' grows from {now} to {grown} layers, but has only {now} to copy; "
            f"use a stage of at most {2 * now} layers between them"
        )
