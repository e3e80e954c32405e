"""Verdicts on flatness along training whose effects are known."""

import math
from pathlib import Path
from runpy import run_path

import numpy as np
import pandas as pd
import pytest

from est_analysis.claims import CLAIMS, NotMeasured, judge
from est_analysis.claims.equal_loss import CORPORA, at_loss
from est_analysis.claims.est_flatness import CLAIMS as ON_FLATNESS
from est_analysis.experiments.language_models.flatness import VARIANTS

TESTS = Path(__file__).parents[1]
PLANTED = run_path(str(TESTS / "synthetic_flatness.py"))
EFFECTS, ENDS, SHARES, SLOPE, flatness_frame = map(
    PLANTED.get, ("EFFECTS", "ENDS", "SHARES", "SLOPE", "flatness_frame")
)
BLOCKS, EMBEDDINGS = 0.5, 0.45


def verdict(name, frame):
    return judge([CLAIMS[name]], frame, scale="quick")[0]


def total(method):
    """ln of the whole trace over the full model's, at equal loss."""
    blocks, embeddings, norms = np.exp(EFFECTS[method])
    return math.log(BLOCKS * blocks + EMBEDDINGS * embeddings + 0.05 * norms)


EXPECTED = {
    "smaller-trace": total("est"),
    "same-rate": total("est"),
    "both-decayed": total("est"),
    "same-decay": total("est"),
    "sampled-blocks": -0.5,
    "embeddings-excess": 0.3,
    "persists": total("est") + SLOPE * 0.3,  # at equal steps EST is 0.3 nats behind
    "persists-same-rate": total("est") + SLOPE * 0.2,
    "early": total("est") + SLOPE * 0.3,
    "early-same-rate": total("est") + SLOPE * 0.2,
    "dropout": -0.3,
    "fisher": total("est"),
    "scale-invariant": total("est"),
    "decayed-embeddings": total("est/decayed-embeddings"),
    "unscaled": -0.2,
}


def test_there_is_an_expectation_for_every_claim_and_every_contender_is_run():
    names = {f"est.flatness.{topic}.{corpus}" for topic in EXPECTED for corpus in CORPORA}
    assert names | {"est.flatness.fisher-is-hessian.hmm", "est.stage3-slope-constant-lr"} == ON_FLATNESS.keys()
    given = [getattr(claim.check, "keywords", {}) for claim in ON_FLATNESS.values()]
    asked = [keywords[key] for keywords in given for key in ("ours", "theirs") if key in keywords]
    assert {name for names in asked for name in ([names] if isinstance(names, str) else names)} <= VARIANTS.keys()
    assert ENDS.keys() | {"full/constant-lr", "est/constant-lr"} == VARIANTS.keys()


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("topic", EXPECTED)
def test_planted_effects_are_found_and_supported(topic, corpus):
    found = verdict(f"est.flatness.{topic}.{corpus}", flatness_frame())
    assert found.effect == pytest.approx(EXPECTED[topic], abs=1e-9)
    assert found.interval == pytest.approx((EXPECTED[topic],) * 2, abs=1e-9)  # seeds differ by what pairs cancel
    assert (found.verdict, found.seeds) == ("supported", 3)


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("topic", EXPECTED)
def test_swapped_effects_are_refuted(topic, corpus):
    swapped = {method: tuple(-value for value in values) for method, values in EFFECTS.items()}
    assert verdict(f"est.flatness.{topic}.{corpus}", flatness_frame(swapped)).verdict == "refuted"


@pytest.mark.parametrize("corpus", CORPORA)
def test_raptrs_trace_is_read_at_equal_loss_too(corpus):
    found = verdict(f"raptr.flatness.{corpus}", flatness_frame())
    assert (found.verdict, found.effect) == ("refuted", pytest.approx(0.1, abs=1e-9))


def test_early_and_late_steps_meet_at_the_last_transition():
    """Planted: EST's trace is ten times as large at the end of its first stage, or at the end of training."""
    for step, changed, other in ((80, "early", "persists"), (600, "persists", "early")):
        frame = flatness_frame()
        raised = frame["metric"].eq("hessian_trace") & frame["method"].eq("est") & frame["step"].eq(step)
        frame.loc[raised, "value"] *= 10
        assert verdict(f"est.flatness.{changed}.text", frame).effect > EXPECTED[changed] + 1
        assert verdict(f"est.flatness.{other}.text", frame).effect == pytest.approx(EXPECTED[other], abs=1e-9)


def test_the_run_that_ended_lower_is_read_at_the_others_loss():
    """Without an effect the ratio is 1 at equal loss, and that of the losses at equal steps."""
    frame = flatness_frame(dict.fromkeys(EFFECTS, (0.0, 0.0, 0.0)))
    found = verdict("est.flatness.smaller-trace.text", frame)
    assert found.effect == pytest.approx(0, abs=1e-9)
    assert f"at the end of both runs, losses as they are, {math.exp(SLOPE * 0.3):.2f}" in found.detail
    below = flatness_frame(ends={"est": 2.0})  # EST ends lower: EST is read on its way
    found = verdict("est.flatness.smaller-trace.text", below)
    assert found.effect == pytest.approx(total("est"), abs=1e-9)
    assert "at 2.200 nats" in found.detail


@pytest.mark.parametrize(
    ("ends", "claim", "missing"),
    [
        ({"est": 4.5}, "smaller-trace.text", "losses are too far apart"),
        ({"est": 2.9}, "both-decayed.text", "not between them"),
        ({"full": 2.4}, "fisher-is-hessian.hmm", "0.220 nats above the least possible loss"),
    ],
)
def test_too_far_apart_is_untested(ends, claim, missing):
    found = verdict(f"est.flatness.{claim}", flatness_frame(ends=ends))
    assert found.verdict == "untested"
    assert missing in found.detail


def test_checkpoints_far_apart_are_not_interpolated_between():
    points = pd.DataFrame({"loss": [4.0, 3.4, 3.0], "log": [3.0, 2.0, 1.0]})
    assert at_loss(points, 3.2) == pytest.approx(1.5)
    with pytest.raises(NotMeasured, match=r"0\.60 nats apart"):
        at_loss(points, 3.6)


def test_the_last_passage_counts():
    """A loss that rises and falls passes a level several times."""
    points = pd.DataFrame({"loss": [3.0, 2.6, 2.9, 2.7, 2.7, 2.5], "log": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]})
    assert at_loss(points, 2.6) == pytest.approx(1.5)
    assert at_loss(points, 2.7) == pytest.approx(2.0)
    assert at_loss(points, 2.5) == 1.0


def test_fisher_near_the_floor():
    found = verdict("est.flatness.fisher-is-hessian.hmm", flatness_frame())
    assert (found.verdict, found.effect) == ("supported", pytest.approx(math.log(PLANTED["FISHER"])))
    frame = flatness_frame()
    frame.loc[frame["metric"] == "fisher_trace", "value"] *= 0.9
    assert verdict("est.flatness.fisher-is-hessian.hmm", frame).verdict == "refuted"


def test_slopes_at_a_constant_rate():
    found = verdict("est.stage3-slope-constant-lr", flatness_frame())
    assert (found.verdict, found.effect) == ("supported", pytest.approx(-1.0))
    assert "constant rate" in found.detail
    assert "decay differs" not in found.detail
    frame = flatness_frame()
    frame["method"] = frame["method"].replace(
        {"full/constant-lr": "est/constant-lr", "est/constant-lr": "full/constant-lr"}
    )
    frame.loc[frame["metric"] == "stage", "value"] = (frame["step"] > 280).astype(float)
    assert verdict("est.stage3-slope-constant-lr", frame).verdict == "refuted"


def test_where_both_have_one_rate_the_baseline_is_the_full_model():
    frame = flatness_frame(effects={"full/half": (0.1, 0.1, 0.1)})
    frame = frame[~frame["method"].isin(["full/est-rate", "full/est-rate-half"])]
    for corpus in ("text", "hmm"):  # of hmm the least possible loss is known too
        assert verdict(f"est.flatness.same-rate.{corpus}", frame).verdict == "supported"
        for own, at_one_rate in (("smaller-trace", "same-rate"), ("both-decayed", "same-decay")):
            effects = [verdict(f"est.flatness.{name}.{corpus}", frame).effect for name in (own, at_one_rate)]
            assert effects[0] == effects[1] is not None
    frame.loc[frame["method"] == "full", "lr"] = 8e-3
    assert "no run of method 'full/est-rate'" in verdict("est.flatness.same-rate.text", frame).detail


@pytest.mark.parametrize("name", ON_FLATNESS)
def test_rows_of_another_recipe_are_untested(name):
    found = verdict(name, flatness_frame().drop(columns="corpus"))
    assert (found.verdict, "est run flatness" in found.detail) == ("untested", True)


def test_steps_that_some_seeds_lack_are_untested():
    """The largest of two steps is no match for that of one."""
    frame = flatness_frame()
    lost = frame["metric"].str.startswith("hessian_trace") & (frame["step"] == 80) & (frame["seed"] == 1)
    for topic in ("early", "early-same-rate"):
        found = verdict(f"est.flatness.{topic}.text", frame[~lost])
        assert (found.verdict, "at the same steps" in found.detail) == ("untested", True)


def test_a_trace_that_is_not_positive_is_untested_where_it_is_read():
    frame = flatness_frame()
    first = (frame["metric"] == "hessian_trace") & (frame["step"] == 80)
    frame.loc[first, "value"] = -1.0
    assert verdict("est.flatness.smaller-trace.text", frame).effect == pytest.approx(total("est"))
    frame.loc[(frame["metric"] == "hessian_trace") & (frame["method"] == "est") & (frame["step"] == 600), "value"] = -1
    for topic in ("smaller-trace", "both-decayed", "persists"):
        found = verdict(f"est.flatness.{topic}.text", frame)
        assert (found.verdict, "is not positive there" in found.detail) == ("untested", True)
