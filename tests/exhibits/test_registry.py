"""Every figure and table is drawn from what is committed, by the command's name and by its script."""

from pathlib import Path
from runpy import run_path

import pytest

from est_analysis.errors import InputError
from est_analysis.exhibits.data import OTHER_FILES, DataFolder
from est_analysis.exhibits.registry import EXHIBITS, find_exhibits, make
from est_analysis.experiments.studies import STUDIES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "paper_figures"
SCRIPTS = {path.stem: path.stem.replace("_", "-") for path in sorted(FOLDER.glob("*.py")) if path.stem != "readme"}


class Noting(DataFolder):
    """Notes which sources were read."""

    def __init__(self, folder):
        super().__init__(folder)
        self.read = set()

    def find(self, source, scale=""):
        self.read.add(source)
        return super().find(source, scale)


@pytest.mark.parametrize("name", EXHIBITS)
def test_is_drawn_from_committed_data(name, tmp_path):
    data, exhibit = Noting(FOLDER / "data"), EXHIBITS[name]
    if absent := [source for source in exhibit.needs if not data.path(source).is_file()]:
        pytest.skip(f"no committed rows of {', '.join(absent)}")
    files = make(exhibit, data, tmp_path)
    assert data.read == set(exhibit.sources)  # so that --list and --remeasure tell the truth
    assert {path.suffix for path in files} >= ({".png", ".svg"} if exhibit.needs else {".csv", ".md"})
    for path in files:
        assert path.parent == tmp_path
        assert path.stat().st_size > (10_000 if path.suffix == ".png" else 300)
        if path.suffix in {".csv", ".md"}:
            assert path.read_text() == (FOLDER / path.name).read_text(), "run est figures again, then readme.py"


def test_names_and_sources_are_known():
    stems = [name.replace("-", "_") for name in EXHIBITS]
    assert len(set(stems)) == len(stems)
    for exhibit in EXHIBITS.values():
        assert set(exhibit.sources) <= STUDIES.keys() | OTHER_FILES.keys()
        assert exhibit.locus or not exhibit.name.startswith("est-table")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(
        InputError, match=r"unknown figure or table 'est-figur3': did you mean 'est-figure3'\? Known: est-"
    ):
        find_exhibits(["est-figur3"])
    assert [one.name for one in find_exhibits(["grid", "est-table1", "grid"])] == ["grid", "est-table1"]
    assert len(find_exhibits([])) == len(EXHIBITS)


@pytest.mark.parametrize("name", [name for name, exhibit in EXHIBITS.items() if exhibit.needs])
def test_absent_data_is_one_line_that_names_the_command(name, tmp_path):
    with pytest.raises(InputError) as error:
        make(EXHIBITS[name], DataFolder(tmp_path), tmp_path)
    text = str(error.value)
    assert text.startswith(f"no measured rows at '{tmp_path}/")
    assert "' makes them" in text
    assert "\n" not in text
    assert "est run " in text or "est train " in text


def test_rows_of_another_recipe_are_one_line(make_frame, tmp_path):
    make_frame().to_csv(tmp_path / "grid_quick.csv", index=False)
    for name in ("grid", "est-figure4"):
        with pytest.raises(InputError, match=f"^{name} cannot be drawn from"):
            make(EXHIBITS[name], DataFolder(tmp_path), tmp_path)


@pytest.mark.parametrize("end", ["\nest-1,est,0.0", "\n\udcff\udcfe"], ids=["cut", "binary"])
def test_a_damaged_sweep_is_one_line_with_the_fix(tmp_path, end):
    whole = (FOLDER / "data" / "learning_rates.csv").read_text().rstrip()
    (tmp_path / "learning_rates.csv").write_text(whole + end, errors="surrogateescape")
    with pytest.raises(
        InputError, match=r"learning_rates.csv' cannot be used: .*est run reproduce --scale rates.*rates.csv"
    ):
        make(EXHIBITS["learning-rates"], DataFolder(tmp_path), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write est-table6 into"):
        make(EXHIBITS["est-table6"], DataFolder(FOLDER / "data"), tmp_path / "file")


# Scripts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_called_as_what_it_draws(script):
    assert SCRIPTS[script] in EXHIBITS
    assert f'run_script, "{SCRIPTS[script]}"' in (FOLDER / f"{script}.py").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_draws_what_the_command_does(script, tmp_path, capsys):
    main = run_path(str(FOLDER / f"{script}.py"))["main"]
    assert main(arguments=["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no measured rows at '{tmp_path}/")
    if script == "learning_rates":  # the quickest
        assert main(arguments=["--out", str(tmp_path)]) == 0
        printed = capsys.readouterr().out.split()
        assert printed == [
            str(path) for path in make(EXHIBITS["learning-rates"], DataFolder(FOLDER / "data"), tmp_path)
        ]


# What they show -------------------------------------------------------------------------------------------------------


def _drawn(name, tmp_path, frame, file):
    frame.to_csv(tmp_path / file, index=False)
    return EXHIBITS[name].draw(DataFolder(tmp_path))


def test_figure_3_holds_the_two_methods_and_the_published_losses(make_frame, tmp_path):
    figure = _drawn("est-figure3", tmp_path, make_frame(), "reproduce_quick.csv")["est_figure3"]
    drawn = {line.get_gid() for ax in figure.axes for line in ax.lines}
    assert {"mean:full", "mean:est"} <= drawn
    assert "mean:raptr" not in drawn
    assert "3.06 (full model) and 3.05 (EST)" in figure.get_suptitle()


def test_figure_2_says_what_the_claim_measures(make_frame, tmp_path):
    figure = _drawn("est-figure2", tmp_path, make_frame(), "reproduce_quick.csv")["est_figure2"]
    # Planted: the subnetwork's gap shrinks by 0.3 at both transitions.
    assert "by -0.29" in figure.get_suptitle() or "by -0.30" in figure.get_suptitle()


def test_figure_4_needs_the_curves_of_llama(tmp_path):
    frame = run_path(str(ROOT / "tests" / "synthetic_grid.py"))["grid_frame"](families=("llama",))
    with pytest.raises(ValueError, match="no loss curves of Llama to draw: train_loss of 'full' was not recorded"):
        _drawn("est-figure4", tmp_path, frame, "grid_quick.csv")
