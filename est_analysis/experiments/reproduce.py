"""What `est reproduce` measures: baseline, EST and RaPTr on real text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from est_analysis.experiments.facts import training_facts
from est_analysis.experiments.final_trace import measure_trace
from est_analysis.experiments.rate_sweep import Swept, try_rates
from est_analysis.experiments.recipes import Recipe
from est_analysis.experiments.run import prepare_data
from est_analysis.experiments.sampling_loss import measure_sampling_loss
from est_analysis.experiments.spec import TrainSpec, run_id
from est_analysis.experiments.study import Request
from est_analysis.experiments.sweep import Sweep, run_all
from est_analysis.train.settings import Execution


def measure(recipe: Recipe, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run of `recipe`, and what a report should know of how they were made."""
    scale = recipe.scale(request.scale)
    specs = recipe.specs(scale, corpus=request.corpus, seeds=request.seeds)
    workers = request.workers or (1 if scale.device.startswith("cuda") else 2)
    Execution(device=scale.device)  # a GPU that is not there is missed at once
    # It tokenizes: a bad corpus is refused before anything is announced.
    facts = training_facts(specs[0], corpus=request.corpus, seeds=(spec.seed for spec in specs))
    request.say(
        f"{recipe.name}, {request.scale} scale: {len(specs)} runs of {scale.steps} steps, {workers} at once "
        f"({scale.cost})"
    )
    sweep = Sweep(
        specs=specs,
        root=request.runs,
        workers=workers,
        device=scale.device,
        after=(partial(measure_trace, scale), partial(measure_sampling_loss, scale)),
    )
    if not scale.tried:
        return run_all(sweep), facts
    trials = [Trial(spec) for spec in specs]
    rows = try_rates(trials, partial(_run, replace(sweep, after=(), diverging=True)), say=request.say, by=("method",))
    return rows, facts | {"seeds": sorted({int(seed) for seed in rows["seed"]})}


@dataclass(frozen=True)
class Trial:
    """A run of the sweep of learning rates."""

    spec: TrainSpec

    @property
    def swept(self) -> Swept:
        """Its method."""
        return (self.spec.method,)


def _run(sweep: Sweep, trials: Sequence[Trial]) -> pd.DataFrame:
    """The rows of `trials`, with the column lr."""
    specs = [trial.spec for trial in trials]
    data = prepare_data(specs[0])
    rates = {run_id(spec, data_hash=data.hash): spec.settings.lr for spec in specs}
    rows = run_all(replace(sweep, specs=specs))
    return rows.assign(lr=rows["run_id"].map(rates))
