"""What a run measured: long-format rows (run_id, seed, step, metric, value) in a CSV that survives any stop."""

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from est_analysis.errors import InputError
from est_analysis.train.settings import Tracker

COLUMNS = ("run_id", "seed", "step", "metric", "value")


class TrackerRun(Protocol):
    """What a tracker must offer."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Record `values` at `step`."""

    def finish(self) -> None:
        """Flush and close."""


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()


def open_tracker(name: Tracker, folder: Path, run_id: str) -> TrackerRun | None:
    """The tracker called `name`, or None for `none`. trackio and wandb share one call syntax.

    Raises:
        InputError: the tracker's package is not installed.
    """
    try:
        if name == "none":
            return None
        if name == "tensorboard":
            return _TensorBoard(folder)
        module = __import__(name)
        return module.init(project="est_analysis", name=run_id)
    except ImportError as error:
        raise InputError(f"the logger '{name}' is not installed; run: pip install {name}") from error


class RowWriter:
    """Appends rows to `path`, one flush a step.

    Args:
        path: the CSV file.
        run_id: written into every row.
        seed: written into every row.
        last_step: rows after this step are dropped first, since a resumed run measures them again.
        expected: how many rows there were up to that step, where that is known.
        tracker: receives the same values.

    Attributes:
        count: rows in the file.

    Raises:
        InputError: rows have been lost, or the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        run_id: str,
        seed: int,
        last_step: int,
        expected: int | None = None,
        tracker: TrackerRun | None = None,
    ) -> None:
        self._run_id, self._seed, self._tracker = run_id, seed, tracker
        kept = _rows_up_to(path, last_step)
        if expected is not None and len(kept) != expected:
            raise InputError(
                f"{path} has {len(kept)} of the {expected} rows up to step {last_step}; bring the file back, or delete "
                "the run to start again"
            )
        self.count = len(kept)
        temporary = path.with_suffix(".writing")
        with _failures_named(path):
            with temporary.open("w") as file:
                file.write(_as_csv([COLUMNS, *kept]))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._file = path.open("a", newline="")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one row a metric and flush."""
        # repr of a double round-trips exactly: the file carries the very numbers.
        lines = _as_csv([(self._run_id, self._seed, step, name, repr(float(v))) for name, v in values.items()])
        with _failures_named(self._file.name):
            self._file.write(lines)
            self._file.flush()
        self.count += len(values)
        if self._tracker:
            self._tracker.log(values, step)

    def sync(self) -> None:
        """Force what was written to disk."""
        with _failures_named(self._file.name):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and the tracker."""
        # Every write was flushed, so this can only repeat a failure that was reported.
        with suppress(OSError):
            self._file.close()
        if self._tracker:
            self._tracker.finish()


@contextmanager
def _failures_named(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"could not write rows to {path} ({error.strerror}); free some space and run again") from error


def _as_csv(rows: list[tuple]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _rows_up_to(path: Path, last_step: int) -> list[list[str]]:
    """Complete rows of an earlier sitting up to `last_step`; a line that a kill cut short is dropped."""
    if last_step < 0 or not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    rows = csv.reader(line for line in lines[1:] if line.endswith("\n"))
    return [row for row in rows if len(row) == len(COLUMNS) and row[2].isdigit() and int(row[2]) <= last_step]
