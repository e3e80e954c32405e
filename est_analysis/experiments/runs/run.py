"""From a spec to a finished run: build what the spec says, train it, leave a folder that names its content."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from est_analysis.data.batches import Batches
from est_analysis.data.corpus import open_corpus
from est_analysis.data.objective import Objective, ObjectiveBatches, objective_validation
from est_analysis.data.objectives import find_objective
from est_analysis.data.tokens import TokenData, load_tokens
from est_analysis.errors import InputError
from est_analysis.experiments.runs.spec import TrainSpec, run_id
from est_analysis.experiments.runs.store import divergence_kept, finished, mark_finished, open_run
from est_analysis.models.families import build_model, find_family
from est_analysis.train.checkpoint import Checkpoints
from est_analysis.train.distributed import Ranks, local_device, ranks_from_environment
from est_analysis.train.loop import Job, train
from est_analysis.train.settings import Execution, Settings


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that is complete.

    Attributes:
        run_id: its name.
        folder: rows, spec and checkpoints.
        steps: how many it took.
        checkpoint: the final model, a Hugging Face folder.
        cached: whether it had been finished before, so that nothing was done now.
        auto_class: the class of `transformers` that opens the checkpoint.
    """

    run_id: str
    folder: Path
    steps: int
    checkpoint: Path
    cached: bool
    auto_class: str


def prepare_data(spec: TrainSpec) -> TokenData:
    """The tokens of the spec's corpus, from the cache if they are there."""
    corpus = open_corpus(
        spec.corpus,
        dataset_config=spec.dataset_config or None,
        text_column=spec.text_column,
        max_bytes=spec.max_bytes or None,
    )
    return load_tokens(corpus, spec.tokenizer)


def prepare_objective(spec: TrainSpec, data: TokenData) -> Objective:
    """The spec's objective with the ids of its special tokens."""
    return find_objective(spec.objective_name).of(data)


def num_parameters(spec: TrainSpec) -> int:
    """Trained numbers of the spec's model, which depends on its tokenizer's vocabulary."""
    return spec.model_config(vocab_size=prepare_objective(spec, prepare_data(spec)).vocab_size).num_parameters


def kept_steps(settings: Settings, transitions: Iterable[int]) -> frozenset[int]:
    """Steps whose checkpoint stays: the start, stage transitions, every `keep_every` steps, and the end."""
    between = range(0, settings.steps, settings.keep_every) if settings.keep_every else ()
    return frozenset({0, settings.steps, *transitions, *between})


def run(
    spec: TrainSpec, execution: Execution, *, root: Path = Path("runs"), out: Path | None = None, resume: bool = True
) -> FinishedRun:
    """Train `spec` into `out`, or into `root/<run_id>`; continue an interrupted run, return a finished one at once.

    Args:
        spec: what to train.
        execution: where and how.
        root: folder of all runs.
        out: this run's folder instead.
        resume: if False, refuse a folder that already holds something.

    Raises:
        InputError: anything the user gave that cannot be used, or an interruption; saved state is never lost.
    """
    with ranks_from_environment(execution.device) as ranks:
        data = prepare_data(spec)
        name = run_id(spec, data_hash=data.hash)
        folder = out or root / name
        if not resume and ranks.main and folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} already holds something and --no-resume was given; give another --out")
        if not ranks.main:
            ranks.wait()  # until the first rank holds the folder
            return _train(spec, execution, data, name, folder, ranks)
        with open_run(folder, spec, run_id=name, device=execution.device):
            ranks.wait()
            return _train(spec, execution, data, name, folder, ranks)


def _train(
    spec: TrainSpec, execution: Execution, data: TokenData, name: str, folder: Path, ranks: Ranks
) -> FinishedRun:
    objective = prepare_objective(spec, data)
    config = spec.model_config(vocab_size=objective.vocab_size)
    method, settings = spec.build_method(config), spec.run_settings(config)
    checkpoints = Checkpoints(
        folder=folder / "checkpoints",
        tokenizer=objective.tokenizer,
        separator=data.separator_id,
        permanent=kept_steps(settings, method.course.transitions),
    )
    final = checkpoints.path(settings.steps)
    done = finished(folder)
    ranks.wait()  # every rank has looked before one of them may finish
    if done is None:
        windows = Batches(data.train, seq_len=spec.seq_len, batch_size=spec.batch_size, seed=spec.seed)
        job = Job(
            run_id=name,
            folder=folder,
            model=build_model(config).initialise(spec.seed),
            method=method,
            batches=ObjectiveBatches(windows, objective),
            validation=objective_validation(
                objective,
                data.validation,
                seq_len=spec.seq_len,
                batch_size=spec.batch_size,
                max_tokens=spec.validation_tokens,
            ),
            settings=settings,
            checkpoints=checkpoints,
        )
        with divergence_kept(folder, main=ranks.main):
            train(job, _on_this_device(execution), ranks)
        if ranks.main:
            mark_finished(folder, {"run_id": name, "steps": settings.steps, "checkpoint": str(final.name)})
    elif not (final / "config.json").is_file() or not any(final.glob("*.safetensors")):
        raise InputError(f"{final} of this finished run is gone or incomplete; remove {folder} to run it again")
    auto_class = find_family(spec.family).conversion.auto_class
    return FinishedRun(
        run_id=name,
        folder=folder,
        steps=settings.steps,
        checkpoint=final,
        cached=done is not None,
        auto_class=auto_class,
    )


def _on_this_device(execution: Execution) -> Execution:
    return replace(execution, device=local_device(execution.device))
