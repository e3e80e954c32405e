"""How committed runs were made, collected from folders that look like those of runs."""

import json

import pandas as pd
import pytest

from est_analysis.committed.collect import collect_runs
from est_analysis.committed.records import RUNS_FILE, read_runs
from est_analysis.errors import InputError
from est_analysis.experiments.runs.run import prepare_data
from est_analysis.experiments.runs.spec import TrainSpec, run_id
from est_analysis.experiments.small_nets import stability_depth
from est_analysis.experiments.small_nets.polynomials import PolynomialSpec
from est_analysis.train.settings import Settings

ENVIRONMENT = {"python": "3.0", "device": "abacus"}
SETTINGS = Settings(steps=60, lr=0.00123456789)
BANK = PolynomialSpec(method="full", settings=SETTINGS)
LOSS = 1.23456789


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    """Commits runs: `data(name, ...)` -> the folder of a CSV with a loss of each, to six digits, and its own speed."""
    folder = tmp_path / "data"
    folder.mkdir()

    def commit(*names):
        rows = [(name, 0, 60, "validation_loss", float(f"{LOSS:.6g}")) for name in names]
        rows += [(name, 0, 60, "step_seconds", 1.0) for name in names]
        frame = pd.DataFrame(rows, columns=["run_id", "seed", "step", "metric", "value"])
        frame.to_csv(folder / "some_quick.csv", index=False)
        return folder

    return commit


@pytest.fixture
def made(tmp_path):
    """Makes a run folder, as training leaves it; its name."""

    def make(spec, data_hash="", *, loss=LOSS, finished=True, under="runs", name=None):
        name = name or run_id(spec, data_hash=data_hash)
        folder = tmp_path / under / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps({"run_id": name, "spec": spec.fields()}))
        (folder / "env.json").write_text(json.dumps(ENVIRONMENT))
        rows = f"{name},0,60,validation_loss,{loss!r}\n{name},0,60,step_seconds,2.0\n"
        (folder / "rows.csv").write_text(f"run_id,seed,step,metric,value\n{rows}")
        if finished:
            (folder / "finished.json").write_text("{}")
        return name

    return make


def test_a_bank_and_a_model(data, made, tmp_path):
    model = TrainSpec(method="full", corpus="hmm:4,16,0,20000", settings=SETTINGS)
    content = prepare_data(model).hash
    names = made(BANK), made(model, content), made(TrainSpec(method="raptr", settings=SETTINGS), "")  # not committed
    folder = data(*names[:2])
    found = collect_runs([tmp_path / "runs"], folder)
    assert (set(found.added), found.not_kept, found.missing) == (set(names[:2]), (), ())
    runs = read_runs(folder / RUNS_FILE)
    assert runs.keys() == set(names[:2])
    for run in runs.values():
        run.check()
        assert run.environment == ENVIRONMENT
    assert (runs[names[0]].kind, runs[names[0]].data_hash) == ("PolynomialSpec", "")
    assert (runs[names[1]].kind, runs[names[1]].data_hash) == ("TrainSpec", content)


def test_again_changes_nothing_and_more_is_added(data, made, tmp_path):
    one = made(BANK)
    folder = data(one)
    collect_runs([tmp_path / "runs"], folder)
    text = (folder / RUNS_FILE).read_text()
    assert collect_runs([], folder).added == ()
    assert (folder / RUNS_FILE).read_text() == text
    two = made(PolynomialSpec(method="raptr", settings=SETTINGS), under="elsewhere/deeper")
    data(one, two)
    assert collect_runs([], folder).missing == (two,)
    assert collect_runs([tmp_path / "elsewhere"], folder).added == (two,)
    assert read_runs(folder / RUNS_FILE).keys() == {one, two}


@pytest.mark.parametrize("another", [{"loss": LOSS * 1.001}, {"finished": False}])
def test_the_environment_of_another_run_is_not_taken(data, made, tmp_path, another):
    name = made(BANK, **another)
    folder = data(name)
    assert collect_runs([tmp_path / "runs"], folder).not_kept == (name,)
    (folder / RUNS_FILE).unlink()
    made(BANK, under="original")
    assert collect_runs([tmp_path / "runs", tmp_path / "original"], folder).not_kept == ()


def test_a_spec_that_does_not_make_its_id_is_not_taken(data, made, tmp_path):
    name = made(BANK, name="full-000000000000")
    folder = data(name)
    assert collect_runs([tmp_path / "runs"], folder).missing == (name,)
    assert not (folder / RUNS_FILE).exists()


def test_a_text_that_is_gone_is_known_from_other_runs(data, made, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be\n" * 2000)
    one, two = (TrainSpec(method="full", seed=seed, corpus=str(text), settings=SETTINGS) for seed in (0, 1))
    content = prepare_data(one).hash
    names = made(one, content), made(two, content, under="others")
    folder = data(*names)
    collect_runs([tmp_path / "runs"], folder)
    text.unlink()
    assert collect_runs([tmp_path / "others"], folder).missing == ()
    (folder / RUNS_FILE).unlink()
    assert collect_runs([tmp_path / "others"], folder).missing == tuple(sorted(names))


def test_random_nets_need_no_folder(data):
    name = stability_depth.run_id(stability_depth.SCALES["report"], "residual", 15)
    folder = data(name)
    assert collect_runs([], folder).added == (name,)
    read_runs(folder / RUNS_FILE)[name].check()


def test_errors(data, tmp_path):
    with pytest.raises(InputError, match=r"no folder '.*absent'; give folders of runs"):
        collect_runs([tmp_path / "absent"], data("a-0"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no committed rows in"):
        collect_runs([], tmp_path / "empty")
