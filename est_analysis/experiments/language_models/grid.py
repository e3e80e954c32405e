"""Methods on four families at about a quarter fewer layer FLOPs, and what EST and RaPTr reach at several budgets.

Each contender has the learning rate that was best for it on that family (`grid_rates`, scale `rates`). The masked model
is the pre-norm BERT: with its norms after the additions the baseline does not train at rates that suit the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from est_analysis.experiments.language_models.contenders import CONTENDERS, Contender
from est_analysis.experiments.language_models.facts import training_facts
from est_analysis.experiments.language_models.grid_rates import (
    BEST_RATE,
    BEST_RATE_AT,
    BEST_RATE_LONGER,
    LONGER,
    Rates,
    best_rate,
)
from est_analysis.experiments.runs.rate_sweep import FIRST_SEED, RATES, try_rates
from est_analysis.experiments.runs.side_by_side import Entry, run_all
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.experiments.study import Request, Study
from est_analysis.train.settings import Settings

FRONTIER = ("full", "est", "raptr")


@dataclass(frozen=True, kw_only=True)
class GridScale:
    """How large the grid is run.

    Attributes:
        families: each with its preset `grid` and its usual objective.
        steps, batch_size, seq_len, validation_tokens: of every run.
        seeds: of every contender.
        rates: learning rates to try for every contender; empty for each one's best.
        best: these, by budget; another budget has those of budget 1.
        contenders: of each family, by their labels; all that there are for a family that is not named.
        budgets: shares of `steps` at which those of `frontier` are run besides, on the first family; swept too.
        frontier: contenders.
        cost: what to expect, in words.
    """

    families: tuple[str, ...]
    steps: int
    batch_size: int = 16
    seq_len: int = 128
    validation_tokens: int = 32_768
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = ()
    best: Mapping[float, Rates] = field(default_factory=lambda: {1.0: BEST_RATE, **BEST_RATE_AT})
    contenders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    budgets: tuple[float, ...] = ()
    frontier: tuple[str, ...] = FRONTIER
    cost: str


SCALES: dict[str, GridScale] = {
    "smoke": GridScale(
        families=("gpt2", "t5"),
        steps=60,
        batch_size=2,
        seq_len=16,
        validation_tokens=64,
        seeds=(0,),
        budgets=(2.0,),
        cost="under a minute; shows that the code runs, nothing else",
    ),
    "rates": GridScale(
        families=("gpt2", "llama", "megatron-bert", "t5"),
        steps=600,
        seq_len=64,
        seeds=(FIRST_SEED,),
        rates=RATES,
        budgets=(0.5, 2.0),
        cost="the learning-rate sweep, about two hours on two cores",
    ),
    "quick": GridScale(
        families=("gpt2", "llama", "megatron-bert", "t5"),
        steps=600,
        seq_len=64,
        budgets=(0.5, 2.0),
        cost="about three quarters of an hour on two cores",
    ),
    "report-rates": GridScale(
        families=tuple(LONGER),
        steps=2400,
        seq_len=64,
        seeds=(FIRST_SEED,),
        rates=RATES,
        contenders=LONGER,
        cost="the learning-rate sweep for `report`, about three hours on two cores",
    ),
    "report": GridScale(
        families=tuple(BEST_RATE_LONGER),
        steps=2400,
        seq_len=64,
        best={1.0: BEST_RATE_LONGER, 0.5: BEST_RATE_AT[2.0]},
        contenders=LONGER,
        budgets=(0.5,),
        frontier=("full",),
        cost="an hour and a half on two cores: GPT-2, four contenders on the other families, for four times the steps",
    ),
}


def entries(scale: GridScale, *, corpus: str, contenders: Mapping[str, Contender] = CONTENDERS) -> list[Entry]:
    """Every run of `scale`, the dearest first: those of `contenders` that it has, each at its best learning rate.

    At all rates that `scale` tries if it tries some.
    """
    labels = {family: scale.contenders.get(family, contenders) for family in scale.families}
    grid = [(family, label, 1.0) for family in scale.families for label in labels[family]]
    grid += [(scale.families[0], label, budget) for budget in scale.budgets for label in scale.frontier]
    found = [
        Entry(
            labels={"method": label, "family": family, "budget": budget},
            spec=_spec(scale, family, contenders[label], corpus, steps=round(budget * scale.steps), seed=seed, lr=lr),
        )
        for family, label, budget in grid
        for lr in scale.rates or (best_rate(family, label, scale.best.get(budget, scale.best[1.0])),)
        for seed in scale.seeds
    ]
    return sorted(found, key=lambda entry: -entry.labels["budget"])


def _spec(
    scale: GridScale, family: str, contender: Contender, corpus: str, *, steps: int, seed: int, lr: float
) -> TrainSpec:
    return TrainSpec(
        family=family,
        preset="grid",
        method=contender.method,
        schedule=contender.schedule,
        options=contender.options,
        corpus=corpus,
        batch_size=scale.batch_size,
        seq_len=scale.seq_len,
        validation_tokens=scale.validation_tokens,
        seed=seed,
        settings=Settings(
            steps=steps,
            lr=lr,
            warmup=steps // 10,
            log_every=max(1, steps // 20),
            eval_every=max(1, steps // 10),
            save_every=steps,
        ),
    )


def measure_entries(
    runs: Sequence[Entry], request: Request, *, name: str, sweep: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The labelled rows of `runs`, equal in batch and length of text, and what a report should know of them.

    A `sweep` goes on by the rule of `rate_sweep`.
    """
    spec = next(entry.spec for entry in runs if entry.labels["budget"] == 1)
    steps, workers = spec.settings.steps, request.processes
    request.say(f"{name}, {request.scale} scale: {len(runs)} runs of about {steps} steps, {workers} at once")
    run = partial(run_all, root=request.runs, workers=workers, diverging=sweep)
    rows = try_rates(runs, run, say=request.say) if sweep else run(runs)
    return rows, training_facts(spec, corpus=request.corpus, seeds=rows["seed"])


def notes(contenders: Mapping[str, Contender], rows: pd.DataFrame) -> dict[str, str]:
    """What each of the `contenders` that `rows` hold is there for."""
    ran = set(rows["method"])
    return {label: contender.note for label, contender in contenders.items() if label in ran}


def seeded(scale: GridScale, seeds: int | None) -> GridScale:
    """`scale` with as many `seeds`, from 0 or, of a sweep, from its first one; with its own if that is not said."""
    first = FIRST_SEED if scale.rates else 0
    return replace(scale, seeds=tuple(range(first, first + seeds))) if seeds else scale


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run of the grid, and what a report should know of how they were made."""
    scale = seeded(SCALES[request.scale], request.seeds)
    runs = entries(scale, corpus=request.corpus)
    rows, facts = measure_entries(runs, request, name="grid", sweep=bool(scale.rates))
    return rows, facts | {"contenders": notes(CONTENDERS, rows)}


STUDY = Study(
    name="grid",
    description="methods on four families at about a quarter fewer layer FLOPs, and the loss-against-FLOPs frontier",
    version=3,  # 3: rates of more seeds, and of each budget; 2: of each family
    scales={name: scale.cost for name, scale in SCALES.items()},
    measure=measure,
)
