"""`est claims --run`: how a committed run was made."""

import json

import pytest

from est_analysis.committed.records import RUNS_FILE, RunRecord, runs_text
from est_analysis.experiments.runs.spec import TrainSpec, run_id, said
from est_analysis.train.settings import Settings

SPEC = TrainSpec(seed=11, settings=Settings(steps=60))
NAME = run_id(SPEC, data_hash="d" * 64)
RUN = RunRecord(
    run_id=NAME, kind="TrainSpec", spec=said(SPEC.fields()), data_hash="d" * 64, environment={"python": "3.99"}
)


@pytest.fixture
def data(tmp_path):
    (tmp_path / RUNS_FILE).write_text(runs_text([RUN]))
    return tmp_path


def test_json_is_the_whole_record(est, data):
    assert json.loads(est("claims", "--run", NAME, "--json", "--data", data).out) == vars(RUN)


def test_a_list_for_a_person(est, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = est("claims", "--run", NAME, "--data", data).out.splitlines()
    facts = dict(line.split(maxsplit=1) for line in lines if not line.startswith(" "))
    assert facts["run"].strip() == NAME
    assert facts["seed"].strip() == "11"
    assert facts["settings.steps"].strip() == "60"
    assert facts["environment.python"].strip() == "3.99"
    assert "".join(lines).count("d") >= 64  # the hash is not cut short


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--run", "est-0"), f"no run 'est-0' in '{RUNS_FILE}'; give a run_id of a CSV file beside it"),
        (("est.loss", "--run", NAME), "--run shows a run, no claims: give only --json or --data with it"),
    ],
)
def test_errors_are_one_line(est, data, arguments, error):
    assert est("claims", *arguments, "--data", ".").error == error
