"""Sampling schedules as values: when each stage ends and which share of heads, MLP columns and layers it trains.

EST, Definition 3.1: S = (s^1, ..., s^T) are the steps at which stages end, P = [(p_H, p_M, p_L), ...] their rates.
RaPTr writes a schedule as mean depths such as 6-8-10-12; here that is p_L = depth / N_L, from which its sampler
derives the Bernoulli rate. Schedules are kept in their paper's own steps (or in units where a paper gives only
proportions) and are rescaled to any number of steps.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise

from est_analysis.errors import InputError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Sampling rates of one stage, each in (0, 1]: p_H, p_M and p_L of EST section 3.2.

    `hidden` is the share of the residual stream's width that exists: no schedule samples it, but methods that widen
    their model have expected rates with it.
    """

    heads: float = 1.0
    mlp: float = 1.0
    layers: float = 1.0
    hidden: float = 1.0

    def __post_init__(self) -> None:
        named = (("p_H", self.heads), ("p_M", self.mlp), ("p_L", self.layers), ("the width", self.hidden))
        for symbol, rate in named:
            if not 0 < rate <= 1:
                raise InputError(f"{symbol}={rate:g} is not a sampling rate; use a number above 0 and at most 1")

    @property
    def full(self) -> bool:
        """Whether this stage trains the complete model."""
        return self.heads == self.mlp == self.layers == self.hidden == 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: the steps up to and including number `until` (steps count from 1) train at `rates`."""

    until: int
    rates: Rates


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A sampling scheduler (EST Definition 3.1).

    Attributes:
        name: how it is called on the command line.
        source: where it comes from, and whether that could be verified.
        stages: in order; ends strictly increase and no rate ever decreases (increases, if `falling`).
        warmup: number of first steps that train the full model before the first stage begins (RaPTr's UL2 recipe).
        falling: the stages are in reverse order, from large to small: no published schedule, but the control that
            separates the order of sizes from random dropping.
    """

    name: str
    source: str
    stages: tuple[Stage, ...]
    warmup: int = 0
    falling: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError(f"schedule '{self.name}' has no stages; give at least one")
        ends = [self.warmup, *(stage.until for stage in self.stages)]
        if self.warmup < 0 or any(b <= a for a, b in pairwise(ends)):
            raise InputError(f"schedule '{self.name}' has stage ends {ends[1:]}; each must lie after the one before it")
        change, rule = ("grows", "only shrink when reversed") if self.falling else ("shrinks", "only grow")
        for before, after in pairwise(self.stages):
            for axis in ("heads", "mlp", "layers"):
                old, new = getattr(before.rates, axis), getattr(after.rates, axis)
                if new > old if self.falling else new < old:
                    raise InputError(
                        f"schedule '{self.name}' {change} {axis} from {old:g} to {new:g} at step {before.until}; "
                        f"subnetworks may {rule}"
                    )

    @property
    def total_steps(self) -> int:
        """Steps of the whole schedule."""
        return self.stages[-1].until

    @property
    def spans(self) -> tuple[tuple[int, Rates], ...]:
        """(number of steps, rates) of every stage in order, the full-model warm-up first if there is one."""
        starts = [self.warmup, *(stage.until for stage in self.stages)]
        spans = [(stage.until - start, stage.rates) for start, stage in zip(starts, self.stages, strict=False)]
        return ((self.warmup, Rates()), *spans) if self.warmup else tuple(spans)

    @property
    def transitions(self) -> tuple[int, ...]:
        """The steps after which the rates change, the end of training not included."""
        ends = tuple(stage.until for stage in self.stages[:-1])
        return (self.warmup, *ends) if self.warmup else ends

    @property
    def mean_layers(self) -> float:
        """Mean p_L over all steps: the share of the layers that a method that only drops layers runs."""
        return math.fsum(steps * rates.layers for steps, rates in self.spans) / self.total_steps

    def stage_at(self, step: int) -> int:
        """Index into `spans` of the stage that trains step number `step` (from 1; later steps stay in the last)."""
        return sum(step > end for end in self.transitions)

    def rescaled(self, total_steps: int) -> "Schedule":
        """The same schedule stretched to `total_steps`, every boundary rounded to the nearest step.

        Raises:
            InputError: so few steps that a stage would vanish.
        """

        def scaled(step: int) -> int:
            # Half up, in integers: no rounding surprise at any size.
            return (2 * step * total_steps + self.total_steps) // (2 * self.total_steps)

        ends = [scaled(self.warmup), *(scaled(stage.until) for stage in self.stages)]
        vanished = any(b <= a for a, b in pairwise(ends)) or (self.warmup and not ends[0])
        if vanished:
            raise InputError(
                f"{total_steps} steps are too few for the {len(self.spans)} stages of '{self.name}'; use more steps"
            )
        stages = tuple(replace(stage, until=end) for stage, end in zip(self.stages, ends[1:], strict=True))
        return replace(self, stages=stages, warmup=ends[0])

    def in_reverse(self) -> "Schedule":
        """The same stages in reverse order, each with its own length; a full-model warm-up stays first."""
        lengths = [b - a for a, b in pairwise([self.warmup, *(stage.until for stage in self.stages)])]
        ends = list(accumulate(reversed(lengths), initial=self.warmup))[1:]
        stages = tuple(replace(stage, until=end) for stage, end in zip(reversed(self.stages), ends, strict=True))
        return replace(self, stages=stages, falling=not self.falling)


def _est(name: str, source: str, *stages: tuple[int, float, float, float]) -> Schedule:
    return Schedule(
        name=name,
        source=source,
        stages=tuple(Stage(until=s, rates=Rates(heads=h, mlp=m, layers=n)) for s, h, m, n in stages),
    )


def _depths(name: str, source: str, num_layers: int, depths: tuple[int, ...], stage: int, warmup: int = 0) -> Schedule:
    """Equal stages of `stage` units each with the given mean depths."""
    stages = (
        Stage(until=warmup + (i + 1) * stage, rates=Rates(layers=depth / num_layers)) for i, depth in enumerate(depths)
    )
    return Schedule(name=name, source=source, stages=tuple(stages), warmup=warmup)


_K = 1000
_ALL = [
    _est("full", "the complete model at every step", (1, 1, 1, 1)),
    _est("table1", "EST Table 1", (1, 0.5, 0.5, 0.5), (2, 0.5, 0.5, 1), (3, 1, 1, 1)),
    _est("gpt2-est", "EST 4.1", (20 * _K, 0.5, 0.5, 0.5), (70 * _K, 0.5, 0.5, 1), (150 * _K, 1, 1, 1)),
    _est("gpt2-one-stage", "EST 4.1, EST-ONE-STAGE", (150 * _K, 0.5, 0.5, 1)),
    _est(
        "gpt2-constant-three-quarters",
        "ours: one rate of heads and columns all the way, the control for growth; on GPT-2 25 % fewer layer FLOPs",
        (150 * _K, 0.75, 0.75, 1),
    ),
    _est("gpt2-two-stage-a", "EST 4.1, EST-TWO-STAGE-A", (50 * _K, 0.5, 0.5, 1), (150 * _K, 1, 1, 1)),
    _est("gpt2-two-stage-b", "EST 4.1, EST-TWO-STAGE-B", (70 * _K, 0.5, 0.5, 1), (150 * _K, 1, 1, 1)),
    _est("gpt2-two-stage-c", "EST 4.1, EST-TWO-STAGE-C", (90 * _K, 0.5, 0.5, 1), (150 * _K, 1, 1, 1)),
    _est(
        "gpt2-two-stage-matched",
        "ours: the two-stage schedule at exactly EST's 26.7 %, which the paper does not test",
        (80 * _K, 0.5, 0.5, 1),
        (150 * _K, 1, 1, 1),
    ),
    _est(
        "gpt2-three-stage",
        "EST 4.1, EST-THREE-STAGE",
        (20 * _K, 0.5, 0.5, 0.5),
        (70 * _K, 1, 1, 0.5),
        (150 * _K, 1, 1, 1),
    ),
    _est(
        "gpt2-msg",
        "EST 4.1, the stages of its MSG baseline: layers, then heads, then the MLP",
        (20 * _K, 0.5, 0.5, 0.5),
        (40 * _K, 0.5, 0.5, 1),
        (70 * _K, 1, 0.5, 1),
        (150 * _K, 1, 1, 1),
    ),
    _est(
        "gpt2-staged",
        "EST 4.1, the stages of its Staged baseline: half of the hidden size until 50k steps; what that costs says the "
        "method `staged`, here it is half of heads and MLP",
        (50 * _K, 0.5, 0.5, 1),
        (150 * _K, 1, 1, 1),
    ),
    _est("tinyllama-est", "EST 4.2", (10 * _K, 0.5, 0.5, 0.5), (25 * _K, 0.5, 0.5, 1), (60 * _K, 1, 1, 1)),
    _depths("bert-raptr-6-8-10-12", "RaPTr, BERT-base: mean depths in equal stages", 12, (6, 8, 10, 12), 1),
    _depths(
        "bert-stacking-6-9-12",
        "gradual stacking (Reddi et al. 2023), BERT-base: depths in equal stages, lengths that give RaPTr's 25 %",
        12,
        (6, 9, 12),
        1,
    ),
    _est(
        "bert-stacking-3-6-12",
        "progressive stacking (Gong et al. 2019), BERT-base: 50k, 70k and 280k steps",
        (50 * _K, 1, 1, 0.25),
        (120 * _K, 1, 1, 0.5),
        (400 * _K, 1, 1, 1),
    ),
    _depths(
        "ul2-raptr-12-16-20-24",
        "RaPTr, UL2-1.6B: 30k steps of full-model warm-up are the paper's; the depths and 100k steps are unverified",
        24,
        (12, 16, 20, 24),
        17_500,
        warmup=30 * _K,
    ),
]
SCHEDULES: dict[str, Schedule] = {schedule.name: schedule for schedule in _ALL}


def find_schedule(name: str) -> Schedule:
    """The published schedule called `name`, or the one that `name` spells out (`parse_schedule`).

    Raises:
        InputError: no such schedule (the message lists those there are), or one that is not well formed.

    >>> find_schedule("gpt2-est").rescaled(1500).transitions
    (200, 700)
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    if ":" in name:
        return parse_schedule(name)
    raise unknown_name("schedule", name, SCHEDULES)


def parse_schedule(text: str) -> Schedule:
    """A schedule of one's own, stage by stage as END:HEADS,MLP,LAYERS with `;` between stages.

    Ends are steps, or any units: they are stretched to the run like those of every schedule. A rate may be a fraction.

    Raises:
        InputError: not of that form, a rate outside (0, 1], or ends or rates that decrease.

    >>> parse_schedule("2:0.5,0.5,0.5; 7:0.5,0.5,1; 15:1,1,1").spans == find_schedule("gpt2-est").rescaled(15).spans
    True
    >>> [rates.layers for _, rates in parse_schedule("1:1,1,1/3; 2:1,1,2/3; 3:1,1,1").spans]
    [0.3333333333333333, 0.6666666666666666, 1.0]
    """
    stages = []
    for part in text.split(";"):
        end, _, rates = part.partition(":")
        try:
            heads, mlp, layers = (float(Fraction(rate) if "/" in rate else rate) for rate in rates.split(","))
            stages.append((int(end), heads, mlp, layers))
        except (ValueError, ZeroDivisionError):
            raise InputError(
                f"'{part.strip()}' is not a stage; write END:HEADS,MLP,LAYERS with ';' between stages, "
                "such as '20:0.5,0.5,0.5; 70:0.5,0.5,1; 150:1,1,1'"
            ) from None
    return _est(text, "given on the command line", *stages)
