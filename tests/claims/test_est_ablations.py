"""Verdicts on ablations whose effects are known."""

import math
from pathlib import Path
from runpy import run_path

import pytest
from scipy import stats

from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.est_ablations import SHORTER, TABLE_3
from est_analysis.exhibits.est_tables import SCHEDULES
from est_analysis.exhibits.published import read_published
from est_analysis.experiments.language_models.est_ablations import CONTENDERS

TESTS = Path(__file__).parents[1]
GAPS, SAVED, PRICE, ablation_frame = map(
    run_path(str(TESTS / "synthetic_ablations.py")).get, ("GAPS", "SAVED", "PRICE", "ablation_frame")
)
PUBLISHED = read_published(TESTS.parent / "paper_figures" / "data")
OF_ABLATIONS = [claim for claim in CLAIMS.values() if claim.recipe == "est-ablations"]


def verdict(name, frame):
    return judge([CLAIMS[name]], frame, scale="quick")[0]


def test_every_claim_is_of_contenders_and_table_3_is_the_papers():
    named = {word for claim in OF_ABLATIONS for word in getattr(claim.check, "keywords", {}).values()}
    methods = {word for words in named for word in ([words] if isinstance(words, str) else words)}
    assert {*methods, *TABLE_3, *SHORTER, "est/only-heads", "est/only-mlp", "est/only-layers"} <= CONTENDERS.keys()
    assert set(SAVED) == set(CONTENDERS), "the synthetic frame has every contender"
    printed = {method: PUBLISHED.text("EST", "3", row, "loss") for row, method in SCHEDULES.items()}
    assert {method: float(text) for method, text in printed.items() if text} == TABLE_3


def test_where_the_paper_is_right_every_claim_is_supported():
    assert {one.verdict for one in judge(OF_ABLATIONS, ablation_frame(), "quick")} == {"supported"}


# What makes each claim wrong: gaps of the two contenders exchanged, or moved across the threshold.
WRONG = {
    "est.ablation.heads": {"est/only-heads": 0.05},
    "est.ablation.mlp": {"est/only-mlp": 0.05},
    "est.ablation.layers": {"est/only-layers": 0.05},
    "est.ablation.mlp-above-heads": {"est/only-mlp": 0.0, "est/only-heads": 0.002},
    "est.ablation.additive": {"est": 0.1},
    "est.ablation.layers-dearest": {"est/two-stage-b": 0.1},
    "est.law.normalise": {"est/unscaled": -0.05},
    "est.law.normalise-before": {"est/unscaled": -5.0},
    "est.law.fixed-size": {"est/bernoulli": -0.1},
    "est.schedule.one-stage": {"est/one-stage": 0.02},
    "est.schedule.last-stage": {"est/one-stage": 0.02},
    "est.schedule.two-stage-a": {"est/two-stage-a": 0.02},
    "est.schedule.two-stage-b": {"est/two-stage-b": 0.02},
    "est.schedule.two-stage-c": {"est/two-stage-c": -0.05},
    "est.schedule.saves-more": {"est": 0.1},
    "est.schedule.three-stage": {"est/three-stage": -0.05},
    "est.schedule.half-as-long": {"est/half-as-long": 0.1},
    "est.schedule.half-as-long-full": {"est/half-as-long": 0.1},
    "est.schedule.twice-as-long": {"est/twice-as-long": 0.05},
    "est.schedule.shorter-or-milder": {"est/mild": -0.1},
    "est.schedule.linear": {"est/linear": 0.03},
    "est.schedule.exponential": {"est/exponential": 0.02},
    "est.schedule.table-3": {name: -gap for name, gap in GAPS.items()},
    "est.schedule.shorter-full-runs": dict.fromkeys(set(TABLE_3) - {"full"}, 0.4),
}


@pytest.mark.parametrize("claim", OF_ABLATIONS, ids=lambda claim: claim.id)
def test_every_claim_can_be_refuted(claim):
    assert verdict(claim.id, ablation_frame(WRONG[claim.id])).verdict == "refuted"


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("est.schedule.one-stage", 0.3),
        ("est.schedule.last-stage", 0.3 - GAPS["est"]),
        ("est.schedule.three-stage", 0.01 - GAPS["est"]),
        ("est.ablation.additive", GAPS["est"] - (0.0 + 0.002 + 0.005)),
        ("est.ablation.layers-dearest", 10 * 0.005 / 6.7),
        ("est.law.normalise", 0.2 - GAPS["est"]),
        ("est.law.normalise-before", 0.2 - GAPS["est"] + 1.0),
    ],
)
def test_effects_by_hand(name, effect):
    assert verdict(name, ablation_frame()).effect == pytest.approx(effect)


def test_shorter_runs_are_read_in_the_logarithm_of_the_flops():
    """They pay exactly PRICE x -ln(share), so that the line between them is read without error."""
    methods = [method for method in TABLE_3 if method != "full"]
    above = [GAPS[method] + PRICE * math.log(1 - SAVED[method] / 100) for method in methods]
    found = verdict("est.schedule.shorter-full-runs", ablation_frame())
    assert found.effect == pytest.approx(sum(above) / len(above))


def test_agreement_with_table_3_is_spearmans():
    gaps = {"est": 0.35}  # the second best becomes the worst
    expected = stats.spearmanr([(GAPS | gaps)[method] for method in TABLE_3], list(TABLE_3.values())).statistic
    assert 0 < expected < 0.9
    assert verdict("est.schedule.table-3", ablation_frame(gaps)).effect == pytest.approx(expected)


@pytest.mark.parametrize("claim", OF_ABLATIONS, ids=lambda claim: claim.id)
def test_without_its_contender_a_claim_is_untested(claim):
    frame = ablation_frame()
    kept = frame["method"].isin(["short", "est/constant"])
    found = verdict(claim.id, frame[kept])
    assert found.verdict == "untested"
    assert "no run of method" in found.detail


def test_seeds_that_are_not_shared_are_left_out():
    frame = ablation_frame()
    frame = frame[~((frame["method"] == "est/only-mlp") & (frame["seed"] == 1))]
    for name in ("est.ablation.mlp", "est.ablation.additive", "est.ablation.mlp-above-heads"):
        assert verdict(name, frame).seeds == 2
