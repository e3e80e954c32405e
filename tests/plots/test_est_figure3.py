import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "paper_figures" / "est_figure3.py"


@pytest.fixture(scope="module")
def script():
    return run_path(str(SCRIPT))


def test_draws_from_rows(script, make_frame, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    make_frame().to_csv(rows, index=False)
    assert script["main"](["--data", str(rows), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "est_figure3.png").stat().st_size > 10_000
    assert "est_figure3.svg" in capsys.readouterr().out


def test_figure_holds_the_two_methods_and_the_published_losses(script, make_frame):
    figure = script["draw"](make_frame())
    drawn = {line.get_gid() for ax in figure.axes for line in ax.lines}
    assert {"mean:full", "mean:est"} <= drawn
    assert "mean:raptr" not in drawn
    assert "3.06 (full model) and 3.05 (EST)" in figure.get_suptitle()


def test_absent_data_is_one_clear_line(tmp_path):
    absent = tmp_path / "absent.csv"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--data", str(absent)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == f"error: no measured data at '{absent}': run the recipe 'reproduce' and copy its rows.csv there"
    )


def test_published_values_are_complete():
    values = pd.read_csv(ROOT / "paper_figures" / "data" / "published.csv", dtype=str)
    assert values.columns.tolist() == ["paper", "table", "page", "row", "column", "value"]
    assert not values.duplicated(["paper", "table", "row", "column"]).any()
    assert values["value"].notna().all()
    tables = {"1": 4, "2": 16, "3": 35, "4": 10, "5": 6, "6": 60, "7": 16, "8": 36, "9": 36}
    text = {"abstract": 2, "section 3.3": 1, "section 4.1": 7, "section 4.2": 6, "section A.3": 2}
    assert values["table"].value_counts().to_dict() == tables | text
