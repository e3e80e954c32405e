"""Tables: what a cell says, and that Markdown and CSV say the same."""

import pandas as pd
import pytest

from est_analysis.claims import Measured, NotMeasured
from est_analysis.exhibits.data import Rows
from est_analysis.exhibits.table import Cell, Table, exact, measured, save_table

FOUND = Measured(effect=1.25, interval=(1.0, 1.5), unit="nats", seeds=3)
ROWS = Rows(source="grid", scale="quick", frame=pd.DataFrame({"seed": [0, 1, 1]}))


def _table(**cells):
    return Table(title="Title", locus="EST, Table 2", heading="method", cells=cells.pop("cells"), **cells)


def test_a_cell_holds_what_was_found_and_from_where():
    cell = measured(ROWS, lambda frame: FOUND, published="1.2", form=".1f")
    assert (cell.ours, cell.source, cell.published) == (FOUND, "grid, quick scale, 2 seeds", "1.2")
    assert cell.ours_text == "1.2 [1.0, 1.5]"


def test_an_interval_without_width_is_not_shown():
    narrow = Measured(effect=26.667, interval=(26.6669, 26.6671), unit="%", seeds=3)
    assert Cell(ours=narrow, form=".1f").ours_text == "26.7"
    assert Cell(ours=narrow, form=".4f").ours_text == "26.6670 [26.6669, 26.6671]"


def test_a_cell_says_why_it_is_empty():
    def nothing(frame):
        raise NotMeasured("no run of method 'msg'")

    assert measured(ROWS, nothing).why == "no run of method 'msg'"
    absent = Rows(source="grid", scale="quick", frame=None, missing="'est run grid' measures it")
    assert measured(absent, lambda frame: FOUND).why == "'est run grid' measures it"


def test_markdown():
    cells = {
        ("Original", "loss"): Cell(published="3.06", ours=FOUND, source="grid"),
        ("Original", "GLUE"): Cell(published="79.84", why="needs a download"),
        ("MSG", "loss"): Cell(lost="the row is lost", why="not | run"),
        ("MSG", "GLUE"): Cell(published="80", where="Table 3", why="needs a download"),
        ("EST", "loss"): Cell(lost="the row is lost", ours=FOUND, source="grid"),
    }
    text = _table(cells=cells, notes=("A note.",)).markdown()
    assert text.splitlines()[4:10] == [
        "| method | loss, paper | loss, ours | GLUE, paper |",
        "|---|---:|---:|---:|",
        "| Original | 3.06 | 1.250 [1.000, 1.500] | 79.84 |",
        "| MSG | ?<sup>a</sup> | -<sup>b</sup> | 80 (Table 3) |",
        "| EST | ?<sup>a</sup> | 1.250 [1.000, 1.500] |  |",
        "",
    ]
    assert "<sup>a</sup> the row is lost.<br>\n<sup>b</sup> not | run.\n" in text
    assert "Nothing of ours for GLUE: needs a download." in text
    assert "Ours from: grid." in text
    assert text.endswith("\nA note.\n")


def test_csv_holds_the_numbers(tmp_path):
    cells = {
        ("Original", "loss"): Cell(published="3.06", ours=FOUND, source="grid"),
        ("EST", "loss"): Cell(published="3.05", where="Table 3", lost="lost", why="not run"),
        ("EST", "share"): exact(0.25, "computed"),
    }
    rows, text = save_table(_table(cells=cells), tmp_path / "new", "est_table2")
    assert (rows.name, text.name) == ("est_table2.csv", "est_table2.md")
    found = pd.read_csv(rows, keep_default_na=False, dtype=str).set_index(["row", "column"])
    assert found.loc[("Original", "loss"), ["published", "published_in", "ours", "low", "high", "seeds"]].tolist() == [
        "3.06", "Table 2", "1.25", "1", "1.5", "3",
    ]  # fmt: skip
    assert found.loc[("EST", "loss"), ["published_in", "unreadable", "ours", "why_empty"]].tolist() == [
        "Table 3", "lost", "", "not run",
    ]  # fmt: skip
    assert found.loc[("EST", "share"), ["published", "ours", "source"]].tolist() == ["", "0.25", "computed"]


def test_rows_are_named_where_a_column_has_two_sources():
    cells = {
        ("Original", "loss"): Cell(ours=FOUND, source="curves"),
        ("Original", "trace"): Cell(ours=FOUND, source="curves"),
        ("EST", "trace"): Cell(ours=FOUND, source="curves"),
        **{(f"ratio {number}", "trace"): Cell(ours=FOUND, source="ratios") for number in range(3)},
    }
    text = _table(cells=cells).markdown()
    assert "Ours for loss and trace (Original and EST) from: curves.\n" in text
    assert "Ours for trace (other rows) from: ratios.\n" in text


@pytest.mark.parametrize("whole", [True, False])
def test_where_nothing_at_all_is_ours(whole):
    cells = {
        ("a", "x"): Cell(published="1", why="no GPU"),
        ("a", "y"): Cell(published="2", why="no GPU" if whole else ""),
    }
    text = _table(cells=cells).markdown()
    assert ("Nothing of ours: no GPU." if whole else "Nothing of ours for x: no GPU.") in text
    assert "Ours from" not in text
