"""Staged Training: a small model trains, then grows to twice the width, depth or both, keeping its loss and dynamics.

Source: Shen et al. 2022, arXiv 2203.06211, on the stages of EST's baseline (arXiv 2406.06962, section 4.1), half of the
width for a third of the steps. The rates of heads and of MLP columns, which must be equal, are the share of the width
that exists, that of layers the share of the depth; all are halvings. The small model is a model of its own: it is what
is evaluated, and what a checkpoint holds, until it grows. `train.enlarge` says how it is put beside itself, with
AdamW's moments. The learning rate and the batches go on, as in EST's use of it; Shen et al. choose the steps of growth
by the slope of the loss, count steps and warm up anew.

New layers are copies of all there are, put on top, with zero output projections (`depth_init`: `zero`, our choice).
They change nothing and train at once, which the paper's identity layers, whose norms are zero, hardly do. It is exact
where norms come first; in post-norm layers (BERT's) the copied norms act on what passes, and the loss jumps. `copy`
keeps the projections and so does not keep the loss; the optimizer then knows new layers as their sources, else not.

The two halves of a wider model have no reason to differ: without dropout they get the same gradients and stay the
same, but for rounding, and the model remains one of half the width. So `sym_break` puts noise N(0, (sym_break
rms(W))^2) between the halves of every matrix, 0.01 by default (our choice; the released code has its noise commented
out). The loss then moves, in small runs of ours by 1e-4 nats, and the halves slowly part ways; at 0 it stays to
rounding, the ablation. Weights between the halves get the gradients of those inside them, but have no second moments
and an old step count: AdamW's first update of each is up to (1 - beta1) / sqrt(1 - beta2) learning rates, 0.4 with our
betas and 3.2 at beta2 0.999.

Cost: 23.5 % fewer layer FLOPs. EST counts 16.7 %, as if half of the width cost half; its matrices cost a quarter.
Fails to keep the pace of learning: gradients halve but AdamW's steps do not, so that both halves together move the
function twice as far at the same learning rate.
"""

import math
from dataclasses import dataclass

from est_analysis.errors import InputError
from est_analysis.methods.method import DepthInit, Enlargement, Method, require_full_end
from est_analysis.subnet.sample import whole_count
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class Staged(Method):
    """Staged Training.

    Attributes:
        sym_break: standard deviation of the noise between the halves of a widened matrix, in units of its own rms.
        depth_init: how new layers begin (`methods.Enlargement`).
    """

    default_schedule = "gpt2-staged"
    head_sampling = "whole_groups"  # half of the width has half of the keys and values

    sym_break: float = 0.01
    depth_init: DepthInit = "zero"

    def __post_init__(self) -> None:
        require_full_end("staged", self.schedule)
        number = isinstance(self.sym_break, int | float) and not isinstance(self.sym_break, bool)
        if not (number and 0 <= self.sym_break < math.inf):
            raise InputError(f"sym_break={self.sym_break} must be a number of at least 0")
        if self.schedule.warmup:
            raise InputError(
                f"schedule '{self.schedule.name}' warms up with the full model, which staged cannot shrink again; "
                "use a schedule without a warm-up"
            )
        for _, rates in self.schedule.spans:
            self._require_sizes(rates)

    def _require_sizes(self, rates: Rates) -> None:
        """Refuse a stage that is no small model with whole sizes."""
        if rates.heads != rates.mlp:
            raise InputError(
                f"schedule '{self.schedule.name}' has p_H={rates.heads:g} and p_M={rates.mlp:g}, and staged grows all "
                "of the width at once; use equal rates"
            )
        for symbol, rate in (("p_H", rates.heads), ("p_L", rates.layers)):
            if math.frexp(rate)[0] != 0.5:
                raise InputError(
                    f"schedule '{self.schedule.name}' has {symbol}={rate:g}, and staged only doubles sizes; "
                    "use 1/2, 1/4, ... or 1"
                )
        shape = self.shape
        whole_count(rates.layers, shape.num_layers, symbol="p_L", unit="layers")
        whole_count(rates.mlp, shape.mlp_columns, symbol="p_M", unit="MLP columns")
        whole_count(rates.heads, shape.num_heads, symbol="p_H", unit="heads")
        if shape.num_kv_heads:
            whole_count(rates.heads, shape.num_kv_heads, symbol="p_H", unit="key/value heads")

    def mask(self, step: int) -> None:
        """All of the model that exists."""
        return None

    def existing(self, step: int) -> Rates:
        """The sizes of the step's stage."""
        _, rates = self.schedule.spans[self.schedule.stage_at(step)]
        return Rates(heads=rates.heads, mlp=rates.mlp, layers=rates.layers, hidden=rates.heads)

    def expected_rates(self, step: int) -> Rates:
        """All of what exists."""
        return self.existing(step)

    def growth(self, step: int) -> Enlargement | None:
        """Before the first step of a larger stage."""
        if self.existing(step - 1) == self.existing(step):
            return None
        return Enlargement(sym_break=self.sym_break, depth_init=self.depth_init, stream=(self.seed, "growth", step))
