"""What every recipe is to the command that runs it: a name, scales, and a measurement that gives a tidy frame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from est_analysis.errors import InputError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for.

    Attributes:
        scale: a key of the study's scales.
        corpus: the text, for studies that train on one.
        seeds: how many instead of the scale's own.
        runs: folder of all runs.
        workers: processes at once; 0 leaves it to the study.
        say: takes a line of progress.
    """

    scale: str
    corpus: str
    seeds: int | None
    runs: Path
    workers: int
    say: Callable[[str], None]

    @property
    def processes(self) -> int:
        """How many at once on a CPU: two unless it was said."""
        return self.workers or 2


@dataclass(frozen=True, kw_only=True)
class Study:
    """A recipe that can be run.

    Attributes:
        name: on the command line; claims name it too.
        description: one sentence.
        version: raise it when the runs change.
        scales: what each costs, in words.
        measure: request -> tidy frame (run_id, method, schedule, seed, step, metric, value) and facts for the report.
        on_text: whether it trains on the corpus of the request.
        in_processes: whether it can use several at once.
    """

    name: str
    description: str
    version: int
    scales: Mapping[str, str]
    measure: Callable[[Request], tuple[pd.DataFrame, dict[str, Any]]]
    on_text: bool = True
    in_processes: bool = True

    def run(self, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Measure, after checking what was asked for.

        Raises:
            InputError: this study has no such scale or no text, or a number is out of its range.
        """
        if request.scale not in self.scales:
            raise unknown_name("scale", request.scale, self.scales)
        if request.workers < 0:
            raise InputError(f"workers={request.workers} must be 1 or more, or 0 for the recipe's own number")
        if request.workers > 1 and not self.in_processes:
            raise InputError(f"recipe {self.name} runs in one process; leave '--workers {request.workers}' away")
        if request.seeds is not None and request.seeds < 1:
            raise InputError(f"seeds={request.seeds} must be at least 1")
        if request.corpus != "python" and not self.on_text:
            raise InputError(f"recipe {self.name} trains on no text; leave '--corpus {request.corpus}' away")
        return self.measure(request)
