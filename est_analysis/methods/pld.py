"""PLD, Progressive Layer Dropping: layers are dropped more and more often, deep ones most, and the kept ones scaled up.

Source: Zhang and He 2020, arXiv 2010.13369. Layer i of L (from 1) is kept with probability
p_i(t) = 1 - (i/L) (1 - theta(t)), theta(t) = (1 - theta_bar) exp(-gamma t) + theta_bar, gamma = 100/T; one gate serves
attention and MLP, and each of the two outputs is divided by p_i. The paper counts t from 0, so here step number s of
1..T trains at t = s - 1 and the first one trains the full net. `deepspeed_compat` is what DeepSpeed's published BERT
code computes instead: layer i is drawn with the rate of layer i - 1, so the first is always kept, but scaled with its
own. Runs train with one mask for all ranks, where that code draws on each.

Cost: unless `theta` is given, theta_bar is the one with which the mean kept depth over all steps is exactly that of the
schedule: 0.534 for 6-8-10-12 of 12 layers and 25 % fewer layer FLOPs. The paper's 0.5 saves 26.8 % there. Fails, by
RaPTr's account, on the components of high degree of its polynomial experiment: PLD shrinks where RaPTr grows and hardly
ever trains the full net, which is what is evaluated, without any scaling. The shared gate makes the MLP see a scaled
attention output, so the scaling does not leave even the mean unchanged.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from est_analysis.errors import InputError
from est_analysis.methods.method import Method, require_depth_only
from est_analysis.subnet.mask import SubnetMask
from est_analysis.subnet.sample import sample_gated
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class PLD(Method):
    """Progressive Layer Dropping.

    Attributes:
        theta: theta_bar, the limit of theta(t), in (0, 1]; None solves for the schedule's mean depth.
        gamma_steps: gamma T, how fast theta falls to its limit; the paper's rule is 100.
        deepspeed_compat: index the rates as DeepSpeed's code does, not as the paper does.
    """

    default_schedule = "bert-raptr-6-8-10-12"
    has_stages = False
    theta: float | None = None
    gamma_steps: float = 100.0
    deepspeed_compat: bool = False

    def __post_init__(self) -> None:
        require_depth_only("pld", self.schedule)
        if not (_is_number(self.gamma_steps) and self.gamma_steps > 0):
            raise InputError(f"gamma_steps={self.gamma_steps} must be a number above 0; the paper's rule is 100")
        if self.theta is not None and not (_is_number(self.theta) and 0 < self.theta <= 1):
            raise InputError(f"theta={self.theta} must be a number above 0 and at most 1; the paper's is 0.5")

    def mask(self, step: int) -> SubnetMask | None:
        """Independent gates at this step's rates, kept layers scaled by 1/p_i; None while no layer can be dropped."""
        if self.theta_at(step) == 1:
            return None
        scales = [1 / rate for rate in self._rates(step, offset=1)]
        return sample_gated(self.keep_rates(step), sublayer_scales=scales, generator=self.generator(step))

    def expected_rates(self, step: int) -> Rates:
        """The mean of the layers' rates."""
        return Rates(layers=math.fsum(self.keep_rates(step)) / self.shape.num_layers)

    def keep_rates(self, step: int) -> list[float]:
        """The probability with which each layer runs in step number `step` (from 1), first layer first."""
        return self._rates(step, offset=0 if self.deepspeed_compat else 1)

    def _rates(self, step: int, *, offset: int) -> list[float]:
        layers, dropped = self.shape.num_layers, 1 - self.theta_at(step)
        return [1 - (i + offset) / layers * dropped for i in range(layers)]

    def theta_at(self, step: int) -> float:
        """theta(t) of step number `step` (from 1), t = step - 1; exactly 1 at the first."""
        return 1 + (1 - self.theta_bar) * math.expm1(-self.gamma_steps / self.schedule.total_steps * (step - 1))

    @cached_property
    def theta_bar(self) -> float:
        """The limit of theta(t): as given, or the one that keeps as many layers over the run as the schedule does.

        A layer is dropped with probability (i/L) (1 - theta_bar) (1 - exp(-gamma t)): proportional to 1 - theta_bar,
        so the share dropped at theta_bar = 0 gives it.

        Raises:
            InputError: even theta_bar = 0 drops too few layers.
        """
        if self.theta is not None:
            return self.theta
        wanted = 1 - self.schedule.mean_layers
        if wanted and wanted >= self._most_dropped:
            layers = self.shape.num_layers
            raise InputError(
                f"schedule '{self.schedule.name}' has a mean depth of {self.schedule.mean_layers * layers:.4g} of "
                f"{layers} layers, and pld with gamma_steps={self.gamma_steps:g} never goes below "
                f"{(1 - self._most_dropped) * layers:.4g}; use a deeper schedule or give theta"
            )
        return 1 - wanted / self._most_dropped if wanted else 1.0

    @cached_property
    def _most_dropped(self) -> float:
        """Mean share of layers dropped over steps and layers at theta_bar = 0."""
        layers, steps = self.shape.num_layers, self.schedule.total_steps
        by_depth = (layers - 1 if self.deepspeed_compat else layers + 1) / (2 * layers)  # mean of i/L
        gamma = self.gamma_steps / steps
        fading = math.expm1(-self.gamma_steps) / math.expm1(-gamma) / steps  # mean of exp(-gamma t), t = 0..T-1
        return by_depth * (1 - fading)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
