"""What `est reproduce` measures: baseline, EST and RaPTr on real text."""

from functools import partial
from typing import Any

import pandas as pd

from est_analysis.experiments.language_models.facts import training_facts
from est_analysis.experiments.language_models.final_trace import measure_trace
from est_analysis.experiments.language_models.reproduce_scales import SCALES, specs
from est_analysis.experiments.language_models.sampling_loss import measure_sampling_loss
from est_analysis.experiments.runs.rate_sweep import try_rates
from est_analysis.experiments.runs.side_by_side import Entry, run_all
from est_analysis.experiments.study import Request, Study
from est_analysis.train.settings import Execution


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run, and what a report should know of how they were made."""
    scale = SCALES[request.scale]
    runs = specs(scale, corpus=request.corpus, seeds=request.seeds)
    workers = request.workers or (1 if scale.device.startswith("cuda") else request.processes)
    Execution(device=scale.device)  # a GPU that is not there is missed at once
    # It tokenizes: a bad corpus is refused before anything is announced.
    facts = training_facts(runs[0], corpus=request.corpus, seeds=(spec.seed for spec in runs))
    request.say(
        f"reproduce, {request.scale} scale: {len(runs)} runs of {scale.steps} steps, {workers} at once ({scale.cost})"
    )
    run = partial(run_all, root=request.runs, workers=workers, device=scale.device, diverging=bool(scale.tried))
    if scale.tried:
        trials = [Entry(spec=spec, labels={"method": spec.method}) for spec in runs]
        rows = try_rates(trials, run, say=request.say, by=("method",))
        return rows, facts | {"seeds": sorted({int(seed) for seed in rows["seed"]})}
    after = (partial(measure_trace, scale), partial(measure_sampling_loss, scale))
    return run([Entry(spec=spec, after=after) for spec in runs]), facts


STUDY = Study(
    name="reproduce",
    description="baseline, EST and RaPTr at equal steps on real text: losses, costs, step times, Hessian traces",
    version=3,  # 3: the longer runs at rates of their own sweep
    scales={name: scale.cost for name, scale in SCALES.items()},
    measure=measure,
)
