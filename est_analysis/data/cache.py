"""Folders built once: complete or absent, whatever is killed and however many processes build at the same time."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from est_analysis.errors import InputError, expanded, reason

_META = "meta.json"
_ABANDONED = 24 * 3600.0  # seconds without a write


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where derived data is kept.

    Args:
        cache_dir: the user's choice; by default `$EST_ANALYSIS_CACHE`, `$XDG_CACHE_HOME/est_analysis` or
            `~/.cache/est_analysis`, the first that is set.
    """
    if cache_dir is not None:
        return expanded(cache_dir)
    if chosen := os.environ.get("EST_ANALYSIS_CACHE"):
        return expanded(chosen)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "est_analysis"


def cached_folder(folder: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Make sure that `folder` is there and whole, building it if it is not.

    It is built beside its place, flushed to disk and then renamed, so a reader sees all of it or nothing. Of several
    processes that ask at once one builds, and the others wait for it.

    Args:
        folder: named by a hash of all that decides its content.
        build: fills the new empty folder it is given and returns what `meta.json` shall say.

    Returns:
        The content of `meta.json`.

    Raises:
        InputError: the cache cannot be written.
    """
    meta = _read_meta(folder)
    if meta is not None:
        return meta
    building = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        building.mkdir()
    except OSError as error:
        lock.release()
        raise InputError(
            f"cannot write to the cache '{folder.parent}': {error.strerror}; set EST_ANALYSIS_CACHE to another folder"
        ) from error
    try:
        meta = _read_meta(folder)  # another process may have built it meanwhile
        if meta is None:
            _sweep(folder)
            meta = _seal(building, folder.name, build(building))
            _publish(building, folder)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder.parent):
            text = f"cannot read '{error.filename}': {error.strerror}; give a readable file or folder"
            raise InputError(text) from error
        why = error.strerror or reason(error)
        raise InputError(
            f"cannot fill the cache '{folder.parent}' ({why}); free some space, or set EST_ANALYSIS_CACHE to another "
            "folder"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
        lock.release()
    return meta


def _sweep(folder: Path) -> None:
    """Delete what builds of this folder left behind when they were killed, more than a day ago."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        with suppress(OSError):  # another process may sweep too
            if max(path.stat().st_mtime for path in (left, *left.rglob("*"))) < time.time() - _ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _seal(folder: Path, key: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Write `meta.json` with the key and the size of every file, and flush all of it to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    sealed = {**meta, "key": key, "files": sizes}
    (folder / _META).write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        _flush(path)
    return sealed


def _read_meta(folder: Path) -> dict[str, Any] | None:
    """What `meta.json` says, or None unless the folder is just as it was sealed."""
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        whole = meta["key"] == folder.name and all(
            (folder / name).stat().st_size == size for name, size in meta["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if whole else None


def _publish(building: Path, folder: Path) -> None:
    try:
        building.rename(folder)
    except OSError:  # in the way is a damaged folder or, where locks do not reach, one that another machine finished
        if _read_meta(folder) is not None:
            return
        damaged = folder.with_name(f"{building.name}-damaged")
        folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
        building.rename(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
