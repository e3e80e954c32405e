"""The papers' tables: published numbers are those of the file of them, ours those of the claims."""

from math import exp
from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest

from est_analysis.claims import CLAIMS, judge
from est_analysis.exhibits.cells import DIFFERENCE
from est_analysis.exhibits.data import DataFolder
from est_analysis.exhibits.est_tables import table5
from est_analysis.exhibits.raptr_tables import EXPONENT
from est_analysis.exhibits.registry import EXHIBITS
from est_analysis.exhibits.table import Table

TESTS = Path(__file__).parents[1]
DATA = TESTS.parent / "paper_figures" / "data"
synthetic_grid = run_path(str(TESTS / "synthetic_grid.py"))
flatness_frame = run_path(str(TESTS / "synthetic_flatness.py"))["flatness_frame"]
TABLES = [name for name in EXHIBITS if name.startswith("est-table")]


@pytest.fixture(scope="module")
def data():
    return DataFolder(DATA)


@pytest.fixture(scope="module")
def tables(data):
    drawn = {name: exhibit.draw(data) for name, exhibit in EXHIBITS.items() if not exhibit.needs}
    assert all(isinstance(table, Table) for table in drawn.values())
    return drawn


def test_there_are_nine_tables_of_est_and_three_of_raptr(tables):
    assert set(TABLES) == {f"est-table{number}" for number in range(1, 10)}
    assert tables.keys() - set(TABLES) == {"raptr-bert", "raptr-ul2", "raptr-exponents"}


@pytest.mark.parametrize("name", TABLES)
def test_every_published_number_is_in_its_table_and_no_other(tables, data, name):
    number, cells = name.removeprefix("est-table"), tables[name].cells
    entries = [entry for entry in data.published.books["EST"].entries if entry.table == number]
    assert len(entries) >= 6
    for entry in entries:
        assert cells[entry.row, entry.column].published == entry.value
    known = {(entry.row, entry.column) for entry in entries}
    for (row, column), cell in cells.items():
        derived = column == DIFFERENCE or "speed-up of" in row or row == "EST / Original"
        if cell.published and not derived and not cell.where:
            assert (row, column) in known


@pytest.mark.parametrize("name", TABLES)
def test_what_could_not_be_read_is_marked(tables, data, name):
    lost = {
        (row, column): why
        for (paper, table, row, column), why in data.published.unreadable.items()
        if (paper, table) == ("EST", name.removeprefix("est-table"))
    }
    for at, why in lost.items():
        assert tables[name].cells[at].lost == why


def test_an_empty_cell_says_why(tables):
    for name, table in tables.items():
        for (row, column), cell in table.cells.items():
            baseline = row == "Original" and column in ("saving FLOPs", "saving of all FLOPs", DIFFERENCE, "speed-up")
            if cell.ours is None and not baseline and column != "saving FLOPs":
                assert cell.why, (name, row, column)


def test_est_where_table_2_could_not_be_read_is_taken_from_table_3(tables):
    cell = tables["est-table2"].cells["EST", "loss"]
    assert (cell.published, cell.where) == ("3.05", "Table 3")
    assert tables["est-table2"].cells["EST", DIFFERENCE].published == "-0.01"
    assert tables["est-table2"].cells["MSG", "loss"].published == ""


def test_notes_say_what_the_numbers_are(tables):
    notes = {name: " ".join(table.notes) for name, table in tables.items()}
    for name, what in (("est-table2", "speed-ups"), ("est-table5", "ratios")):
        assert f"Our {what} are geometric means over seeds with 95 % t intervals of the logarithm." in notes[name]
    saving = tables["est-table4"].cells["EST", "saving FLOPs"].ours.effect
    assert f"On GPT-2 they save 26.7 %, here {saving:.1f} %" in notes["est-table4"]


def test_the_note_on_size_follows_the_length_of_training(tmp_path):
    frame = synthetic_grid["grid_frame"](families=("gpt2",))
    longest = frame.loc[frame["budget"] == 1, "step"].max()
    for steps, tokens in ((600, 2), (2400, 10)):  # 1,024 tokens a step, 250,000 parameters
        frame.assign(step=frame["step"] * steps // longest).to_csv(tmp_path / "grid_quick.csv", index=False)
        notes = " ".join(EXHIBITS["est-table2"].draw(DataFolder(tmp_path)).notes)
        assert f"about 250,000 parameters and are trained on about {tokens} tokens a parameter" in notes
    assert "trained on few tokens, of other text" in " ".join(EXHIBITS["est-table4"].draw(DataFolder(tmp_path)).notes)


def test_table_1_is_computed(tables):
    for (row, column), cell in tables["est-table1"].cells.items():
        assert cell.ours.effect == pytest.approx(float(cell.published)), (row, column)


# Ours -----------------------------------------------------------------------------------------------------------------

SAME = {
    ("est-table2", "EST", DIFFERENCE): "grid.est-full.gpt2",
    ("est-table2", "EST", "speed-up"): "est.speed-up",
    ("est-table4", "EST", DIFFERENCE): "grid.est-full.llama",
    ("raptr-bert", "RaPTr 6-8-10-12", DIFFERENCE): "grid.raptr-full.megatron-bert",
    ("raptr-ul2", "RaPTr", DIFFERENCE): "grid.raptr-full.t5",
    ("raptr-exponents", "residual + layer norm", EXPONENT): "raptr.stability-residual-norm",
    ("raptr-exponents", "no layer norm", EXPONENT): "raptr.stability-residual",
    ("raptr-exponents", "no residual", EXPONENT): "raptr.stability-norm",
}


@pytest.mark.parametrize(("name", "row", "column"), SAME)
def test_ours_are_the_claims(tables, data, name, row, column):
    claim = CLAIMS[SAME[name, row, column]]
    verdicts = [judge([claim], data.find(claim.recipe, scale).frame, scale)[0] for scale in data.scales(claim.recipe)]
    verdict = next(one for one in verdicts if one.verdict != "untested")
    found = tables[name].cells[row, column].ours
    assert (found.effect, found.interval, found.seeds) == (verdict.effect, verdict.interval, verdict.seeds)


def test_table_5_refuses_to_compare_where_the_claim_does(tables, data):
    (verdict,) = judge([CLAIMS["est.flatness"]], data.rows("reproduce"), "quick")
    cell = tables["est-table5"].cells["EST / Original", "Hessian trace"]
    assert cell.published == "0.21"  # 2510 / 11763
    assert (cell.ours is None) == (verdict.verdict == "untested")
    if cell.ours is None:
        assert cell.why == verdict.detail


def test_a_family_is_taken_from_the_largest_scale_that_has_it(tmp_path):
    frame = synthetic_grid["grid_frame"](families=("gpt2", "llama"))
    frame.to_csv(tmp_path / "grid_quick.csv", index=False)
    frame[frame["family"] == "gpt2"].to_csv(tmp_path / "grid_report.csv", index=False)
    data = DataFolder(tmp_path)
    assert data.scales("grid") == ["report", "quick"]
    for table, scale in {"est-table2": "report", "est-table4": "quick"}.items():
        assert f"{scale} scale" in EXHIBITS[table].draw(data).cells["EST", "loss"].source
    assert EXHIBITS["raptr-bert"].draw(data).cells["PLD", "loss"].why == (
        "no run of family 'megatron-bert' at the common budget"
    )
    short = {"grid_gaps", "grid_frontier", "grid_losses"}
    drawn = EXHIBITS["grid"].draw(data)
    assert set(drawn) == short | {"grid_lengths", "grid_losses_longer"}
    assert drawn["grid_losses"].columns == ["GPT-2", "Llama"]
    assert drawn["grid_losses_longer"].columns == ["GPT-2"]
    assert set(EXHIBITS["grid"].draw(DataFolder(tmp_path, "quick"))) == short


def test_a_planted_grid_and_curves(tmp_path, make_frame):
    frame = synthetic_grid["grid_frame"](families=("gpt2", "llama"))
    frame.to_csv(tmp_path / "grid_quick.csv", index=False)
    make_frame().to_csv(tmp_path / "reproduce_quick.csv", index=False)
    flatness_frame().to_csv(tmp_path / "flatness_quick.csv", index=False)
    data = DataFolder(tmp_path)
    cells = EXHIBITS["est-table2"].draw(data).cells
    for row, method in {"MSG": "msg", "EST": "est", "full model, shorter (ours)": "short"}.items():
        assert cells[row, DIFFERENCE].ours.effect == pytest.approx(synthetic_grid["GAPS"][method])
        saved = 100 * (1 - synthetic_grid["SHARES"][method])
        assert cells[row, "saving of all FLOPs"].ours.effect == pytest.approx(saved)
    assert cells["Staged Training", "loss"].why == "no run of method 'staged' at this scale"
    cells = EXHIBITS["est-table3"].draw(data).cells
    assert cells["EST", DIFFERENCE].source == "grid on gpt2, quick scale, 3 seeds"
    assert cells["EST-ONE-STAGE", DIFFERENCE].why == "'est run est-ablations --scale quick' measures it"
    cells = table5(data).cells
    assert cells["EST", "Hessian trace"].ours.effect == pytest.approx(1020.0)  # 1000 (1 + 0.02 seed)
    assert cells["EST / Original", "Hessian trace"].ours.effect == pytest.approx(0.5)
    low, high = cells["EST / Original", "Hessian trace"].ours.interval
    assert low == pytest.approx(high) == pytest.approx(0.5)


def test_table_5_at_equal_loss(tmp_path):
    """Planted: every part of EST's trace is exp(-0.4) of the full model's at the same loss."""
    flatness_frame(effects={"est": (-0.4, -0.4, -0.4)}).to_csv(tmp_path / "flatness_quick.csv", index=False)
    cells = table5(DataFolder(tmp_path)).cells
    for name in ("Python source", "a hidden Markov model's language"):
        cell = cells[f"EST / Original at equal loss, each at its best rate, {name} (ours)", "Hessian trace"]
        assert cell.ours.effect == pytest.approx(exp(-0.4))


def test_table_3_prefers_the_ablations(tmp_path, make_frame):
    synthetic_grid["grid_frame"](families=("gpt2",)).to_csv(tmp_path / "grid_quick.csv", index=False)
    frame = make_frame()
    one = frame[frame["method"] == "est"].assign(method="est/one-stage", run_id=lambda rows: "one-" + rows["run_id"])
    pd.concat([frame, one]).to_csv(tmp_path / "est_ablations_quick.csv", index=False)
    cells = EXHIBITS["est-table3"].draw(DataFolder(tmp_path)).cells
    for row in ("EST", "EST-ONE-STAGE"):
        assert cells[row, DIFFERENCE].ours.effect == pytest.approx(-0.02)
        assert cells[row, DIFFERENCE].source == "est-ablations, quick scale, 3 seeds"
