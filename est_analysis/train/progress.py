"""Progress for a person: a bar on a terminal, plain lines in a log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Display(Protocol):
    """What the loop tells: `advance` after every step, `note` when there is something to say."""

    def advance(self, step: int) -> None:
        """`step` steps are done."""

    def note(self, text: str) -> None:
        """Say `text` beside the progress."""


class _Silent:
    def advance(self, step: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class _Lines:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._step = label, total, 0

    def advance(self, step: int) -> None:
        self._step = step

    def note(self, text: str) -> None:
        print(f"{self._label}  step {self._step}/{self._total}  {text}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)


@contextmanager
def display(label: str, total: int, *, shown: bool) -> Iterator[Display]:
    """The display for a run of `total` steps called `label`; nothing at all unless `shown`."""
    console = Console(stderr=True)
    if not shown:
        yield _Silent()
    elif not console.is_terminal:
        yield _Lines(label, total)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as progress:
            yield _Bar(progress, label, total)
