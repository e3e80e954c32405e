"""What `est reproduce` measures: baseline, EST and RaPTr on real text."""

from functools import partial
from typing import Any

import pandas as pd

from est_analysis.experiments.final_trace import measure_trace
from est_analysis.experiments.recipes import Recipe
from est_analysis.experiments.run import num_parameters
from est_analysis.experiments.sampling_loss import measure_sampling_loss
from est_analysis.experiments.study import Request
from est_analysis.experiments.sweep import Sweep, run_all


def measure(recipe: Recipe, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run of `recipe`, and what a report should know of how they were made."""
    scale = recipe.scale(request.scale)
    specs = recipe.specs(scale, corpus=request.corpus, seeds=request.seeds)
    workers = request.workers or (1 if scale.device.startswith("cuda") else 2)
    size = num_parameters(specs[0])  # tokenizes: a bad corpus is refused before anything is announced
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
    tokens = scale.steps * scale.batch_size * scale.seq_len
    return frame, {
        "corpus": request.corpus,
        "num_parameters": size,
        "tokens_per_run": tokens,
        "tokens_per_parameter": tokens / size,
        "seeds": sorted({spec.seed for spec in specs}),
    }
