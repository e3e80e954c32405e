"""Verdicts on a grid whose effects are known."""

import math
from pathlib import Path
from runpy import run_path

import pytest

from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.grid import FAMILIES, frontier_gap
from est_analysis.experiments.language_models.contenders import CONTENDERS
from est_analysis.methods import METHODS

TESTS = Path(__file__).parents[1]
tidy_frame = run_path(str(TESTS / "synthetic.py"))["tidy_frame"]
GAPS, SHARES, grid_frame = map(run_path(str(TESTS / "synthetic_grid.py")).get, ("GAPS", "SHARES", "grid_frame"))

ON_GRID = {name: claim for name, claim in CLAIMS.items() if claim.recipe == "grid"}


def verdict(name, frame):
    return judge([CLAIMS[name]], frame, scale="quick")[0]


def test_every_family_has_the_same_claims_and_every_rival_is_a_contender():
    topics = {family: {name.split(".")[1] for name in ON_GRID if name.endswith(f".{family}")} for family in FAMILIES}
    assert len({frozenset(found) for found in topics.values()}) == 1
    checked = [claim.check.keywords for claim in ON_GRID.values() if "theirs" in claim.check.keywords]
    assert {words["theirs"] for words in checked} | {words["ours"] for words in checked} <= CONTENDERS.keys()
    assert {contender.method for contender in CONTENDERS.values()} <= METHODS.keys()


@pytest.mark.parametrize(
    ("name", "effect", "outcome"),
    [
        ("grid.est-full.t5", GAPS["est"], "refuted"),
        ("grid.est-short.gpt2", GAPS["est"] - GAPS["short"], "supported"),
        ("grid.est-msg.t5", GAPS["est"] - GAPS["msg"], "supported"),
        ("grid.est-two-stage.gpt2", GAPS["est"] - GAPS["est/two-stage"], "refuted"),
        ("grid.raptr-full.gpt2", GAPS["raptr"], "supported"),
        ("grid.raptr-pld.t5", GAPS["raptr"] - GAPS["pld"], "supported"),
    ],
)
def test_differences_are_paired_by_seed_and_of_one_family_and_budget(name, effect, outcome):
    found = verdict(name, grid_frame())
    assert found.effect == pytest.approx(effect)
    assert found.interval == pytest.approx((effect, effect))  # seeds differ by a constant
    assert (found.verdict, found.seeds) == (outcome, 3)


@pytest.mark.parametrize("method", ["est", "raptr"])
def test_the_frontier_is_a_line_in_the_logarithm_of_the_flops(method):
    """loss = 6 - 0.1 ln F is read exactly by interpolation; a method spends a share of F for gap more."""
    frame = grid_frame()
    found = frontier_gap(frame, method)  # the shorter model lies above that line, so that it counts for nothing
    assert found.effect == pytest.approx(GAPS[method] + 0.1 * math.log(SHARES[method]))
    short = (frame["method"] == "short") & (frame["metric"] == "validation_loss")
    frame.loc[short, "value"] -= 0.15  # below it
    assert frontier_gap(frame, method).effect > found.effect + 0.01
    assert found.detail == "mean over budgets of 1, 2 times the steps"  # half the steps lie below the frontier's range
    assert found.seeds == 3


@pytest.mark.parametrize(
    ("frame", "missing"),
    [
        (grid_frame(families=("llama",)), "no run of family 'gpt2'"),
        (grid_frame(budgets=(2.0,)), "no run of family 'gpt2' at the common budget"),
        (tidy_frame(), "not those of a grid"),
    ],
)
def test_what_is_missing_is_untested(frame, missing):
    if missing.endswith("budget"):
        frame = frame[frame["budget"] != 1]
    found = verdict("grid.est-short.gpt2", frame)
    assert found.verdict == "untested"
    assert missing in found.detail


@pytest.mark.parametrize(
    ("frame", "missing"),
    [
        (grid_frame(budgets=(1.0,)), "one budget only"),
        (tidy_frame(), "not those of a grid"),
        (grid_frame().query("method != 'raptr'"), "no run of method 'raptr'"),
        (grid_frame(budgets=(0.5, 0.51, 2.0)).query("method != 'raptr' or budget == 0.5"), "lies within"),
    ],
)
def test_a_frontier_that_cannot_be_drawn_is_untested(frame, missing):
    found = verdict("grid.frontier-raptr", frame)
    assert found.verdict == "untested"
    assert missing in found.detail
