"""Uniform LayerDrop: every layer, first and last included, runs with the same probability from first step to last.

Source: Fan, Grave and Joulin 2019, arXiv 1909.11556, as fairseq's code draws it: independent layers of one rate and no
rescaling of those that run. Here it is the control for the set I of RaPTr, the layers that are always kept;
`stochastic_depth` keeps I and is otherwise the same. Runs train with one mask for all ranks.

Cost: its rate is the mean depth of its schedule over all steps, so it costs what RaPTr costs with that schedule, 25 %
fewer layer FLOPs with 6-8-10-12. A draw may keep nothing, and then only embedding and head train: at that rate once in
17 million steps of 12 layers, at 0.5 once in 64 steps of 6. It is not drawn again, which would change the rate. Fails
as `stochastic_depth` does: the full model, which is evaluated, is hardly ever trained as such; and the first layer is
missing as often as any other.
"""

from dataclasses import dataclass

from est_analysis.methods.method import Method, require_depth_only
from est_analysis.subnet.mask import SubnetMask
from est_analysis.subnet.sample import sample_bernoulli
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class LayerDropout(Method):
    """Bernoulli layers at one constant rate, none excepted."""

    default_schedule = "bert-raptr-6-8-10-12"
    has_stages = False

    def __post_init__(self) -> None:
        require_depth_only("layer_dropout", self.schedule)

    def mask(self, step: int) -> SubnetMask | None:
        """Each layer with probability `schedule.mean_layers`; None where that is 1."""
        rate, layers = self.schedule.mean_layers, self.shape.num_layers
        if rate == 1:
            return None
        return sample_bernoulli(self.shape, rate * layers, always_kept=(), generator=self.generator(step))

    def expected_rates(self, step: int) -> Rates:
        """The schedule's mean over all steps."""
        return Rates(layers=self.schedule.mean_layers)
