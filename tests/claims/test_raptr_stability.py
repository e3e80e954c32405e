import numpy as np
import pandas as pd
import pytest

from est_analysis.claims import find_claim, judge
from est_analysis.claims.raptr_stability import CLAIMS, depth_exponent, predicted_stability
from est_analysis.theory.stability import psi_residual_norm

DEPTHS = (8, 16, 32, 64, 128)
METHODS = ("residual+norm", "residual", "norm")


def made(exponents, method, seeds=3):
    """Mean Psi of `method` as 2 L^-c, one c a seed; below depth 32, which is not fitted, it is something else."""
    rows = [
        (f"{method}-{seed}", method, "", seed, depth, "mean_psi", 2.0 * depth**-c if depth >= 32 else 5.0)
        for seed, c in enumerate(exponents[:seeds])
        for depth in DEPTHS
    ]
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "seed", "step", "metric", "value"])


CASES = [
    ("raptr.stability-residual-norm", "residual+norm", "supported", (0.49, 0.5, 0.51)),
    ("raptr.stability-residual-norm", "residual+norm", "refuted", (0.0, 0.01, 0.0)),
    ("raptr.stability-residual-norm", "residual+norm", "refuted", (1.0, 1.01, 1.0)),
    ("raptr.stability-residual-norm", "residual+norm", "inconclusive", (0.3, 0.5, 0.6)),
    ("raptr.stability-residual", "residual", "supported", (0.0, -0.01, 0.01)),
    ("raptr.stability-residual", "residual", "refuted", (0.49, 0.5, 0.51)),
    ("raptr.stability-residual", "residual", "inconclusive", (0.0, 0.1, 0.2)),
    ("raptr.stability-norm", "norm", "supported", (0.0, -0.01, 0.01)),
    ("raptr.stability-norm", "norm", "refuted", (0.49, 0.5, 0.51)),
    ("raptr.stability-norm", "norm", "inconclusive", (0.0, 0.1, 0.2)),
]


@pytest.mark.parametrize(("name", "method", "expected", "exponents"), CASES)
def test_verdict_follows_the_exponent(name, method, expected, exponents):
    (verdict,) = judge([find_claim(name)], made(exponents, method), "quick")
    assert verdict.verdict == expected, verdict
    assert (verdict.effect, verdict.seeds) == (pytest.approx(np.mean(exponents)), 3)
    assert verdict.interval[0] <= verdict.effect <= verdict.interval[1]


@pytest.mark.parametrize(
    ("expected", "away"),
    [("supported", (0.0, 0.004, -0.004)), ("refuted", (0.03, 0.031, 0.032)), ("inconclusive", (0.0, 0.02, 0.04))],
)
def test_the_exact_law_is_what_the_exponent_is_held_against(expected, away):
    depths = np.array([depth for depth in DEPTHS if depth >= 32])
    psi = np.array([psi_residual_norm(int(depth)).mean() for depth in depths])
    exact = -np.polyfit(np.log(depths), np.log(psi), 1)[0]
    frame = made([exact + each for each in away], "residual+norm")
    (verdict,) = judge([find_claim("raptr.stability-exact-law")], frame, "quick")
    assert (verdict.verdict, verdict.seeds) == (expected, 3)
    assert verdict.effect == pytest.approx(np.mean(away), abs=1e-9)
    assert np.mean(verdict.interval) == pytest.approx(verdict.effect)


def test_every_claim_has_all_three_cases():
    cases = {(name, outcome) for name, _, outcome, _ in CASES}
    names = CLAIMS.keys() - {"raptr.stability-exact-law"}  # whose are above
    assert cases == {(name, outcome) for name in names for outcome in ("supported", "refuted", "inconclusive")}
    assert {claim.recipe for claim in CLAIMS.values()} == {"stability-vs-depth"}


def test_one_net_is_inconclusive():
    (verdict,) = judge([find_claim("raptr.stability-norm")], made((0.0,), "norm", seeds=1), "smoke")
    assert (verdict.verdict, verdict.interval) == ("inconclusive", None)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda frame: frame[frame["method"] != "norm"], "no run of method 'norm'"),
        (lambda frame: frame.assign(metric="psi_1"), "mean_psi of 'norm' was not recorded"),
        (lambda frame: frame[frame["step"] <= 32], "at 1 depths of 32 or more, not at 2"),
        (lambda frame: frame.assign(value=frame["value"] - 5), "is not positive everywhere: it follows no power law"),
        (lambda frame: frame[(frame["seed"] > 0) | (frame["step"] < 128)], "at the same depths for every seed"),
    ],
)
def test_what_cannot_be_fitted_is_untested(edit, reason):
    (verdict,) = judge([find_claim("raptr.stability-norm")], edit(made((0.0, 0.1, 0.2), "norm")), "quick")
    assert verdict.verdict == "untested"
    assert reason in verdict.detail


def test_the_detail_names_what_infinite_width_predicts():
    detail = depth_exponent(made((0.5, 0.5), "residual+norm"), "residual+norm").detail
    assert "the exponent at infinite width is 0.429 over these depths" in detail


def test_predictions_are_the_theory_for_what_was_measured():
    frame = pd.concat([made((0.5, 0.5), method) for method in METHODS])
    one = frame[frame["step"] == 64].head(1).assign(metric="psi_3")
    other = frame.head(1).assign(method="novel")
    found = predicted_stability(pd.concat([frame, one, other])).set_index(["method", "step", "metric"])["value"]
    assert len(found) == 3 * 5 + 1
    assert found["residual+norm", 64, "mean_psi"] == pytest.approx(psi_residual_norm(64).mean())
    assert found["residual+norm", 64, "psi_3"] == pytest.approx(psi_residual_norm(64)[2])
    assert found["norm", 8, "mean_psi"] == pytest.approx(2**0.5)
