"""Baseline: the full model at every step.

Source: what EST calls the original, or naive, training method. Cost: 1. It ignores its schedule.
"""

from dataclasses import dataclass

from est_analysis.methods.method import StagedMethod
from est_analysis.subnet.mask import SubnetMask
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class Full(StagedMethod):
    """Train the complete model."""

    default_schedule = "full"

    def draw(self, rates: Rates, step: int) -> SubnetMask:
        """Everything active."""
        return SubnetMask.full(self.shape.num_layers)
