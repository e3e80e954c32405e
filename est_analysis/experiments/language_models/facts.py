"""What a report should know of trainings that are equal in model, batch and steps."""

from collections.abc import Iterable
from typing import Any

from est_analysis.experiments.runs.run import num_parameters
from est_analysis.experiments.runs.spec import TrainSpec


def training_facts(spec: TrainSpec, *, corpus: str, seeds: Iterable[int]) -> dict[str, Any]:
    """Size and tokens of `spec`, one of them; tokenizes its corpus if nobody has."""
    size, tokens = num_parameters(spec), spec.settings.steps * spec.batch_size * spec.seq_len
    return {
        "corpus": corpus,
        "num_parameters": size,
        "tokens_per_run": tokens,
        "tokens_per_parameter": tokens / size,
        "seeds": sorted({int(seed) for seed in seeds}),
    }
