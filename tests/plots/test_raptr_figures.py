import sys
from pathlib import Path
from runpy import run_path

import pytest

FOLDER = Path(__file__).parents[2] / "paper_figures"
SCRIPTS = {
    "raptr_polynomials": ("poly-raptr-vs-pld", ("full", "raptr", "pld"), "raptr_polynomials_final"),
    "raptr_transitions": ("transition-smoothness", ("raptr", "raptr/no-norm", "pld"), "raptr_transitions_losses"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_draws_from_rows(name, make_polynomials, tmp_path, capsys):
    _, methods, second = SCRIPTS[name]
    make_polynomials(methods=methods).to_csv(tmp_path / "rows.csv", index=False)
    main = run_path(str(FOLDER / f"{name}.py"))["main"]
    assert main(["--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path)]) == 0
    printed = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert printed == [f"{one}.{ending}" for one in (name, second) for ending in ("png", "svg")]
    assert all((tmp_path / one).stat().st_size > 10_000 for one in printed)


@pytest.mark.parametrize("name", SCRIPTS)
def test_absent_data_is_one_line_that_names_the_command(name, tmp_path, capsys, monkeypatch):
    absent = tmp_path / "absent.csv"
    monkeypatch.setattr(sys, "argv", [name, "--data", str(absent)])
    with pytest.raises(SystemExit) as stop:
        run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    command = f"est run {SCRIPTS[name][0]} --scale report"
    assert error == f"error: no measured data at '{absent}': run '{command}' and thin its rows.csv with data/thin.py\n"


@pytest.mark.parametrize("name", SCRIPTS)
def test_rows_of_another_recipe_are_one_line(name, make_frame, tmp_path, capsys):
    make_frame().to_csv(tmp_path / "rows.csv", index=False)
    main = run_path(str(FOLDER / f"{name}.py"))["main"]
    assert main(["--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no rows of metric")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert main(["--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path)]) == 2
    assert "is not a tidy frame" in capsys.readouterr().err
