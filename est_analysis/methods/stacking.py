"""Gradual stacking: the first layers train, and at each transition copies of the last of them are put on top.

Source: Reddi et al. 2023, ICML, PMLR 202:14553. Growing from n to m layers, new layer n + i starts as a copy of layer
2n - m + i (from 0): 6-9-12 copies layers 4, 5, 6 (from 1) to 7, 8, 9 and those to 10, 11, 12. Stages come from the same
depth schedules that RaPTr uses, with depths that are whole layers and at most double; on 6 layers bert-raptr-6-8-10-12
is 3-4-5-6, where 6-9-12 would be 3-4.5-6. Whether the paper copies the optimizer's moments is not known: `optimizer`
says so, `copy` by default. It also warms the learning rate up again in each stage; here that follows one schedule over
the run.

Cost: 25 % fewer layer FLOPs with 6-9-12 in equal stages, as RaPTr with 6-8-10-12. Layers that have not grown yet are
bypassed, in evaluation too, and hold their initial values (less weight decay, where skipped layers get zero gradients),
but they are part of the saved model: a checkpoint taken before the last transition has untrained layers on top. Fails
to keep the loss at a transition: copied layers change the function, and the loss first jumps up.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import get_args

from est_analysis.errors import InputError, unknown_name
from est_analysis.methods.method import Growth, Method, OptimizerGrowth, require_depth_only
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.sample import whole_count


@dataclass(frozen=True, kw_only=True)
class GradualStacking(Method):
    """Gradual stacking of whole layers.

    Attributes:
        optimizer: what the optimizer knows of new layers (`methods.method.Growth`).
    """

    default_schedule = "bert-stacking-6-9-12"
    optimizer: OptimizerGrowth = "copy"

    def __post_init__(self) -> None:
        require_depth_only("gradual_stacking", self.schedule)
        if self.optimizer not in get_args(OptimizerGrowth):
            raise unknown_name("optimizer growth", self.optimizer, get_args(OptimizerGrowth))
        if self.schedule.warmup:
            raise InputError(
                f"schedule '{self.schedule.name}' warms up with the full model, which gradual_stacking cannot shrink "
                "again; use a schedule without a warm-up"
            )
        for now, grown in pairwise(self.depths):
            if grown > 2 * now:
                raise InputError(
                    f"schedule '{self.schedule.name}' grows from {now} to {grown} layers, but has only {now} to copy; "
                    f"use a stage of at most {2 * now} layers between them"
                )

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Layers that train in each stage."""
        layers = self.shape.num_layers
        return tuple(whole_count(rates.layers, layers, symbol="p_L", unit="layers") for _, rates in self.schedule.spans)

    def mask(self, step: int) -> SubnetMask | None:
        """The first layers whole, the others bypassed."""
        depth, layers = self.depths[self.schedule.stage_at(step)], self.shape.num_layers
        if depth == layers:
            return None
        return SubnetMask(layers=(LayerMask(),) * depth + (None,) * (layers - depth))

    def model_mask(self, step: int) -> SubnetMask | None:
        """The layers there are."""
        return self.mask(max(step, 1))

    def growth(self, step: int) -> Growth | None:
        """Before the first step of a deeper stage: the new layers as copies of the last ones."""
        now, grown = (self.depths[self.schedule.stage_at(at)] for at in (step - 1, step))
        if now == grown:
            return None
        copies = tuple((now + i, 2 * now - grown + i) for i in range(grown - now))
        return Growth(copies=copies, optimizer=self.optimizer)
