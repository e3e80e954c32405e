"""What `est reproduce` measures: baseline, EST and RaPTr on real text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from est_analysis.experiments.facts import training_facts
from est_analysis.experiments.final_trace import measure_trace
from est_analysis.experiments.rate_sweep import Swept, try_rates
from est_analysis.experiments.reproduce_scales import SCALES, specs
from est_analysis.experiments.run import prepare_data
from est_analysis.experiments.sampling_loss import measure_sampling_loss
from est_analysis.experiments.spec import TrainSpec, run_id
from est_analysis.experiments.study import Request, Study
from est_analysis.experiments.sweep import Sweep, run_all
from est_analysis.train.settings import Execution


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run, and what a report should know of how they were made."""
    scale = SCALES[request.scale]
    runs = specs(scale, corpus=request.corpus, seeds=request.seeds)
    workers = request.workers or (1 if scale.device.startswith("cuda") else 2)
    Execution(device=scale.device)  # a GPU that is not there is missed at once
    # It tokenizes: a bad corpus is refused before anything is announced.
    facts = training_facts(runs[0], corpus=request.corpus, seeds=(spec.seed for spec in runs))
    request.say(
        f"reproduce, {request.scale} scale: {len(runs)} runs of {scale.steps} steps, {workers} at once ({scale.cost})"
    )
    sweep = Sweep(
        specs=runs,
        root=request.runs,
        workers=workers,
        device=scale.device,
        after=(partial(measure_trace, scale), partial(measure_sampling_loss, scale)),
    )
    if not scale.tried:
        return run_all(sweep), facts
    trials = [Trial(spec) for spec in runs]
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
    tried = [trial.spec for trial in trials]
    data = prepare_data(tried[0])
    rates = {run_id(spec, data_hash=data.hash): spec.settings.lr for spec in tried}
    rows = run_all(replace(sweep, specs=tried))
    return rows.assign(lr=rows["run_id"].map(rates))


STUDY = Study(
    name="reproduce",
    description="baseline, EST and RaPTr at equal steps on real text: losses, costs, step times, Hessian traces",
    version=2,
    scales={name: scale.cost for name, scale in SCALES.items()},
    measure=measure,
)
