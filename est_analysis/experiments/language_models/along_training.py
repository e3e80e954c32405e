"""The curvature of the checkpoints that a run kept, split over groups of parameters, beside the run's rows.

The model is the full one, whatever was sampled while it trained. Windows of held-out text and probes are the same for
every run and step, so that the noise they share drops out of comparisons.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch

from est_analysis.any_checkpoint.text import TextSource
from est_analysis.any_checkpoint.trace import TraceSettings, budget_of, measure, prepare
from est_analysis.curvature.blocks import BlockTrace, by_batch, group_of, kind_totals
from est_analysis.curvature.checkpoint import Loaded, load
from est_analysis.curvature.hvp import HessianOperator
from est_analysis.curvature.lanczos import top_eigenvalues
from est_analysis.curvature.locate import locate
from est_analysis.data.objective import objective_validation
from est_analysis.data.synthetic import parse
from est_analysis.errors import InputError
from est_analysis.experiments.runs.afterwards import Row, keep_rows
from est_analysis.experiments.runs.run import FinishedRun, prepare_data, prepare_objective
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.rng import stream

FIFTEENTHS = 15  # EST's stages end after 2 and after 7 of them


@dataclass(frozen=True, kw_only=True)
class CurvatureSettings:
    """When and how well curvature is measured along a run.

    Attributes:
        fifteenths: of the run's steps, where checkpoints are measured; the run must have kept them.
        rel_se: relative standard error of a trace at which it is sure enough.
        max_pairs: (micro-batch, probe) pairs at which it stops even so.
        micro_batches: parts that a training batch is divided into for a trace; its variance hardly falls with their
            size.
        top_tolerance: relative accuracy of the top eigenvalue, at the end of a run; 0 leaves it out.
    """

    fifteenths: tuple[int, ...] = (2, 7, 9, 12, 15)
    rel_se: float = 0.05
    max_pairs: int = 96
    micro_batches: int = 4
    top_tolerance: float = 0.01

    def __post_init__(self) -> None:
        if not self.fifteenths or not all(1 <= part <= FIFTEENTHS for part in self.fifteenths):
            raise InputError(f"fifteenths={self.fifteenths} must be numbers from 1 to {FIFTEENTHS}")

    def steps(self, total: int) -> list[int]:
        """The steps of a run of `total` at which checkpoints are measured.

        >>> CurvatureSettings().steps(600)
        [80, 280, 360, 480, 600]
        """
        return [part * total // FIFTEENTHS for part in self.fifteenths]


def parameter_kind(name: str) -> str:
    """Group of the parameter `name`: tokens, positions, norms, attention, mlp, or what `group_of` says else.

    >>> [parameter_kind(f"transformer.{name}.weight") for name in ("wte", "wpe", "h.0.mlp.c_fc", "ln_f")]
    ['tokens', 'positions', 'mlp', 'norms']
    """
    kind = group_of(name)
    if kind != "embeddings":
        return kind
    return "positions" if "wpe" in name or "position_embeddings" in name else "tokens"


def measure_curvature(settings: CurvatureSettings, spec: TrainSpec, result: FinishedRun) -> None:
    """Measure the checkpoints of a finished run at the steps of `settings` into `curvature.csv`, once.

    Rows, at each step: `hessian_trace` and `fisher_trace` with `_stderr`, and both by group (`hessian_trace_mlp`);
    `weight_norm` and `scale_invariant`, |w|^2 tr / n summed over layers and groups, and both by group; at the end also
    `top_eigenvalue`, that of largest magnitude on one batch.
    """
    checkpoints = {step: result.checkpoint.parent / f"step{step:06d}" for step in settings.steps(result.steps)}
    if missing := [step for step, folder in checkpoints.items() if not folder.is_dir()]:
        raise InputError(f"run {result.run_id} kept no checkpoint of step {missing[0]}; give it another keep_every")

    def rows() -> Iterator[Row]:
        for step, folder in checkpoints.items():
            loaded = load(locate(folder))
            for metric, value in _traces(loaded, settings, spec):
                yield step, metric, value
            if step == result.steps and settings.top_tolerance:
                yield step, "top_eigenvalue", _top_eigenvalue(loaded, settings, spec)

    keep_rows("curvature", spec, result, identity={"version": 1, "settings": asdict(settings)}, measure=rows)


def measure_best_loss(spec: TrainSpec, result: FinishedRun) -> None:
    """Write the least validation loss that any model could have on a synthetic language into `best_loss.csv`.

    It is what the language's own filter pays on the very windows of the run's validation, so that the noise of the
    text drops out of the difference.
    """

    def rows() -> list[Row]:
        language, data = parse(spec.corpus), prepare_data(spec)
        windows = objective_validation(
            prepare_objective(spec, data),
            data.validation,
            seq_len=spec.seq_len,
            batch_size=spec.batch_size,
            max_tokens=spec.validation_tokens,
        )
        tokens = torch.cat([torch.cat([inputs, targets[:, -1:]], 1) for inputs, targets in windows])
        losses = language.model.losses(language.symbols(tokens.numpy()))[:, 1:]
        return [(result.steps, "best_loss", float(losses.mean()))]

    keep_rows("best_loss", spec, result, identity={"version": 1}, measure=rows)


def _traces(loaded: Loaded, settings: CurvatureSettings, spec: TrainSpec) -> Iterator[tuple[str, float]]:
    hessian = _groups(loaded, _trace_settings("hvp", settings, spec))
    yield from _named("hessian_trace", hessian)
    yield from _named("fisher_trace", _groups(loaded, _trace_settings("fisher", settings, spec)))
    for group in hessian[1:]:
        yield f"weight_norm_{group.kind}", group.weight_norm
        yield f"scale_invariant_{group.kind}", group.scale_invariant
    yield "weight_norm", hessian[0].weight_norm
    yield "scale_invariant", sum(group.scale_invariant for group in hessian[1:])


def _named(name: str, groups: list[BlockTrace]) -> Iterator[tuple[str, float]]:
    for group in groups:
        part = f"{name}_{group.kind}" if group.kind else name
        yield part, group.trace
        yield f"{part}_stderr", group.stderr


def _groups(loaded: Loaded, settings: TraceSettings) -> list[BlockTrace]:
    """The whole (of kind ""), then each group."""
    prepared = prepare(loaded, settings)
    samples = measure(prepared, budget_of(settings, prepared)).samples
    measured = by_batch(samples)
    whole = kind_totals(prepared.objective, *measured, kind_of=lambda name: "")
    return whole + kind_totals(prepared.objective, *measured, kind_of=parameter_kind)


def _top_eigenvalue(loaded: Loaded, settings: CurvatureSettings, spec: TrainSpec) -> float:
    prepared = prepare(loaded, replace(_trace_settings("hvp", settings, spec), micro_batch=spec.batch_size))
    operator = HessianOperator(prepared.objective, [prepared.inputs[0]])
    found = top_eigenvalues(
        operator.matvec, operator.n, count=1, generator=stream(0, "top eigenvalue"), tolerance=settings.top_tolerance
    )
    return float(found.values[0])


def _trace_settings(engine: str, settings: CurvatureSettings, spec: TrainSpec) -> TraceSettings:
    return TraceSettings(
        text=TextSource(
            corpora=(spec.corpus,),
            dataset_config=spec.dataset_config,
            text_column=spec.text_column,
            max_bytes=spec.max_bytes,
        ),
        engine=engine,
        seq_len=spec.seq_len,
        micro_batch=max(1, spec.batch_size // settings.micro_batches),
        probes=1,
        rel_se=settings.rel_se,
        max_pairs=settings.max_pairs,
        blocks=True,
    )
