"""The claims of the first experiments on frames whose every effect is known."""

from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from est_analysis.claims import judge
from est_analysis.claims.claim import NotMeasured
from est_analysis.claims.first_checks import balance, jump_gap, loss_gap, penalty_error, sampling_cost_gap
from est_analysis.claims.first_experiments import CLAIMS

synthetic = run_path(str(Path(__file__).parents[1] / "synthetic_first.py"))


@pytest.fixture
def frame():
    return synthetic["first_frame"]()


def verdicts(frame):
    return {one.claim: one for one in judge(CLAIMS.values(), frame, "quick")}


def test_planted_effects_support_every_claim(frame):
    found = verdicts(frame)
    wrong = {name: (one.verdict, one.effect, one.detail) for name, one in found.items() if one.verdict != "supported"}
    assert not wrong
    assert len(found) == 60


def _mirrored(frame):
    """Distances from the full net and changes at transitions turned round, and the linear nets exchanged."""
    frame = frame.copy()
    ends = frame["metric"] == "validation_loss"
    full = frame[ends & (frame["method"] == "full")].set_index(["task", "net", "seed", "step"])["value"]
    keys = frame.loc[ends, ["task", "net", "seed", "step"]]
    frame.loc[ends, "value"] = (
        2 * full.loc[list(keys.itertuples(index=False, name=None))].to_numpy() - frame.loc[ends, "value"]
    )
    linear = frame["net"] == "linear"
    frame.loc[linear, "method"] = (
        frame.loc[linear, "method"].map({"full": "est", "est": "full"}).fillna("est/bernoulli")
    )
    return frame


@pytest.mark.parametrize(
    "name",
    [
        "est.first.mlp-flops.digits",
        "est.first.mlp-unscaled.polynomial",
        "est.first.last-stage.digits",
        "est.first.growing.digits",
        "est.first.growth-step.polynomial",
        "raptr.first.stack-flops.digits",
        "raptr.first.warm-up.polynomial",
        "raptr.first.worse-no-residual.digits",
        "est.first.worse-no-norm.polynomial",
        "est.first.linear-balanced.fixed_size",
        "est.first.linear-norm.fixed_size",
    ],
)
def test_the_opposite_refutes(frame, name):
    assert verdicts(_mirrored(frame))[name].verdict == "refuted"


def test_a_loss_that_is_too_high_refutes(frame):
    worse = (frame["method"].isin(["est", "raptr"])) & (frame["metric"] == "validation_loss")
    frame.loc[worse, "value"] += 0.1
    found = verdicts(frame)
    for name in (
        "est.first.mlp-loss.digits",
        "raptr.first.stack-loss.polynomial",
        "est.first.dropout-equivalence.digits",
    ):
        assert found[name].verdict == "refuted", name


def test_effects_by_hand(frame):
    assert loss_gap(frame, "digits", "mlp", "est", "full").effect == pytest.approx(0.002)
    assert "at 0.750 times its layer FLOPs" in loss_gap(frame, "digits", "mlp", "est", "full").detail
    assert sampling_cost_gap(frame, "digits", "raptr", "stack/no-residual").effect == pytest.approx(0.155)
    jump = jump_gap(frame, "polynomial", ("stack/no-norm", "raptr"), ("stack", "raptr"))
    assert jump.effect == pytest.approx(0.2)  # sizes, not signs: 0.3 against 0.1
    assert "+0.300 (stack/no-norm: raptr), -0.100 (stack: raptr)" in jump.detail


def test_the_full_net_may_not_jump(frame):
    at = (frame["method"] == "raptr") & (frame["metric"] == "validation_loss") & (frame["step"] == 288)
    frame.loc[at, "value"] += 1.0
    assert verdicts(frame)["raptr.first.smooth.digits"].verdict == "refuted"


@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_is_that_of_brute_force_and_a_wrong_one_is_seen(frame, seed):
    assert penalty_error(frame).effect < 1e-12
    off = (frame["metric"] == "masked_loss_fixed_size") & (frame["seed"] == seed)
    frame.loc[off, "value"] *= 1.01
    assert penalty_error(frame).effect > 1e-3


def test_balance_is_1_for_twins_and_more_otherwise(frame):
    assert balance(frame, "fixed_size").effect == pytest.approx(1.0)
    # Units of 1.5^2 (1, 0.04) twice: 4 * 2 * 1.5^4 (1 + 0.04^2) / (2 * 1.5^2 * 1.04)^2
    assert "1.852 where the full net" in balance(frame, "fixed_size").detail


def test_nets_that_learned_nothing_are_not_judged(frame):
    rows = (frame["net"] == "stack/no-residual") & (frame["metric"] == "validation_loss")
    frame.loc[rows & (frame["task"] == "digits"), "value"] = np.log(10) * 0.95
    found = verdicts(frame)
    assert found["raptr.first.jump-no-residual.digits"].verdict == "untested"
    assert "has learned nothing" in found["raptr.first.jump-no-residual.digits"].detail
    assert found["raptr.first.jump-no-residual.polynomial"].verdict == "supported"


def test_nets_whose_whole_loss_is_lost_are_not_judged(frame):
    rows = (frame["net"] == "stack") & (frame["method"] == "raptr") & (frame["metric"] == "validation_loss")
    transition = frame.loc[frame["metric"] == "subnet_loss_before", "step"].min()
    found = verdicts(frame[~(rows & (frame["step"] == transition))])["raptr.first.jump-no-norm.digits"]
    assert (found.verdict, "was not recorded at its transitions" in found.detail) == ("untested", True)


def test_a_matrix_with_a_lost_entry_is_not_judged(frame):
    found = verdicts(frame[frame["metric"] != "left_0_0"])["est.first.linear-penalty"]
    assert (found.verdict, "an entry that is missing" in found.detail) == ("untested", True)


def test_another_frame_is_untested(make_frame):
    assert {one.verdict for one in judge(CLAIMS.values(), make_frame(), "quick")} == {"untested"}
    with pytest.raises(NotMeasured, match="est run first-experiments"):
        loss_gap(make_frame(), "digits", "mlp", "est", "full")


def test_nothing_on_nets_this_small_is_ascribed_to_a_paper():
    assert {claim.origin for claim in CLAIMS.values()} == {"asked", "ours"}
