"""`est run reproduce` from nothing to a report, and again from what it kept."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

from est_analysis.__main__ import app
from est_analysis.claims.registry import CLAIMS
from est_analysis.experiments.studies import STUDIES

ON_TEXT = [name for name, claim in CLAIMS.items() if claim.recipe == "reproduce"]


@pytest.fixture
def reproduce(est, shared):
    fixed = ["--scale", "smoke", "--workers", "2", "--runs", "runs", "--out", "report", "--corpus", shared / "text.txt"]
    return lambda *more: est("run", "reproduce", *fixed, *more)


def test_smoke_from_nothing_and_again(reproduce, tmp_path, shared):
    first = reproduce("--json")
    assert first.code == 0, first.err
    record = json.loads(first.out)
    assert (record["scale"], record["recipe"], record["seeds"]) == ("smoke", "reproduce", [0])
    assert record["command"] == f"est run reproduce --scale smoke --corpus {shared / 'text.txt'}"
    assert [claim["id"] for claim in record["claims"]] == [
        name for name, claim in CLAIMS.items() if claim.recipe == "reproduce"
    ]
    assert {claim["scale"] for claim in record["claims"]} == {"smoke"}
    report = tmp_path / "report"
    assert record["report"] == "report/report.html"
    html, markdown = ((report / name).read_text() for name in ("report.html", "report.md"))
    for claim in ON_TEXT:
        assert claim in html
        assert claim in markdown
    assert len(pd.read_csv(report / "claims.csv")) == len(ON_TEXT)
    assert list(report.rglob("*.png")) or list(report.rglob("*.svg"))
    rows = pd.read_csv(report / "rows.csv")
    assert set(rows["method"]) == {"full", "est", "raptr"}
    assert {"train_loss", "validation_loss", "hessian_trace", "step_seconds"} <= set(rows["metric"])
    assert rows.groupby("method")["step"].max().tolist() == [60, 60, 60]
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [name.partition("-")[0] for name in folders] == ["est", "full", "raptr"]

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*") if path.is_file()}
    second = reproduce()
    assert second.code == 0, second.err
    *lines, last = second.out.splitlines()
    assert last.endswith("Report: report/report.html")
    assert [line.split("\t")[0] for line in lines] == ON_TEXT
    assert {line.split("\t")[3] for line in lines} == {"smoke"}
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.*") if path.is_file()}
    pd.testing.assert_frame_equal(pd.read_csv(report / "rows.csv"), rows)  # times included: nothing was run


def test_a_sweep_as_json_holds_its_rates_and_no_claims(est, monkeypatch):
    columns = ["method", "family", "budget", "lr", "seed", "value"]
    runs = [
        ("est", "gpt2", 1.0, 2e-3, 100, 2.0),
        ("est", "gpt2", 1.0, 4e-3, 100, 2.5),
        ("est", "t5", 1.0, 4e-3, 100, 3.0),
    ]
    frame = pd.DataFrame(runs, columns=columns).assign(metric="validation_loss", step=600, schedule="")
    frame["run_id"] = [f"est-{number}" for number in range(len(runs))]
    monkeypatch.setitem(STUDIES, "grid", replace(STUDIES["grid"], measure=lambda request: (frame, {})))
    record = json.loads(est("run", "grid", "--scale", "rates", "--json").out)
    assert record["claims"] == []
    assert [(one["family"], one["lr"]) for one in record["best_rates"]] == [("gpt2", 2e-3), ("t5", 4e-3)]
    assert sorted(one["run_id"] for one in record["rates"]) == ["est-0", "est-1", "est-2"]
    assert {(one["steps"], one["seed"], one["method"]) for one in record["rates"]} == {(600, 100, "est")}


def test_list(est):
    listed = json.loads(est("run", "list", "--json").out)
    assert {name: one["scales"] for name, one in listed.items()} == {name: one.scales for name, one in STUDIES.items()}
    out = est("run", "list").out
    for name, study in STUDIES.items():
        assert all(part in out for part in (name, study.description, *(f"--scale {one}: " for one in study.scales)))


def test_help_names_every_recipe_and_every_scale():
    shown = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"}).invoke(app, ["run", "--help"]).output
    words = {word.strip(".,;'") for word in shown.split()}
    assert words >= STUDIES.keys()
    assert words >= {scale for study in STUDIES.values() for scale in study.scales}
    assert "'est run list' shows" in " ".join(shown.replace("│", " ").split())


def test_help_names_every_recipe():
    """It has them as text: to import them would load torch for a page of help."""
    from est_analysis.commands.run import _RECIPES
    from est_analysis.experiments.studies import STUDIES

    assert set(_RECIPES.replace(" or ", ", ").split(", ")) == set(STUDIES)
