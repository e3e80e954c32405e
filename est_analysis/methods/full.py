"""Baseline: the full model at every step.

Source: what EST calls the original, or naive, training method. Cost: 1. It ignores its schedule.
"""

from dataclasses import dataclass

from est_analysis.methods.method import Method
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Train the complete model."""

    default_schedule = "full"
    has_stages = False

    def mask(self, step: int) -> None:
        """Everything, always."""
        return None

    def expected_rates(self, step: int) -> Rates:
        """All of it."""
        return Rates()
