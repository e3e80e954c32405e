"""Collects how committed runs were made, from their folders, into `runs.jsonl` (`committed.records`).

A folder gives the spec of a run if that makes the run's id together with the hash of its data, and the environment if
besides it is finished and its losses, or times, are the committed ones: one may have been made again elsewhere. Random
nets and linear nets have no folders: their recipes say what they are.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from est_analysis.committed.records import RUNS_FILE, RunRecord, read_runs, runs_text
from est_analysis.errors import InputError
from est_analysis.experiments.runs.identity import name_of_linear_net
from est_analysis.experiments.runs.run import prepare_data
from est_analysis.experiments.runs.spec import NUMERICS_VERSION, TrainSpec, said
from est_analysis.experiments.runs.store import finished, write_atomically
from est_analysis.experiments.small_nets import first_experiments, linear_factors, stability_depth
from est_analysis.train.settings import Settings

_KEYS = ["seed", "step", "metric"]
_TEXT = ("corpus", "dataset_config", "text_column", "max_bytes", "tokenizer")  # what decides the data's hash
_KINDS = {"task": "FirstSpec", "dimension": "PolynomialSpec", "rounds": "OverheadSpec"}  # a field of its own -> kind
_DIGITS = 1e-5  # committed values have six digits or more


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What `runs.jsonl` holds now.

    Attributes:
        added: ids that it did not hold before.
        not_kept: ids whose environment is not known.
        missing: ids of committed runs that it still does not hold.
    """

    added: tuple[str, ...]
    not_kept: tuple[str, ...]
    missing: tuple[str, ...]


def collect_runs(folders: Iterable[Path], data: Path) -> Collected:
    """Add what is missing to `runs.jsonl`.

    Args:
        folders: run folders, or folders with run folders somewhere in them.
        data: the folder of committed CSV files.

    Raises:
        InputError: no such folder, or the file is damaged.
    """
    path = data / RUNS_FILE
    runs = read_runs(path) if path.is_file() else {}
    rows = committed_rows(data)
    wanted = {str(name): losses for name, losses in rows.groupby("run_id") if name not in runs}
    known = _Hashes(runs.values())
    found = {run.run_id: run for run in _without_folders() if run.run_id in wanted}
    for folder, held in _run_folders(folders):
        run_id = held["run_id"]
        if run_id not in wanted or (run_id in found and found[run_id].environment is not None):
            continue
        run = found.get(run_id) or _record(held, known)
        if run is not None:
            found[run_id] = replace(run, environment=_environment(folder, wanted[run_id]))
    if found:
        runs |= found
        write_atomically(path, runs_text(runs.values()))
    return Collected(
        added=tuple(sorted(found)),
        not_kept=tuple(sorted(name for name, run in runs.items() if run.environment is None)),
        missing=tuple(sorted(wanted.keys() - found.keys())),
    )


def committed_rows(data: Path) -> pd.DataFrame:
    """Columns run_id, seed, step, metric and value of all CSV files in `data` whose rows have a run_id.

    Files of final losses, one run a row, count as such rows.
    """
    frames = []
    for path in sorted(data.glob("*.csv")):
        frame = pd.read_csv(path, keep_default_na=False)
        if "run_id" not in frame:
            continue
        if "metric" not in frame:
            frame = frame.rename(columns={"steps": "step", "validation_loss": "value"}).assign(metric="validation_loss")
        frames.append(frame.reindex(columns=["run_id", *_KEYS, "value"]))
    if not frames:
        raise InputError(f"no committed rows in '{data}'; give the repository's paper_figures/data")
    return pd.concat(frames, ignore_index=True)


def _run_folders(folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every run folder with the content of its `spec.json`; damaged ones are passed over."""
    for top in folders:
        if not top.is_dir():
            raise InputError(f"no folder '{top}'; give folders of runs")
        for place, below, files in os.walk(top):
            if "spec.json" not in files:
                continue
            below.clear()  # checkpoints hold no runs
            try:
                held = json.loads((Path(place) / "spec.json").read_text())
            except (OSError, ValueError):
                continue
            if isinstance(held, dict) and isinstance(held.get("spec"), dict) and "run_id" in held:
                yield Path(place), held


def _without_folders() -> Iterator[RunRecord]:
    for depths in stability_depth.SCALES.values():
        sizes = {name: value for name, value in asdict(depths).items() if name != "seeds"}
        for variant, seed in product(stability_depth.VARIANTS, range(depths.seeds)):
            yield RunRecord(
                run_id=stability_depth.run_id(depths, variant, seed),
                kind="DepthSettings",
                spec=json.loads(json.dumps({**sizes, "variant": variant, "seed": seed})),
                numerics=stability_depth.NUMERICS_VERSION,
            )
    for scale in first_experiments.SCALES.values():
        settings = asdict(scale.linear)
        for law in linear_factors.TRAININGS.values():
            name = name_of_linear_net(settings, law)
            yield RunRecord(run_id=name, kind="LinearSettings", spec={**settings, "law": law})


class _Hashes:
    """The hash of a spec's data: those of known runs on the same text, then that of the text as it is here."""

    def __init__(self, known: Iterable[RunRecord]) -> None:
        self._of: dict[tuple, list[str]] = {}
        for run in known:
            if run.data_hash:
                self._keep(self._text(run.spec), run.data_hash)
        self._here: set[tuple] = set()

    def candidates(self, fields: Mapping[str, Any]) -> Iterator[str]:
        text = self._text(fields)
        yield from self._of.get(text, [])
        if text not in self._here:
            self._here.add(text)
            source = dict(zip(_TEXT, text, strict=True))
            try:
                found = prepare_data(TrainSpec(method="full", settings=Settings(steps=1), **source)).hash
            except InputError:  # the text is not here
                return
            yield self._keep(text, found)

    def _text(self, fields: Mapping[str, Any]) -> tuple:
        return tuple(fields[name] for name in _TEXT)

    def _keep(self, text: tuple, found: str) -> str:
        if found not in self._of.setdefault(text, []):
            self._of[text].append(found)
        return found


def _record(held: Mapping[str, Any], known: _Hashes) -> RunRecord | None:
    """The run of a `spec.json`, without its environment; None if its fields do not make its id."""
    fields, run_id = held["spec"], held["run_id"]
    kind = next((kind for field, kind in _KINDS.items() if field in fields), "TrainSpec")
    try:
        hashes = known.candidates(fields) if kind == "TrainSpec" else ("",)
        for data_hash in hashes:
            for named in (form(fields) for form in (dict, said)):
                run = RunRecord(
                    run_id=run_id, kind=kind, spec=named, data_hash=data_hash, numerics=NUMERICS_VERSION
                )  # fmt: skip
                if run.expected_id == run_id:
                    return run
    except (KeyError, TypeError, InputError):  # of another version
        pass
    return None


def _environment(folder: Path, committed: pd.DataFrame) -> dict[str, Any] | None:
    """What the run in `folder` was carried out with; None unless the `committed` losses or times are its own."""
    try:
        if finished(folder) is None:
            return None
        environment = json.loads((folder / "env.json").read_text())
        rows = pd.concat([pd.read_csv(path) for path in sorted(folder.glob("*.csv"))])
        losses = committed[committed["metric"].str.contains("loss|^seconds_")]
        both = losses.merge(rows[[*_KEYS, "value"]], on=_KEYS)
    except (OSError, ValueError, KeyError):  # damaged
        return None
    same = len(both) > 0 and np.isclose(both["value_x"], both["value_y"], rtol=_DIGITS, atol=0).all()
    return environment if same else None
