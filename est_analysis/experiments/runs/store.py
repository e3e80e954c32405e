"""Where runs live: one folder a run, safe against kills and against two processes at once.

`spec.json` and `env.json` are written first, `rows.csv` and `checkpoints/` grow, and `finished.json` comes last, by
rename: a folder without it is unfinished, whatever else it holds.
"""

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from est_analysis.errors import Diverged, InputError
from est_analysis.experiments.runs.spec import differing_fields
from est_analysis.methods import find_method
from est_analysis.train.rows import COLUMNS

_FINISHED = "finished.json"
_DIVERGED = "diverged.json"
# What a run that was killed at its very start may have left.
_FIRST_FILES = frozenset((".lock", "env.json", ".env.json.writing", ".spec.json.writing"))


def write_atomically(path: Path, text: str) -> None:
    """Replace the file `path` by `text` in one step: readers see the old content or the new, never a part.

    Raises:
        InputError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"could not write {path} ({error.strerror}); free some space and run again") from error


def environment(device: str = "cuda") -> dict[str, Any]:
    """What a run was carried out with: versions, machine, device. Recorded, not part of the run's identity.

    One that goes on with others lists them, in the order they came, under `resumed_with` of its `env.json`.

    Args:
        device: where it ran; `cuda` names the GPU, if there is one.
    """

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "absent"

    packages = ("est-analysis", "torch", "transformers", "numpy", "pandas")
    return {
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in packages},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device != "cpu" and torch.cuda.is_available() else "cpu",
    }


def finished(folder: Path) -> dict[str, Any] | None:
    """The closing record of a finished run, or None.

    Raises:
        InputError: there is one, but damaged.
    """
    path = folder / _FINISHED
    if not path.exists():
        return None
    return _read_record(path, "delete it to finish the run from its last checkpoint")


def _read_record(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file; an `InputError` with the `remedy` where it is damaged."""
    try:
        record = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not text
        raise InputError(f"{path} is damaged; {remedy}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} is damaged; {remedy}")
    return record


def _read_spec(path: Path) -> tuple[str, dict[str, Any]]:
    """The run's id and the fields of its spec."""
    remedy = "give another folder for the run"
    record = _read_record(path, remedy)
    if "run_id" not in record or not isinstance(record.get("spec"), dict):
        raise InputError(f"{path} is damaged; {remedy}")
    return record["run_id"], record["spec"]


@contextmanager
def divergence_kept(folder: Path, *, main: bool) -> Iterator[None]:
    """Note the end of a run that diverges in the block, and say so again, at once, when it is asked for again.

    Args:
        folder: of the run.
        main: whether this is the process that writes.

    Raises:
        Diverged: in the block, or in one before.
    """
    path = folder / _DIVERGED
    if path.exists():
        why = _read_record(path, "delete it to train on from the last checkpoint").get("why")
        raise Diverged(f"{why} (so it ended before; delete {path} to try again from the last checkpoint)")
    try:
        yield
    except Diverged as error:
        if main:
            write_atomically(path, json.dumps({"why": str(error)}))
        raise


def mark_finished(folder: Path, record: dict[str, Any]) -> None:
    """Declare the run in `folder` finished."""
    write_atomically(folder / _FINISHED, json.dumps(record, indent=1))


@contextmanager
def open_run(folder: Path, spec: Any, *, run_id: str, device: str = "cpu") -> Iterator[None]:
    """Hold the run folder for the duration of the block, creating it or checking that it is of the same run.

    Args:
        folder: of the run.
        spec: all that decides its numbers.
        run_id: its name.
        device: where it is to run, which is recorded with its environment.

    Raises:
        InputError: the folder belongs to another spec (the differing fields are named) or to another process.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder for the run")
    except OSError as error:  # a name too long, or a folder above that may not be looked into
        raise InputError(f"cannot look at {folder} ({error.strerror}); give another folder") from error
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:  # a tokenizer could not be saved there
        raise InputError(f"the name of folder {str(folder)!r} is not UTF-8; give another folder") from error
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another process is working in {folder}; wait for it or give another folder") from error
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); give another folder") from error
    try:
        _check_same(folder, spec, run_id, device)
        yield
    finally:
        lock.release()


SeedRow = tuple[int, int, str, float]  # seed, step, metric, value


def write_rows(path: Path, run_id: str, rows: Iterable[SeedRow]) -> None:
    """Write the rows of a run, with the columns of `train.rows`; complete or not at all."""
    lines = [f"{run_id},{seed},{step},{metric},{float(value)!r}" for seed, step, metric, value in rows]
    write_atomically(path, "\n".join([",".join(COLUMNS), *lines]) + "\n")


def run_once(root: Path, spec: Any, *, run_id: str, steps: int, rows: Callable[[Path], Iterable[SeedRow]]) -> Path:
    """The folder of the run `spec`, which is made unless it is finished.

    Args:
        root: of all runs.
        spec: all that decides its numbers.
        run_id: its name.
        steps: how long it is, for its record.
        rows: makes them, given the folder.

    Raises:
        InputError: the folder cannot be used, or whatever `rows` raises.
    """
    folder = root / run_id
    with open_run(folder, spec, run_id=run_id, device=getattr(spec, "device", "cpu")):
        if finished(folder) is None:
            write_rows(folder / "rows.csv", run_id, rows(folder))
            mark_finished(folder, {"run_id": run_id, "steps": steps})
    return folder


def _check_same(folder: Path, spec: Any, run_id: str, device: str) -> None:
    path = folder / "spec.json"
    begun = any(child.name not in _FIRST_FILES | {path.name} for child in folder.iterdir())
    if path.exists():
        held_id, held_fields = _read_spec(path)
        if held_id == run_id:
            if finished(folder) is None and not (folder / _DIVERGED).exists():
                _note_environment(folder / "env.json", environment(device))
            return
        if begun:
            differences = differing_fields(held_fields, spec.fields())
            shown = "; ".join(differences) or "the corpus has other content, or another version wrote it"
            raise InputError(f"{folder} holds another run ({shown}); give another folder or the same settings")
    elif begun:
        raise InputError(f"{folder} is not empty and holds no run; give an empty or new folder")
    # New, or refused before its first step: the command may have been mended since.
    write_atomically(folder / "env.json", json.dumps(environment(device), indent=1))
    write_atomically(path, json.dumps({"run_id": run_id, "spec": spec.fields()}, indent=1))


def _note_environment(path: Path, now: dict[str, Any]) -> None:
    """Add what a run goes on with to what it began with, where it is something else."""
    try:
        held = json.loads(path.read_text())
        others = held.pop("resumed_with", [])
    except (OSError, ValueError, AttributeError):  # gone or damaged: nobody knows any more what it began with
        return
    if now not in (held, *others):
        write_atomically(path, json.dumps({**held, "resumed_with": [*others, now]}, indent=1))


def _read_rows(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"'{path}' is damaged ({reason}); remove the folder to run it again") from error
    keys = ["run_id", "seed", "step", "metric"]
    if not {*keys, "value"} <= set(rows.columns) or rows.empty or rows[keys].isna().any(axis=None):
        raise InputError(f"'{path}' is damaged: its rows are cut short; remove the folder to run it again")
    return rows


def collect(folders: Iterable[Path]) -> pd.DataFrame:
    """The rows of several runs in one tidy frame, with the columns `method` and `schedule` of their specs.

    Every CSV directly in a run folder holds rows: `rows.csv` of training, others of measurements made afterwards.

    Raises:
        InputError: a folder holds no run, or a damaged one.
    """
    frames = []
    for folder in folders:
        if not (folder / "spec.json").exists():
            raise InputError(f"{folder} holds no run; give a folder that `est train` or `est run` wrote")
        _, spec = _read_spec(folder / "spec.json")
        if not {"method", "schedule"} <= spec.keys() or not (folder / "rows.csv").exists():
            raise InputError(f"the run in {folder} is damaged; remove the folder to run it again")
        for path in sorted(folder.glob("*.csv")):
            rows = _read_rows(path)
            schedule = spec["schedule"] or find_method(spec["method"]).default_schedule
            frames.append(rows.assign(method=spec["method"], schedule=schedule))
    columns = ["run_id", "method", "schedule", "seed", "step", "metric", "value"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def labelled(rows: pd.DataFrame, labels: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """`rows` with the columns of `labels`, by run_id, in place of those of the same name."""
    columns = pd.DataFrame([{"run_id": run_id, **of_run} for run_id, of_run in labels.items()])
    replaced = rows.columns.intersection(columns.columns).drop("run_id")
    return rows.drop(columns=replaced).merge(columns, on="run_id", validate="many_to_one")
