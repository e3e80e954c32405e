"""`est figures`: what it lists and draws, its errors, and measuring anew."""

import json
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.exhibits.registry import EXHIBITS

DATA = Path(__file__).parents[2] / "paper_figures" / "data"


def test_lists_everything_and_where_it_is_from(est):
    records = json.loads(est("figures", "--list", "--json").out)
    assert [record["name"] for record in records] == list(EXHIBITS)
    found = {record["name"]: record for record in records}
    assert found["est-table4"]["data"] == ["grid_report.csv", "grid_quick.csv"]  # the largest that has Llama
    assert found["est-figure3"]["where"] == "EST, arXiv 2406.06962, Figure 3"
    text = est("figures", "--list").out
    for words in ("est-table9", "raptr-polynomials", f"{len(EXHIBITS)} figures and tables"):
        assert words in text


def test_lists_what_is_not_there_with_its_command(est, tmp_path):
    (record,) = json.loads(est("figures", "grid", "--list", "--json", "--data", tmp_path).out)
    assert record["missing"] == [{"file": "grid_quick.csv", "command": "est run grid --scale quick"}]
    assert "no grid_quick.csv: est run grid --scale quick" in est("figures", "--list", "--data", tmp_path).out


def test_draws_those_that_are_named(est, tmp_path):
    done = est("figures", "est-table4", "learning-rates", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    names = ["est_table4.csv", "est_table4.md", "learning_rates.png", "learning_rates.svg"]
    assert [Path(line).name for line in done.out.split()] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    records = json.loads(est("figures", "est-table4", "--out", "out", "--json").out)
    assert records == [{"name": "est-table4", "files": ["out/est_table4.csv", "out/est_table4.md"]}]


def test_what_has_no_data_is_left_out_of_everything_and_named(est, tmp_path):
    done = est("figures", "--data", tmp_path, "--out", "out")
    assert done.code == 0
    drawn = {Path(line).stem for line in done.out.split()}
    assert drawn == {name.replace("-", "_") for name, exhibit in EXHIBITS.items() if not exhibit.needs}
    left_out = [line for line in done.err.splitlines() if " is left out, no " in line]
    assert len(left_out) == len(done.err.splitlines()) == sum(len(exhibit.needs) for exhibit in EXHIBITS.values())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("est-tabel4",), "unknown figure or table 'est-tabel4': did you mean 'est-table4'?"),
        (("grid", "--data", "absent"), "no folder 'absent'"),
        (("grid", "--scale", "huge"), "unknown scale 'huge'"),
        (("grid", "--scale", "smoke"), "no measured rows at"),
        (("est-table1", "--remeasure"), "no recipe is behind est-table1; it needs no measured rows"),
        (("grid-rates", "--remeasure"), "no recipe is behind grid-rates; what it shows is measured by 'est run grid"),
        (("grid", "--remeasure", "--scale", "gpu", "--data", "new"), "unknown scale of grid 'gpu'"),
    ],
)
def test_errors_are_one_line(est, arguments, error):
    assert est("figures", *arguments).error.startswith(error)


def test_measures_anew(est, tmp_path):
    """At smoke scale: the rows land in a new folder, under the name of that scale, and are drawn from there."""
    where = ("--scale", "smoke", "--data", "new", "--out", "out")
    done = est("figures", "raptr-exponents", "raptr-stability", "--remeasure", *where)
    assert done.code == 0, done.err
    file = tmp_path / "new" / "stability_vs_depth_smoke.csv"
    assert f"est run stability-vs-depth --scale smoke --runs runs: its rows, thinned, go to new/{file.name}" in done.err
    assert done.err.count("est run") == 1  # once for both
    assert set(pd.read_csv(file)["metric"]) >= {"mean_psi"}
    table = pd.read_csv(tmp_path / "out" / "raptr_exponents.csv")
    # Too few depths for an exponent, which is what the rows of smoke scale say.
    assert table.set_index("row").loc["no residual", "why_empty"].startswith("mean_psi of 'norm' was recorded at")
    again = est("figures", "raptr-exponents", *where)
    assert again.code == 0
    assert not list((tmp_path / "new").glob(".*"))
