"""Measurements on disk: a JSON object a line, the first saying what is measured; a kill loses one line at most."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from est_analysis.curvature.estimate import Sample
from est_analysis.errors import InputError


class SampleFile:
    """Measurements of one checkpoint, kept as they are made; opened again, it continues.

    Attributes:
        samples: those in the file.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        """Open `path`, or begin it, for what `identity` says is measured.

        Raises:
            InputError: the file measures something else (what differs is named), another process holds it, or it
                cannot be written.
        """
        self._path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self.samples: list[Sample] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._open(identity)
        except Timeout as error:
            raise InputError(f"another process writes {path}; wait for it or give another --out") from error
        except OSError as error:
            self.close()
            raise InputError(f"cannot write {path} ({error.strerror}); give another --out") from error
        except InputError:
            self.close()
            raise

    def add(self, sample: Sample) -> None:
        """Keep one more measurement."""
        self._append(asdict(sample))
        self.samples.append(sample)

    def close(self) -> None:
        """Let other processes have the file."""
        self._lock.release()

    def _open(self, identity: dict[str, Any]) -> None:
        begun = _read_bytes(self._path) if self._path.exists() else b""
        if json.dumps(identity).encode().startswith(begun):  # nothing, or a first line cut by a kill
            self._path.write_bytes(b"")
            self._append(identity)
            return
        found, self.samples, whole = _parsed(self._path, begun)
        _check_same(self._path, found, identity)
        os.truncate(self._path, whole)  # a line cut by a kill

    def _append(self, record: dict[str, Any]) -> None:
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"could not write {self._path} ({error.strerror}); free some space and go on") from error


def merge(paths: Sequence[Path]) -> tuple[dict[str, Any], list[Sample]]:
    """The identity and all measurements of files that are shards of one estimate.

    Raises:
        InputError: they measure different things, or a measurement is in two of them.
    """
    samples: dict[int, Sample] = {}
    identity = None
    for path in paths:
        if not path.is_file():
            raise InputError(f"no file {path}; give files that `est trace --out` wrote")
        found, part, _ = _parsed(path, _read_bytes(path))
        identity = identity or found
        _check_same(path, found, identity)
        for sample in part:
            if sample.index in samples:
                raise InputError(f"{path} holds measurement {sample.index} a second time; give each shard once")
            samples[sample.index] = sample
    return identity or {}, [samples[index] for index in sorted(samples)]


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); give a file that `est trace --out` wrote") from error


def _parsed(path: Path, data: bytes) -> tuple[dict[str, Any], list[Sample], int]:
    """Identity, measurements, and the length of the part that is whole."""
    whole = data.rfind(b"\n") + 1
    try:
        identity, *records = map(json.loads, data[:whole].splitlines())
        return {**identity}, list(_samples(records)), whole
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no file of measurements, or damaged; give another --out") from error


def _samples(records: Iterable[dict[str, Any]]) -> Iterable[Sample]:
    for record in records:
        yield Sample(**{**record, "values": tuple(record["values"]), "blocks": tuple(record["blocks"])})


def _check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if names:
        shown = ", ".join(f"{name} {found.get(name)!r} not {wanted.get(name)!r}" for name in names)
        raise InputError(f"{path} holds another measurement ({shown}); give another --out or the same settings")
