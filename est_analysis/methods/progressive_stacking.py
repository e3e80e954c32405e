"""Progressive stacking: a shallow model trains, then a copy of the whole of it is put on top, until it is deep enough.

Source: Gong et al. 2019, ICML, PMLR 97:2337. Layer i of a stack of L is copied to i and i + L, so 3-6-12 doubles twice,
after 50k and 120k of 400k steps. The optimizer starts anew in each stage (`optimizer`: `reset_all`, of the whole model)
and the learning rate goes on. Depths must double, and be whole layers.

Cost: 18.1 % fewer layer FLOPs with 3-6-12. What a checkpoint holds before the last transition, `methods.stacking` says.
Fails as gradual stacking does to keep the loss at a transition, with bigger jumps, since the depth doubles.
"""

from dataclasses import dataclass

from est_analysis.errors import InputError
from est_analysis.methods.method import OptimizerGrowth
from est_analysis.methods.stacking import Stacking


@dataclass(frozen=True, kw_only=True)
class ProgressiveStacking(Stacking):
    """Stacking of all layers."""

    name = "progressive_stacking"
    default_schedule = "bert-stacking-3-6-12"
    optimizer: OptimizerGrowth = "reset_all"

    def require_growth(self, now: int, grown: int) -> None:
        """Twice the depth, neither more nor less."""
        if grown != 2 * now:
            raise InputError(
                f"schedule '{self.schedule.name}' grows from {now} to {grown} layers, and progressive_stacking only "
                f"doubles; use {2 * now} layers, or gradual_stacking"
            )
