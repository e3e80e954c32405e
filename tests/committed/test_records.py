"""Every committed run_id leads to a spec, and that spec to the run_id."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.committed.records import RUNS_FILE, RunRecord, find_run, read_runs, runs_text
from est_analysis.errors import InputError
from est_analysis.experiments.runs.spec import TrainSpec, run_id
from est_analysis.train.settings import Settings

DATA = Path(__file__).parents[2] / "paper_figures" / "data"


@pytest.fixture(scope="module")
def committed():
    return read_runs(DATA / RUNS_FILE)


# The committed file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(DATA.glob("*.csv")), ids=lambda path: path.stem)
def test_every_committed_run_is_there(path, committed):
    frame = pd.read_csv(path, keep_default_na=False)
    missing = set(frame.get("run_id", ())) - committed.keys()
    assert not missing, f"add them: python paper_figures/data/runs.py FOLDER, where FOLDER holds {sorted(missing)[:3]}"


def test_every_spec_makes_its_id(committed):
    wrong = [run.run_id for run in committed.values() if run.expected_id != run.run_id]
    assert not wrong
    assert len(committed) > 900


def test_the_specs_can_be_trained_again_under_the_same_names(committed):
    runs = [run for run in committed.values() if run.kind == "TrainSpec"]
    assert len(runs) > 700
    for run in runs:
        settings = {**run.spec["settings"], "betas": tuple(run.spec["settings"]["betas"])}
        spec = TrainSpec(**{**run.spec, "settings": Settings(**settings)})
        assert run_id(spec, data_hash=run.data_hash) == run.run_id


def test_environments_are_as_they_were_recorded(committed):
    kept = [run.environment for run in committed.values() if run.environment is not None]
    assert len(kept) > 800
    assert all(one.keys() >= {"python", "packages", "platform", "cpus", "device"} for one in kept)
    without = Counter(run.kind for run in committed.values() if run.environment is None)
    assert without.keys() <= {"TrainSpec", "DepthSettings", "LinearSettings"}


def test_the_file_is_as_it_would_be_written(committed):
    text = (DATA / RUNS_FILE).read_text()
    assert text == runs_text(reversed(committed.values()))
    assert len(text) < 700_000


# Reading and writing --------------------------------------------------------------------------------------------------


def _run(name, environment=None, **spec):
    return RunRecord(run_id=name, kind="TrainSpec", spec={"method": "est", **spec}, environment=environment)


ODD = [
    _run("a", {"python": "3"}, options={}, flag=True, settings={"lr": 1.0, "betas": [0.9, 0.95]}),
    _run("b", {"python": "4"}, options={"x": None}, flag=True, settings={"lr": 1, "betas": [0.9, 0.95]}),
    _run("c", options={"x": {}}, flag=1, settings={"lr": True, "betas": [0.9, 0.95], "later": 0}),
    replace(_run("d"), kind="Other", data_hash="0", numerics=2),
]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / RUNS_FILE
    path.write_text(runs_text(ODD))
    found = read_runs(path)
    as_text = [json.dumps(vars(run), sort_keys=True) for run in ODD]  # equal numbers of another type differ
    assert [json.dumps(vars(run), sort_keys=True) for run in found.values()] == as_text
    assert runs_text(found.values()) == path.read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda run: replace(run, spec={**run.spec, "seed": 7}),
        lambda run: replace(run, data_hash="0" * 64),
        lambda run: replace(run, numerics=2),
        lambda run: replace(run, spec={**run.spec, "settings": {**run.spec["settings"], "lr": 1}}),
    ],
)
def test_a_wrong_spec_is_noticed(committed, tmp_path, change):
    name = next(name for name, run in committed.items() if run.kind == "TrainSpec")
    (tmp_path / RUNS_FILE).write_text(runs_text([change(committed[name])]))
    with pytest.raises(InputError, match=rf"the spec that runs.jsonl gives for '{name}' is that of '.*'; restore it"):
        find_run(tmp_path, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read '.*runs.jsonl': No such file or directory; give the repository's paper_figures/data"),
        ("{", "runs.jsonl' is damaged .*; restore it with git"),
        ("[]", "is damaged"),
        ('{"run_id": "a", "kind": "TrainSpec", "spec": {}, "environment": "not kept"}', "is damaged"),
        ("", "no run 'a' in '.*runs.jsonl'; give a run_id of a CSV file beside it"),
    ],
)
def test_errors_are_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / RUNS_FILE).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        find_run(tmp_path, "a")
    assert "\n" not in str(error.value)
