"""Constant stochastic depth: RaPTr's subnetworks at one keep rate from the first step to the last.

Source: Huang et al. 2016, arXiv 1603.09382, here with the first and last layer always kept and one rate for the others,
as the control that a review of RaPTr (arXiv 2402.05913) asked for: random dropping at the same cost without any growth.
Cost: its rate is the one whose mean depth is the mean depth of its schedule over all steps, so it costs what RaPTr
costs with that schedule, 25 % fewer layer FLOPs with 6-8-10-12. `output_scale` is RaPTr's. Fails to end where it is
evaluated: the full model is never trained as such, and nothing in the run makes up for that.
"""

from dataclasses import dataclass

from est_analysis.methods.method import Method, require_depth_only
from est_analysis.subnet.mask import SubnetMask
from est_analysis.subnet.sample import OutputScale, sample_bernoulli
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class StochasticDepth(Method):
    """Bernoulli layers at one constant rate, with I = {first, last}."""

    default_schedule = "bert-raptr-6-8-10-12"
    has_stages = False
    output_scale: OutputScale = "none"

    def __post_init__(self) -> None:
        require_depth_only("stochastic_depth", self.schedule)

    def mask(self, step: int) -> SubnetMask | None:
        """A (p, I)-subnetwork whose expected depth is the schedule's mean over all steps."""
        if self.schedule.mean_layers == 1:
            return None
        last = self.shape.num_layers - 1
        return sample_bernoulli(
            self.shape,
            self.schedule.mean_layers * self.shape.num_layers,
            always_kept={0, last},
            scale=self.output_scale,
            generator=self.generator(step),
        )

    def expected_rates(self, step: int) -> Rates:
        """The schedule's mean over all steps."""
        return Rates(layers=self.schedule.mean_layers)
