"""What the machinery of sampling costs in time: extracting heads and columns (EST B.2), drawing indices (EST B.3).

Steps of EST's second stage, which samples heads and columns, are timed in turn in one process, so that the machine's
moods hit all alike. A row's `step` is the round, its value seconds.

| metric | what is timed | masks |
|---|---|---|
| seconds_ready | training steps | drawn beforehand |
| seconds_inline | training steps | drawn in the step and moved to the device |
| seconds_ahead | training steps | from the index generator's thread |
| seconds_sampled | forward and backward | drawn beforehand |
| seconds_extracted | forward and backward | none: a model of nothing but what one mask keeps |

On a CPU one thread computes and leaves another core to the index generator, as a GPU leaves it the CPU.
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from est_analysis.experiments.runs.identity import name_of_training
from est_analysis.experiments.runs.store import SeedRow, collect, run_once
from est_analysis.experiments.study import Request, Study
from est_analysis.methods import Method, build_method
from est_analysis.models.config import ModelConfig
from est_analysis.models.families import build_model, find_preset
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.train.allocator import keep_freed_memory
from est_analysis.train.index_generator import IndexGenerator
from est_analysis.train.optim import build_optimizer
from est_analysis.train.settings import Execution, Precision, Settings

NUMERICS_VERSION = 1  # raise it when the same spec shall be timed otherwise
_WARM_UP = 3  # rounds
_DRAWN = 16  # masks at hand, taken in turn
_AHEAD = 8  # masks that the index generator draws at a time


@dataclass(frozen=True, kw_only=True)
class OverheadSpec:
    """Everything that decides what is timed.

    Attributes:
        preset, vocab_size: of a GPT-2.
        batch_size, seq_len: sequences a step, tokens a sequence; random ones.
        rounds: each contestant takes one step a round.
        precision: of activations.
        device, threads: where it computes.
        seed: of weights, tokens and masks.
    """

    preset: str
    vocab_size: int
    batch_size: int
    seq_len: int
    rounds: int
    precision: Precision = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    method: str = "est"
    schedule: str = "gpt2-est"

    def fields(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return name_of_training(self.fields(), data_hash="", numerics=NUMERICS_VERSION)


@dataclass(frozen=True, kw_only=True)
class OverheadScale:
    """How large it is measured: `seeds` runs of `spec`; `cost` in words."""

    spec: OverheadSpec
    seeds: int
    cost: str


_TINY = OverheadSpec(preset="tiny", vocab_size=256, batch_size=32, seq_len=128, rounds=150)
_GPT2 = OverheadSpec(preset="gpt2", vocab_size=50257, batch_size=4, seq_len=512, rounds=16)
SCALES = {
    "smoke": OverheadScale(
        spec=replace(_TINY, batch_size=2, seq_len=16, rounds=3),
        seeds=2,
        cost="seconds; shows that the code runs, nothing else",
    ),
    "quick": OverheadScale(spec=_TINY, seeds=5, cost="about five minutes on two cores with nothing else to do"),
    "report": OverheadScale(spec=_GPT2, seeds=5, cost="GPT-2 base: about 100 minutes on two idle cores"),
    "gpu": OverheadScale(
        spec=replace(_GPT2, batch_size=8, seq_len=1024, rounds=48, precision="bfloat16", device="cuda"),
        seeds=5,
        cost="meant for one H100; not yet measured there",
    ),
}


class _Contest:
    """The model, a batch of random tokens, and the steps to time."""

    def __init__(self, spec: OverheadSpec) -> None:
        self.spec = spec
        config: ModelConfig = find_preset(spec.preset, family="gpt2", vocab_size=spec.vocab_size)
        self.steps = 5 * -(-(spec.rounds + _WARM_UP) // 5)  # of the second stage, a third of the schedule
        self.method: Method = build_method(
            spec.method,
            shape=config.architecture(spec.seq_len).stack,
            total_steps=3 * self.steps,
            seed=spec.seed,
            schedule=spec.schedule,
        )
        self.first = self.method.course.transitions[0] + 1
        self.model = build_model(config).initialise(spec.seed).to(spec.device)
        self.optimizer = build_optimizer(self.model, Settings(steps=1, lr=1e-4))
        drawn = [self.draw(self.first + number) for number in range(min(_DRAWN, self.steps))]
        self.ready, self.sampled = cycle(drawn), cycle(drawn)
        self.extracted, self.kept = extract(self.model, drawn[0])
        tokens = torch.randint(
            spec.vocab_size, (spec.batch_size, spec.seq_len + 1), generator=stream(spec.seed, "tokens")
        ).to(spec.device)
        self.batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def draw(self, step: int) -> SubnetMask:
        mask = self.method.mask(step)
        return mask.to(self.spec.device)

    def both_ways(self, model: nn.Module, mask: SubnetMask) -> None:
        with torch.autocast(self.spec.device, dtype=torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
            loss = model.loss(*self.batch, mask=mask)
        loss.backward()

    def train(self, mask: SubnetMask) -> None:
        self.both_ways(self.model, mask)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def contestants(self, ahead: Callable[[], SubnetMask]) -> dict[str, Callable[[int], None]]:
        """What is timed, by metric: functions of the number of the round."""
        return {
            "seconds_ready": lambda number: self.train(next(self.ready)),
            "seconds_inline": lambda number: self.train(self.draw(self.first + number)),
            "seconds_ahead": lambda number: self.train(ahead()),
            "seconds_sampled": lambda number: self.both_ways(self.model, next(self.sampled)),
            "seconds_extracted": lambda number: self.both_ways(self.extracted, self.kept),
        }

    def seconds(self, contestant: Callable[[int], None], number: int) -> float:
        start = time.perf_counter()
        contestant(number)
        if self.spec.device != "cpu":
            torch.cuda.synchronize(self.spec.device)
        taken = time.perf_counter() - start
        for model in (self.model, self.extracted):
            model.zero_grad()  # outside the clock, so that no backward adds to what another left
        return taken


def extract(model: nn.Module, mask: SubnetMask) -> tuple[nn.Module, SubnetMask]:
    """A model of nothing but the heads and columns that `mask` keeps, and the mask that gives it the same output.

    Its parameters are copies, so extraction costs its steps nothing.
    """
    small = copy.deepcopy(model)
    for block, layer in zip(small.blocks, mask.layers, strict=True):
        for part, rows in ((block.attention, layer.heads), (block.mlp, layer.columns)):
            sampled = [name for name, _ in part.named_parameters() if name not in ("out_bias", "down_bias")]
            for name in sampled:
                setattr(part, name, nn.Parameter(getattr(part, name).detach()[rows].clone()))
    return small, replace(mask, layers=tuple(_all_of(layer) for layer in mask.layers))


def _all_of(layer: LayerMask | None) -> LayerMask | None:
    return layer and replace(layer, heads=None, columns=None)


def time_in_turn(spec: OverheadSpec) -> list[tuple[int, str, float]]:
    """(round, metric, seconds), the rounds after warming up."""
    contest, rows = _Contest(spec), []
    last = contest.first + contest.steps - 1
    with IndexGenerator(contest.method, contest.first, last, ahead=_AHEAD, device=spec.device) as masks:
        waiting = iter(masks)
        contestants = contest.contestants(lambda: next(waiting))
        for number in range(_WARM_UP + spec.rounds):
            for metric, contestant in contestants.items():
                seconds = contest.seconds(contestant, number)
                if number >= _WARM_UP:
                    rows.append((number - _WARM_UP, metric, seconds))
    return rows


def run_overhead(spec: OverheadSpec, root: Path) -> Path:
    """Time `spec` into `root/<run_id>`, or return it at once if that is finished; the run's folder.

    Raises:
        InputError: the folder cannot be used.
    """

    def rows(_: Path) -> list[SeedRow]:
        keep_freed_memory()
        threads = torch.get_num_threads()
        torch.set_num_threads(spec.threads)
        try:
            return [(spec.seed, *row) for row in time_in_turn(spec)]
        finally:
            torch.set_num_threads(threads)

    return run_once(root, spec, run_id=spec.run_id, steps=spec.rounds, rows=rows)


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run, and what a report should know of them."""
    scale = SCALES[request.scale]
    seeds = range(request.seeds or scale.seeds)
    Execution(device=scale.spec.device)  # a GPU that is not there is missed at once
    request.say(f"sampling-overhead, {request.scale} scale: {len(seeds)} runs of {scale.spec.rounds} rounds")
    folders = []
    for seed in seeds:
        folders.append(run_overhead(replace(scale.spec, seed=seed), request.runs))
        request.say(f"run {seed + 1} of {len(seeds)} is timed")
    return collect(folders), {"seeds": list(seeds), "spec": scale.spec.fields()}


STUDY = Study(
    name="sampling-overhead",
    description="what extracting heads and columns and drawing their indices cost a step, in time",
    version=1,
    scales={name: scale.cost for name, scale in SCALES.items()},
    measure=measure,
    on_text=False,
    in_processes=False,  # they would be timed in one another's way
)
