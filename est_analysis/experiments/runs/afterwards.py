"""What is measured of a finished run: rows in a file beside the run's own, so that nothing is measured twice."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from est_analysis.experiments.runs.run import FinishedRun
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.experiments.runs.store import write_atomically, write_rows

Row = tuple[int, str, float]  # step, metric, value
Afterwards = Callable[[TrainSpec, FinishedRun], None]


def keep_rows(
    name: str,
    spec: TrainSpec,
    result: FinishedRun,
    *,
    identity: dict[str, Any],
    measure: Callable[[], Iterable[Row]],
) -> None:
    """Write what `measure` gives into `<name>.csv` of the run's folder, unless it is there and of the same identity.

    Args:
        name: of the measurement; `experiments.runs.store.collect` reads every CSV of a run.
        spec: of the run.
        result: the run.
        identity: all that decides the numbers, besides the run itself.
        measure: makes the rows.
    """
    note, rows = result.folder / f"{name}.json", result.folder / f"{name}.csv"
    plain = json.loads(json.dumps(identity))  # JSON has lists for tuples

    def kept() -> bool:
        return rows.exists() and _read_note(note) == plain

    if kept():
        return
    with FileLock(result.folder / ".lock"):  # of the run, which another process may be measuring too
        if kept():
            return
        note.unlink(missing_ok=True)  # rows of another identity must not be taken for these if this is killed half-way
        write_rows(rows, result.run_id, ((spec.seed, *row) for row in measure()))
        write_atomically(note, json.dumps(plain))


def _read_note(note: Path) -> Any:
    """What is noted, or None where it is missing or damaged: its rows are then measured again."""
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return None
