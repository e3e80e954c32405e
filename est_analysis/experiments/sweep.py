"""Many runs side by side, each cached by its id and followed by what is measured of it."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from est_analysis.errors import Diverged
from est_analysis.experiments.afterwards import Afterwards
from est_analysis.experiments.pool import run_in_pool
from est_analysis.experiments.run import prepare_data, run
from est_analysis.experiments.spec import TrainSpec, run_id
from est_analysis.experiments.store import collect, finished
from est_analysis.train.settings import Execution

_LINE_SECONDS = 30.0  # between plain progress lines where there is no terminal


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs to make and how.

    Attributes:
        specs: the runs.
        after: each measures something of every finished run; importable by name.
        device: where they run.
        diverging: whether a run may lose its loss: its row is an infinite one, where otherwise all runs would stop.
        root: folder of all runs.
        workers: processes at once, each with an equal share of the CPUs; 0 stays in this process and its threads.
    """

    specs: Sequence[TrainSpec]
    root: Path
    workers: int
    device: str = "cpu"
    after: Sequence[Afterwards] = ()
    diverging: bool = False

    @property
    def execution(self) -> Execution:
        """How each worker runs."""
        threads = max(1, (os.cpu_count() or 1) // self.workers) if self.workers else 0
        return Execution(device=self.device, threads=threads, progress=False)


def run_all(sweep: Sweep) -> pd.DataFrame:
    """Make every run that is not finished yet; returns all their rows.

    Raises:
        Stopped: interrupted; every unfinished run has saved its state.
        InputError: a run failed for a reason the user can mend; finished runs are kept.
    """
    data = prepare_data(sweep.specs[0])  # once, before several processes ask for it
    names = [run_id(spec, data_hash=data.hash) for spec in sweep.specs]
    with _screen(sweep, names) as show:
        arguments = [(spec, sweep) for spec in sweep.specs]
        if sweep.workers:
            run_in_pool(_run_one, arguments, workers=sweep.workers, show=show, saved=str(sweep.root))
        else:
            for one in arguments:
                _run_one(*one)
                show()
    diverged = [spec for spec, name in zip(sweep.specs, names, strict=True) if not finished(sweep.root / name)]
    rows = collect(sweep.root / name for name in names if finished(sweep.root / name))
    return pd.concat([rows, *(_infinite(spec, data.hash) for spec in diverged)], ignore_index=True)


def _infinite(spec: TrainSpec, data_hash: str) -> pd.DataFrame:
    """The row of a run that diverged."""
    row = {"run_id": run_id(spec, data_hash=data_hash), "method": spec.method, "schedule": spec.schedule_name}
    row |= {"seed": spec.seed, "step": spec.settings.steps, "metric": "validation_loss", "value": float("inf")}
    return pd.DataFrame([row])


def _run_one(spec: TrainSpec, sweep: Sweep) -> None:
    try:
        result = run(spec, sweep.execution, root=sweep.root)
    except Diverged:
        if sweep.diverging:
            return
        raise
    for measure in sweep.after:
        measure(spec, result)


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
def _screen(sweep: Sweep, names: Sequence[str]) -> Iterator:
    """A function that shows how far every run is: bars on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    totals = [spec.run_settings(spec.model_config(vocab_size=1)).steps for spec in sweep.specs]
    labels = [f"{spec.method} seed {spec.seed}" for spec in sweep.specs]
    start = last_line = time.monotonic()

    def steps() -> list[int]:
        return [_last_step(sweep.root / name / "rows.csv") for name in names]

    if not console.is_terminal:

        def line() -> None:
            nonlocal last_line
            if time.monotonic() - last_line > _LINE_SECONDS:
                last_line = time.monotonic()
                done = sum(steps())
                console.print(f"{last_line - start:5.0f} s  {done} of {sum(totals)} steps", highlight=False)

        yield line
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
