"""RaPTr, Random Part Training: each layer runs with probability p, the first and last always, p growing by stages to 1.

Source: arXiv 2402.05913; the definition of (p, I)-subnetworks as reported by its reviews. A schedule such as 6-8-10-12
gives mean depths; p follows as (n - |I|) / (L - |I|). Layers are independent, so the depth, and with it the time of a
step, varies within a stage. Cost: 25 % fewer layer FLOPs with 6-8-10-12 (1.33x). The basic algorithm does not rescale
kept layers; `output_scale` offers the variants. Fails, by its own account, without residual connections or layer norm,
where the loss jumps when the depth changes.
"""

from dataclasses import dataclass

from est_analysis.methods.method import StagedMethod, require_depth_only
from est_analysis.subnet.mask import SubnetMask
from est_analysis.subnet.sample import OutputScale, sample_bernoulli
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class RaPTr(StagedMethod):
    """Random Part Training over layers, with I = {first, last}."""

    default_schedule = "bert-raptr-6-8-10-12"
    output_scale: OutputScale = "none"

    def __post_init__(self) -> None:
        require_depth_only("raptr", self.schedule)

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
