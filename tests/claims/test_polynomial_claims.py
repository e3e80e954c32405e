"""Polynomial and transition claims: each verdict from a frame in which the truth was planted."""

import pandas as pd
import pytest

from est_analysis.claims import CLAIMS, find_claim, judge

NOISE = (-0.01, 0.0, 0.01, 0.005)  # one a seed
NAMES = [name for name, claim in CLAIMS.items() if claim.recipe in ("poly-raptr-vs-pld", "transition-smoothness")]
ERRORS = {"full": 0.2, "raptr": 0.1, "raptr_reversed": 0.5, "stochastic_depth": 0.4, "pld": 0.6}
CHANGES = {
    "raptr": -0.2, "raptr/no-residual": 0.5, "raptr/no-norm": -0.6, "raptr/sqrt_gap": -0.1, "gradual_stacking": 0.8,
}  # fmt: skip


def _frame(errors=ERRORS, changes=CHANGES, low=0.01, early=0.9, learned=0.3, noise=NOISE, tail=None):
    rows = []

    def add(method, seed, step, **metrics):
        run = f"{method}-{seed}"
        rows.extend((run, method, "6-8", seed, step, metric, value) for metric, value in metrics.items())

    for seed, wobble in enumerate(noise):
        for method in errors.keys() | changes.keys():
            # No two methods move together: a paired difference keeps some spread.
            wobbles = wobble * (1 + 0.3 * len(method) % 1)
            add(method, seed, 5, stage=0, error_1=low, error_3=early + wobbles, relative_loss=learned)
            add(method, seed, 10, stage=1, error_1=low + wobbles / 9, error_3=errors.get(method, 1) + wobbles)
            last = (tail or errors).get(method, 1) + 2 * wobbles
            add(method, seed, 12, tail_error_3=last)
            change = changes.get(method, 0) + wobbles
            add(method, seed, 5, subnet_loss_before=2.0, subnet_loss_after=2.0 * (1 + change))
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "seed", "step", "metric", "value"])


OPPOSITE = {"full": 0.05, "raptr": 0.7, "raptr_reversed": 0.5, "stochastic_depth": 0.4, "pld": 0.06}
SMOOTH = {"raptr": 0.2, "raptr/no-residual": 0.05, "raptr/no-norm": 0.05, "raptr/sqrt_gap": 0.4,
          "gradual_stacking": -0.1}  # fmt: skip
WIDE = (-1.0, 0.2, 1.0, -0.4)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_truth_is_found(name):
    (verdict,) = judge([find_claim(name)], _frame(), "quick")
    assert verdict.verdict == "supported", verdict
    assert (verdict.seeds, verdict.scale) == (4, "quick")


@pytest.mark.parametrize("name", NAMES)
def test_its_opposite_is_refuted(name):
    frame = _frame(errors=OPPOSITE, changes=SMOOTH, low=0.4, early=0.5)
    (verdict,) = judge([find_claim(name)], frame, "quick")
    assert verdict.verdict == "refuted", verdict


@pytest.mark.parametrize("name", NAMES)
def test_noise_leaves_it_open(name):
    small = dict.fromkeys(ERRORS, 0.02)
    frame = _frame(errors=small, changes=dict.fromkeys(CHANGES, 0.01), low=0.05, early=0.5, noise=WIDE)
    (verdict,) = judge([find_claim(name)], frame, "quick")
    assert verdict.verdict == "inconclusive", verdict


def test_effects_are_those_planted():
    effects = {verdict.claim: verdict for verdict in judge(map(find_claim, NAMES), _frame(noise=(0.0, 0.0)), "quick")}
    assert effects["raptr.poly-beats-pld"].effect == pytest.approx(-0.5)
    assert effects["raptr.poly-pld-fails"].effect == pytest.approx(0.4)
    assert effects["raptr.poly-simple-first"].effect == pytest.approx(0.89)
    assert effects["raptr.transition-subnet-drop"].effect == pytest.approx(-0.2)
    assert effects["raptr.transition-needs-norm"].effect == pytest.approx(0.4)


def test_the_tail_is_judged_by_the_tail():
    frame = _frame(tail=dict.fromkeys(ERRORS, 0.3) | {"raptr": 0.5})
    (verdict,) = judge([find_claim("raptr.poly-beats-pld-after-tail")], frame, "quick")
    assert verdict.verdict == "refuted"


def test_effect_size_and_rank_test_stand_in_the_detail():
    (verdict,) = judge([find_claim("raptr.poly-beats-pld")], _frame(), "quick")
    assert "d_z = " in verdict.detail
    assert "Wilcoxon p = 0.125" in verdict.detail  # the least that four pairs can give


def test_a_net_that_learned_nothing_is_not_called_smooth():
    (verdict,) = judge([find_claim("raptr.transition-needs-norm")], _frame(learned=0.95), "quick")
    assert verdict.verdict == "untested"
    assert "learned nothing" in verdict.detail


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named(name):
    frame = _frame()
    (verdict,) = judge([find_claim(name)], frame[~frame["metric"].str.contains("error|subnet")], "quick")
    assert verdict.verdict == "untested"
    assert verdict.detail
