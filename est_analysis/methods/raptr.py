"""RaPTr, Random Part Training: each layer runs with probability p, the first and last always, p growing by stages to 1.

Source: arXiv 2402.05913; the definition of (p, I)-subnetworks as reported by its reviews. A schedule such as 6-8-10-12
gives mean depths; p follows as (n - |I|) / (L - |I|). Layers are independent, so the depth, and with it the time of a
step, varies within a stage. Cost: 25 % fewer layer FLOPs with 6-8-10-12 (1.33x). The basic algorithm does not rescale
kept layers; `output_scale` offers the variants; a post-norm layer normalises its sum, and there the factor is on all
that the layer changes. May fail, says a review, without residual connections or layer norm, where the loss may jump
when the depth changes.

The paper extends the idea to heads and width in an appendix that we could not read. Where a schedule samples them, such
as EST's, it is our choice to draw them as EST does: in every active layer anew, exactly p_H N_H heads and p_M N_M
columns, with outputs scaled by 1/p, and `head_sampling` as there. So RaPTr and EST with one schedule have the same
expected cost and differ in the law of the layers alone.
"""

from dataclasses import dataclass

from est_analysis.methods.method import StagedMethod
from est_analysis.subnet.mask import HeadSampling, SubnetMask
from est_analysis.subnet.sample import OutputScale, sample_bernoulli, sample_width
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class RaPTr(StagedMethod):
    """Random Part Training with I = {first, last}.

    Attributes:
        output_scale: factor on kept layers (`subnet.sample.sample_bernoulli`).
        head_sampling: EST's option of that name.
    """

    default_schedule = "bert-raptr-6-8-10-12"
    output_scale: OutputScale = "none"
    head_sampling: HeadSampling = "within_groups"

    def draw(self, rates: Rates, step: int) -> SubnetMask:
        """A (p, I)-subnetwork whose expected depth is p_L N_L, with heads and columns of its active layers."""
        generator = self.generator(step)
        depth = sample_bernoulli(
            self.shape,
            rates.layers * self.shape.num_layers,
            always_kept={0, self.shape.num_layers - 1},
            scale=self.output_scale,
            generator=generator,
        )
        return sample_width(depth, self.shape, rates, head_sampling=self.head_sampling, generator=generator)
