"""The Hessian trace of a finished run's final checkpoint, kept beside its rows."""

from dataclasses import asdict

from est_analysis.any_checkpoint.text import TextSource
from est_analysis.any_checkpoint.trace import TraceSettings, budget_of, measure, prepare
from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate
from est_analysis.experiments.language_models.reproduce_scales import Scale
from est_analysis.experiments.runs.afterwards import Row, keep_rows
from est_analysis.experiments.runs.run import FinishedRun
from est_analysis.experiments.runs.spec import TrainSpec


def measure_trace(scale: Scale, spec: TrainSpec, result: FinishedRun) -> None:
    """Measure the Hessian trace of a finished run on held-out text into `trace.csv`, once.

    Windows and probes have the same seed for every run, so that the noise they share drops out of comparisons.
    """
    settings, checkpoint = _settings(spec, scale), result.checkpoint

    def trace() -> list[Row]:
        prepared = prepare(load(locate(checkpoint), device=scale.device), settings)
        estimate = measure(prepared, budget_of(settings, prepared))
        values = {
            "hessian_trace": estimate.value,
            "hessian_trace_stderr": estimate.stderr,
            "hessian_trace_pairs": estimate.pairs,
            "hessian_trace_seconds": estimate.seconds,
        }
        return [(result.steps, metric, value) for metric, value in values.items()]

    identity = {"settings": asdict(settings), "checkpoint": checkpoint.name}
    keep_rows("trace", spec, result, identity=identity, measure=trace)


def _settings(spec: TrainSpec, scale: Scale) -> TraceSettings:
    return TraceSettings(
        text=TextSource(
            corpora=(spec.corpus,),
            dataset_config=spec.dataset_config,
            text_column=spec.text_column,
            max_bytes=spec.max_bytes,
        ),
        seq_len=spec.seq_len,
        micro_batch=scale.trace_sequences,
        probes=2,
        rel_se=scale.trace_rel_se,
        max_pairs=scale.trace_pairs,
    )
