"""What `est reproduce` measures: baseline, EST and RaPTr on real text."""

from functools import partial
from typing import Any

import pandas as pd

from est_analysis.experiments.facts import training_facts
from est_analysis.experiments.final_trace import measure_trace
from est_analysis.experiments.recipes import Recipe
from est_analysis.experiments.sampling_loss import measure_sampling_loss
from est_analysis.experiments.study import Request
from est_analysis.experiments.sweep import Sweep, run_all


def measure(recipe: Recipe, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run of `recipe`, and what a report should know of how they were made."""
    scale = recipe.scale(request.scale)
    specs = recipe.specs(scale, corpus=request.corpus, seeds=request.seeds)
    workers = request.workers or (1 if scale.device.startswith("cuda") else 2)
    # It tokenizes: a bad corpus is refused before anything is announced.
    facts = training_facts(specs[0], corpus=request.corpus, seeds=(spec.seed for spec in specs))
    request.say(
        f"{recipe.name}, {request.scale} scale: {len(specs)} runs of {scale.steps} steps, {workers} at once "
        f"({scale.cost})"
    )
    frame = run_all(
        Sweep(
            specs=specs,
            root=request.runs,
            workers=workers,
            device=scale.device,
            after=(partial(measure_trace, scale), partial(measure_sampling_loss, scale)),
        )
    )
    return frame, facts
