"""Many runs side by side, each cached by its id and followed by what is measured of it."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from est_analysis.errors import Diverged, InputError
from est_analysis.experiments.runs.afterwards import Afterwards
from est_analysis.experiments.runs.pool import progress_line, run_in_pool
from est_analysis.experiments.runs.run import FinishedRun, prepare_data, run
from est_analysis.experiments.runs.spec import TrainSpec, run_id
from est_analysis.experiments.runs.store import collect, finished, labelled
from est_analysis.train.settings import Execution


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run of a recipe.

    Attributes:
        spec: what is trained.
        labels: columns of its rows besides lr, such as family; also `method`, of a contender that is not called so.
        after: each measures something of the finished run; importable by name.
    """

    spec: TrainSpec
    labels: Mapping[str, Any] = field(default_factory=dict)
    after: Sequence[Afterwards] = ()


def run_all(
    entries: Sequence[Entry], *, root: Path, workers: int, device: str = "cpu", diverging: bool = False
) -> pd.DataFrame:
    """Make every run that is not finished yet; returns all their rows, with their labels and learning rates.

    Args:
        entries: the runs.
        root: folder of all runs.
        workers: processes at once, each with an equal share of the CPUs; 0 runs them one after the other in this
            process, which knows methods that were registered in it.
        device: where they run.
        diverging: whether a run may lose its loss: its row is an infinite one, where otherwise all runs would stop.

    Raises:
        Stopped: interrupted; every unfinished run has saved its state.
        InputError: a run failed for a reason the user can mend; finished runs are kept.
    """
    names = _names(entries)
    chains = [_chain(entry, root, _execution(workers, device), diverging) for entry in entries]
    with _screen(names, root) as show:
        if workers:
            run_in_pool(chains, workers=workers, show=show, saved=str(root))
        else:
            for first, *measurements in chains:
                reduce(lambda result, measure: measure(result), measurements, first())
                show()
    rows = collect(root / name for name in names if finished(root / name))
    diverged = [_infinite(name, entry.spec) for name, entry in names.items() if not finished(root / name)]
    labels = {name: {**entry.labels, "lr": entry.spec.settings.lr} for name, entry in names.items()}
    return labelled(pd.concat([rows, *diverged], ignore_index=True), labels)


def _names(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The entries by run_id; every text is prepared, once, before several processes ask for it.

    Raises:
        InputError: two of them are one run.
    """
    hashes: dict[tuple, str] = {}
    names = {}
    for entry in entries:
        spec = entry.spec
        text = (spec.corpus, spec.dataset_config, spec.text_column, spec.max_bytes, spec.tokenizer)
        if text not in hashes:
            hashes[text] = prepare_data(spec).hash
        name = run_id(spec, data_hash=hashes[text])
        if name in names:
            both = " and ".join(str(dict(one.labels)) for one in (names[name], entry))
            raise InputError(f"{both} are one run, {name}; give one of them")
        names[name] = entry
    return names


def _execution(workers: int, device: str) -> Execution:
    threads = max(1, (os.cpu_count() or 1) // workers) if workers else 0
    return Execution(device=device, threads=threads, progress=False)


def _infinite(name: str, spec: TrainSpec) -> pd.DataFrame:
    """The row of a run that diverged."""
    row = {"run_id": name, "method": spec.method, "schedule": spec.schedule_name}
    row |= {"seed": spec.seed, "step": spec.settings.steps, "metric": "validation_loss", "value": float("inf")}
    return pd.DataFrame([row])


def _chain(entry: Entry, root: Path, execution: Execution, diverging: bool) -> list[Callable[..., FinishedRun | None]]:
    """The training, and then each measurement: small calls, so that the processes of a pool end evenly."""
    first = partial(_run_one, entry.spec, root=root, execution=execution, diverging=diverging)
    return [first, *(partial(_measure_one, measure, entry.spec, execution.threads) for measure in entry.after)]


def _run_one(spec: TrainSpec, *, root: Path, execution: Execution, diverging: bool) -> FinishedRun | None:
    """Train `spec`, unless it is finished; None if it diverges and may."""
    try:
        return run(spec, execution, root=root)
    except Diverged:
        if diverging:
            return None
        raise


def _measure_one(measure: Afterwards, spec: TrainSpec, threads: int, result: FinishedRun | None) -> FinishedRun | None:
    """Measure one thing of a run, for which its training may have been long ago; hands the run on."""
    if threads:
        torch.set_num_threads(threads)
    if result is not None:
        measure(spec, result)
    return result


def _last_step(path: Path) -> int:
    """The step of the last complete row of a growing CSV."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 400))
            fields = file.read().decode().rsplit("\n", 2)[-2].split(",")
        return int(fields[2])
    except (OSError, IndexError, ValueError):
        return 0


@contextmanager
def _screen(names: Mapping[str, Entry], root: Path) -> Iterator:
    """A function that shows how far every run is: bars on a terminal, a line now and then elsewhere."""
    console, specs = Console(stderr=True), [entry.spec for entry in names.values()]
    totals = [spec.run_settings(spec.model_config(vocab_size=1)).steps for spec in specs]
    labels = [f"{spec.method} seed {spec.seed}" for spec in specs]

    def steps() -> list[int]:
        return [_last_step(root / name / "rows.csv") for name in names]

    if not console.is_terminal:
        say = partial(console.print, highlight=False)
        yield progress_line(lambda: f"{sum(steps())} of {sum(totals)} steps", say)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: list[TaskID] = [
            progress.add_task(f"{label:14}", total=total, start=False)
            for label, total in zip(labels, totals, strict=True)
        ]

        def bars() -> None:
            for task, step in zip(tasks, steps(), strict=True):
                if step and not progress.tasks[task].started:
                    progress.start_task(task)
                progress.update(task, completed=step)

        yield bars
