"""RaPTr with its stages in reverse order, from the full depth down to the smallest: the control for the order of sizes.

Source: ours; RaPTr (arXiv 2402.05913) grows, and whatever random dropping does by itself this does too. Every stage
keeps its own number of steps, and a full-model warm-up stays where it is, first. Cost: exactly that of `raptr` with the
same schedule. Fails, if RaPTr's theory of Boolean polynomials holds, on their higher-order terms: dropping
more in the end loses what the whole depth had learned.
"""

from dataclasses import dataclass

from est_analysis.methods.method import StagedMethod, require_depth_only
from est_analysis.subnet.mask import SubnetMask
from est_analysis.subnet.sample import OutputScale, sample_bernoulli
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class RaPTrReversed(StagedMethod):
    """Random Part Training from large to small, with I = {first, last}. Give it the growing schedule."""

    default_schedule = "bert-raptr-6-8-10-12"
    output_scale: OutputScale = "none"

    def __post_init__(self) -> None:
        require_depth_only("raptr_reversed", self.schedule)
        if not self.schedule.falling:  # a copy of this method brings the schedule it already has
            object.__setattr__(self, "schedule", self.schedule.in_reverse())

    def draw(self, rates: Rates, step: int) -> SubnetMask:
        """A (p, I)-subnetwork whose expected depth is p_L N_L."""
        last = self.shape.num_layers - 1
        return sample_bernoulli(
            self.shape,
            rates.layers * self.shape.num_layers,
            always_kept={0, last},
            scale=self.output_scale,
            generator=self.generator(step),
        )
