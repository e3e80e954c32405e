"""Tables of our own hold what was planted, in the rows' order, and leave open what did not run."""

from math import log
from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest

from est_analysis.exhibits.own_tables import ablation_losses, grid_losses, traces_at_equal_loss

TESTS = Path(__file__).parents[1]
grid_frame = run_path(str(TESTS / "synthetic_grid.py"))["grid_frame"]


def test_a_method_that_ran_on_one_family_only_has_one_entry():
    frame = grid_frame(families=("gpt2", "llama"))
    frame = frame[(frame["family"] == "gpt2") | (frame["method"] != "pld")]
    (table,) = grid_losses([frame]).values()
    assert table.columns == ["GPT-2", "Llama"]
    assert table.cells["PLD", "GPT-2"].ours.seeds == frame["seed"].nunique()
    assert table.cells["PLD", "Llama"].ours is None
    losses = frame[(frame["family"] == "gpt2") & (frame["budget"] == 1) & (frame["metric"] == "validation_loss")]
    last = losses[losses["step"] == losses["step"].max()].groupby("method")["value"].mean()
    assert table.cells["full model: its loss", "GPT-2"].ours.effect == pytest.approx(last["full"])
    assert table.cells["EST", "GPT-2"].ours.effect == pytest.approx(last["est"] - last["full"])
    assert table.markdown().startswith("## Methods on four families after ")
    assert "| method | GPT-2 | Llama |" in table.markdown()  # nothing is a paper's: nothing is called ours


def test_what_cannot_be_compared_says_why():
    frame = grid_frame(families=("gpt2",))
    (table,) = grid_losses([frame[frame["method"] != "full"]]).values()
    assert table.cells["EST", "GPT-2"].why == "no run of method 'full' at this scale"
    frame = run_path(str(TESTS / "synthetic_ablations.py"))["ablation_frame"]()
    lost = (frame["method"] == "est/mild") & (frame["metric"] == "layer_flops")
    cells = ablation_losses(frame[~lost].drop(columns="lr", errors="ignore"), "Ablations").cells
    assert cells["EST, rates ¾", "nats per 10 % saved"].why == "layer_flops of 'est/mild' was not recorded"
    assert not any(column == "learning rate" for _, column in cells)


def test_several_lengths_are_the_shortest_and_the_longest():
    assert list(grid_losses([grid_frame()] * 3)) == ["grid_losses", "grid_losses_longer"]


def test_what_an_ablation_costs_for_what_it_saves():
    frame = run_path(str(TESTS / "synthetic_ablations.py"))["ablation_frame"]().assign(lr=2e-3)
    table = ablation_losses(frame, "Ablations")
    gap, saved, price = (
        table.cells["EST", column].ours.effect
        for column in ("loss minus the full model's", "layer FLOPs saved, %", "nats per 10 % saved")
    )
    assert price == pytest.approx(10 * gap / saved, rel=0.05)
    assert table.cells["EST", "learning rate"].ours_text == "0.002"
    assert table.rows[0] == "full model: its loss"


def test_ratios_are_geometric_means_by_language_and_length():
    short = pd.DataFrame({"seed": [0, 1], "value": [log(2), log(8)]})
    short = short.assign(what="whole model", method="est", corpus="text", steps=600)
    long = short.assign(value=log(0.5), what="one rate", corpus="hmm", steps=2400)
    table = traces_at_equal_loss([short, long])
    cells = table.cells
    assert cells["EST", "Python source, 600 steps"].ours.effect == pytest.approx(4)
    assert cells["EST, one rate for both", "hidden Markov model, 2,400 steps"].ours.effect == pytest.approx(0.5)
    assert cells["EST", "hidden Markov model, 2,400 steps"].ours is None
    assert "2 seeds at 600 steps and 2 seeds at 2,400 steps" in table.notes[0]
