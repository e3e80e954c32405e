"""Where rows are looked for, and what is said where they are not."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.claims.evidence import SOURCES
from est_analysis.errors import InputError
from est_analysis.exhibits.data import DataFolder, rows_file
from est_analysis.exhibits.published import read_published

DATA = Path(__file__).parents[2] / "paper_figures" / "data"


def test_the_files_are_those_of_the_claims():
    for source in SOURCES:
        assert rows_file(source.recipe, source.scale) == source.file


def test_the_largest_scale_that_is_there(tmp_path, make_frame):
    quick, report = tmp_path / "reproduce_quick.csv", tmp_path / "reproduce_report.csv"
    make_frame().to_csv(quick, index=False)
    assert DataFolder(tmp_path).path("reproduce") == quick
    make_frame(seeds=(0, 1)).to_csv(report, index=False)
    assert DataFolder(tmp_path).path("reproduce") == report
    assert DataFolder(tmp_path).find("reproduce").label == "reproduce, report scale, 2 seeds"
    assert DataFolder(tmp_path, "quick").find("reproduce").label == "reproduce, quick scale, 3 seeds"
    assert DataFolder(tmp_path, "smoke").path("reproduce").name == "reproduce_smoke.csv"


def test_what_is_not_there_names_the_command(tmp_path):
    folder = DataFolder(tmp_path)
    assert folder.find("grid").missing == "'est run grid --scale quick' measures it"
    with pytest.raises(InputError) as error:
        folder.rows("grid")
    path = tmp_path / "grid_quick.csv"
    assert str(error.value) == (
        f"no measured rows at '{path}': 'est run grid --scale quick' makes them, and 'est figures --remeasure' does so "
        "and puts them there"
    )
    with pytest.raises(InputError, match=r"est_step_times\.csv': 'python benchmarks/est_tables_8_9\.py --device cuda"):
        folder.rows("step-times")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "grid_quick.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"grid_quick\.csv' cannot be used"):
        DataFolder(tmp_path).find("grid")


@pytest.mark.parametrize(("folder", "scale", "words"), [("absent", "", "no folder"), ("", "tiny", "unknown scale")])
def test_a_bad_folder_or_scale(tmp_path, folder, scale, words):
    with pytest.raises(InputError, match=words):
        DataFolder(tmp_path / folder, scale)


# Published values -----------------------------------------------------------------------------------------------------


def test_published_values_are_those_of_the_folder_or_of_the_repository(tmp_path):
    assert read_published(tmp_path).text("EST", "2", "EST", "speed-up") == "1.22x"
    for name in ("published.csv", "unreadable.csv"):
        shutil.copy(DATA / name, tmp_path)
    own = (tmp_path / "published.csv").read_text().replace("EST,2,,EST,speed-up,1.22x", "EST,2,,EST,speed-up,9x")
    (tmp_path / "published.csv").write_text(own)
    assert read_published(tmp_path).text("EST", "2", "EST", "speed-up") == "9x"
    (tmp_path / "unreadable.csv").unlink()
    with pytest.raises(InputError, match="no list of unreadable values"):
        read_published(tmp_path)


def test_what_could_not_be_read_is_nowhere_given():
    published = read_published(DATA)
    assert len(published.unreadable) > 30
    for (paper, table, row, column), why in published.unreadable.items():
        assert why
        assert not published.text(paper, table, row, column)
    assert published.lost("EST", "2", "MSG", "loss") == "the row is lost in the text that could be read"
    assert published.lost("EST", "3", "EST", "loss") == ""


def test_published_values_are_complete():
    values = pd.read_csv(DATA / "published.csv", dtype=str)
    assert values.columns.tolist() == ["paper", "table", "page", "row", "column", "value"]
    assert not values.duplicated(["paper", "table", "row", "column"]).any()
    assert values["value"].notna().all()
    tables = {"1": 10, "2": 16, "3": 35, "4": 10, "5": 6, "6": 60, "7": 16, "8": 36, "9": 36}
    text = {"abstract": 2, "section 3.3": 1, "section 4.1": 7, "section 4.2": 6, "section A.3": 2}
    counts = values.groupby("paper")["table"].value_counts()
    assert counts["EST"].to_dict() == tables | text
    assert counts["RaPTr"].to_dict() == {
        "BERT-base experiments": 4,
        "UL2 experiments": 4,
        "theory of stage transitions": 5,
    }
