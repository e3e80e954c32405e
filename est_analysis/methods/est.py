"""EST, Evolving Subnetwork Training: fixed-size random heads, MLP columns and layers, growing to the full model.

Source: arXiv 2406.06962, section 3, Algorithm 1. Each step draws p_L N_L layers, and in each of them p_H N_H heads and
p_M N_M columns; attention and MLP outputs are scaled by 1/p (eqs. 5, 6), layers are not (eq. 7). One mask serves the
whole batch of a step, on every rank. Cost: with the practical schedule 26.7 % fewer layer FLOPs, 19.4 % fewer in all
on GPT-2. Fails when the last, full stage is too short (EST-ONE-STAGE: loss 3.36 against 3.06), and saves little where
the LM head is most of the model. Rates must give whole numbers of heads, columns and layers. Where query heads share
keys and values the paper does not say which heads it draws; `head_sampling` names the two readings: the same number in
every group (all keys and values are computed), or whole groups (theirs are sampled too, 0.3 points more on TinyLlama).
Two options take a piece of EST away, to see what it does: `law` draws every unit by itself, `normalise` leaves out the
factors 1/p.
"""

from dataclasses import dataclass, field

from est_analysis.added import ADDED_LATER
from est_analysis.methods.method import StagedMethod
from est_analysis.subnet.mask import HeadSampling, SubnetMask
from est_analysis.subnet.sample import SamplingLaw, sample_units
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class EST(StagedMethod):
    """Evolving Subnetwork Training.

    Attributes:
        head_sampling: `within_groups` or `whole_groups`, for heads that share keys and values
            (`subnet.sample.sample_fixed_size`); without groups both are the same.
        law: `fixed_size`, exactly p N units as in the paper, or `bernoulli`, each unit by itself with probability p.
        normalise: divide attention and MLP outputs by p (eqs. 5, 6), which the paper calls crucial.
    """

    default_schedule = "gpt2-est"
    head_sampling: HeadSampling = "within_groups"
    law: SamplingLaw = field(default="fixed_size", metadata=ADDED_LATER)
    normalise: bool = field(default=True, metadata=ADDED_LATER)

    def draw(self, rates: Rates, step: int) -> SubnetMask:
        """A subset on every axis."""
        mask = sample_units(
            self.shape, rates, law=self.law, head_sampling=self.head_sampling, generator=self.generator(step)
        )
        return mask if self.normalise else mask.unscaled()
