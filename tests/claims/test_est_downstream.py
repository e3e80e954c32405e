"""Verdicts on downstream scores whose effects are known."""

from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.est_downstream import SCORES, checkpoints, partial_correlation

PLANTED = run_path(str(Path(__file__).parents[1] / "synthetic_downstream.py"))
downstream_frame, SHIFTS, LOSSES = (PLANTED[name] for name in ("downstream_frame", "SHIFTS", "LOSSES"))


def verdict(topic, frame):
    return judge([CLAIMS[f"est.downstream.{topic}"]], frame, scale="quick")[0]


@pytest.mark.parametrize("topic", [*SCORES, "mean"])
def test_the_difference_at_the_end_is_paired_by_seed_in_points(topic):
    found = verdict(topic, downstream_frame(slope=0))
    assert found.effect == pytest.approx(SHIFTS["est"] - 10 * (LOSSES["est"] - LOSSES["full"]))
    assert found.interval == pytest.approx((found.effect, found.effect))  # a seed's constant drops out
    assert (found.verdict, found.seeds, found.unit) == ("supported", 3, "points")
    assert "chance 10.0" in found.detail


def test_a_score_that_the_baseline_has_by_chance_decides_nothing():
    frame = downstream_frame(slope=0)
    frame.loc[frame["metric"] == "downstream_last_word_chance", "value"] = 0.99
    found = verdict("last-word", frame)
    assert found.verdict == "untested"
    assert "no better than the commonest answer" in found.detail
    rest = verdict("mean", frame)
    assert rest.effect == pytest.approx(verdict("mean", downstream_frame(slope=0)).effect)  # the shifts are equal
    assert "of probe kinds and probe library and finetune library" in rest.detail
    assert "mean of probe kinds," in verdict("equal-loss", frame).detail


def test_a_lower_score_is_refuted_and_a_slightly_lower_one_is_no_worse():
    worse = downstream_frame(slope=0, shifts={**SHIFTS, "est": 0.5})  # half a point less, as the loss is higher
    assert verdict("mean", worse).verdict == "refuted"
    assert verdict("no-worse", worse).verdict == "supported"
    much = downstream_frame(slope=0, shifts={**SHIFTS, "est": -1.0})
    assert verdict("no-worse", much).verdict == "refuted"
    assert verdict("mean-same-rate", worse).effect == pytest.approx(0.5 - 10 * (2.1 - 2.15))


def test_raptrs_claim_is_about_raptr():
    """Its planted shift is 0 and its loss 0.05 nats above; EST's runs are another way round."""
    (found,) = judge([CLAIMS["raptr.downstream"]], downstream_frame(slope=0), scale="quick")
    assert found.effect == pytest.approx(-10 * (LOSSES["raptr"] - LOSSES["full"]))
    assert found.verdict == "refuted"
    assert "(raptr) against" in found.detail


def test_at_equal_loss_the_loss_is_taken_out():
    found = verdict("equal-loss", downstream_frame(slope=0))
    assert found.effect == pytest.approx(SHIFTS["est"])  # scores are linear in the loss
    assert found.verdict == "supported"
    assert "2.100 nats" in found.detail
    assert verdict("equal-loss", downstream_frame(slope=0, shifts={**SHIFTS, "est": -1.0})).verdict == "refuted"


@pytest.mark.parametrize(("slope", "outcome"), [(2.0, "supported"), (-2.0, "refuted")])
def test_flat_is_good_where_it_was_planted_and_bad_where_the_sign_was_turned(slope, outcome):
    even = dict.fromkeys(SHIFTS, 0.0)
    found = verdict("flat-is-good", downstream_frame(slope=slope, shifts=even))
    assert found.effect == pytest.approx(-np.sign(slope), abs=1e-6)  # nothing else decides the score
    assert found.verdict == outcome
    assert "20 checkpoints of 5 methods" in found.detail.replace("60 checkpoints", "20 checkpoints")


def test_scores_that_follow_the_loss_only_have_no_partial_correlation_with_the_trace():
    """The mutant that forgets the loss would see one: traces here rise with the loss."""
    frame = downstream_frame(slope=0, shifts=dict.fromkeys(SHIFTS, 0.0))
    draw = np.random.default_rng(1)
    points = checkpoints(frame)
    points = points.assign(
        log_trace=points["loss"] * 3 + draw.normal(size=len(points)) * 0.1,
        score=points["score"] + draw.normal(size=len(points)) * 0.1,
    )
    assert abs(partial_correlation(points)) < 0.3  # 60 points: standard error 0.13
    assert np.corrcoef(points["score"], points["log_trace"])[0, 1] < -0.8


def test_early_checkpoints_and_the_other_language_are_left_out():
    found = checkpoints(downstream_frame())
    assert set(found["step"]) == set(PLANTED["STEPS"])
    assert len(found) == len(LOSSES) * 3 * 4
    assert found["loss"].max() < 3


def test_proxies_rise():
    found = verdict("proxies-rise", downstream_frame(slope=0))
    assert found.effect == pytest.approx(10 * 0.002 * 320)
    assert found.verdict == "supported"
    assert found.detail.startswith("from step 280 to step 600")


@pytest.mark.parametrize(
    ("topic", "frame", "missing"),
    [
        ("mean", downstream_frame().query("method != 'est'"), "no run of method 'est'"),
        ("mean", downstream_frame().query("corpus == 'hmm'"), "no run on 'text'"),
        ("mean", downstream_frame().drop(columns="corpus"), "est run flatness"),
        ("finetune-library", downstream_frame().query("metric != 'downstream_finetune_library'"), "was not recorded"),
        ("flat-is-good", downstream_frame(steps=(480, 600)), "too few"),
        ("proxies-rise", downstream_frame(steps=(600,)), "one checkpoint only"),
    ],
)
def test_what_is_missing_is_untested(topic, frame, missing):
    found = verdict(topic, frame)
    assert found.verdict == "untested"
    assert missing in found.detail
