"""Verdicts on RaPTr's ablations whose effects are known."""

from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.raptr_ablations import SCHEDULES, SHORTER
from est_analysis.experiments.language_models.raptr_ablations import CONTENDERS

TESTS = Path(__file__).parents[1]
GAPS, SAVED, PRICE, frame_of = map(
    run_path(str(TESTS / "synthetic_ablations.py")).get, ("RAPTR_GAPS", "RAPTR_SAVED", "PRICE", "raptr_ablation_frame")
)
OF_RAPTR = [claim for claim in CLAIMS.values() if claim.recipe == "raptr-ablations"]
WRONG = {
    "raptr.schedule.two-stage": {"raptr/two-stage": 0.05},
    "raptr.schedule.exponential": {"raptr/exponential": -0.05},
    "raptr.schedule.late": {"raptr/late": 0.05},
    "raptr.schedule.stacking-sensitive": {"gradual_stacking/two-stage": 0.02, "gradual_stacking/exponential": 0.04},
    "raptr.schedule.less-sensitive": {"raptr/exponential": 0.3},
    "raptr.schedule.warm-up": {"raptr/warm-up": 0.1},
    "raptr.schedule.shorter-full-runs": dict.fromkeys(("raptr", "raptr/late", "raptr/warm-up"), 0.3),
    "raptr.axis.width": {"raptr/width": 0.05},
    "raptr.scaling.sqrt": {"raptr/sqrt_gap": 0.03},
    "raptr.scaling.sqrt-linear": {"raptr/linear_gap": -0.05},
    "raptr.scaling.inv-p": {"raptr/inv_p": 0.05},
}


def verdict(name, frame):
    return judge([CLAIMS[name]], frame, scale="quick")[0]


def test_every_claim_is_of_contenders():
    named = [words for claim in OF_RAPTR for words in getattr(claim.check, "keywords", {}).values()]
    methods = {word for words in named for word in ([words] if isinstance(words, str) else words)}
    both = {f"{method}{schedule}" for method in ("raptr", "gradual_stacking") for schedule in SCHEDULES}
    assert methods | both | {*SHORTER, "raptr/warm-up"} <= CONTENDERS.keys() == SAVED.keys()


def test_where_the_paper_is_right_every_claim_is_supported():
    assert {one.verdict for one in judge(OF_RAPTR, frame_of(), "quick")} == {"supported"}


@pytest.mark.parametrize("claim", OF_RAPTR, ids=lambda claim: claim.id)
def test_every_claim_can_be_refuted(claim):
    assert verdict(claim.id, frame_of(WRONG[claim.id])).verdict == "refuted"


def _shorter(saved):
    """The loss, above the full model's, of a full run that saves as much."""
    return -PRICE * np.log(1 - saved / 100)


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("raptr.schedule.stacking-sensitive", 0.2),
        ("raptr.schedule.less-sensitive", -0.2),
        ("raptr.schedule.warm-up", (-0.05 - _shorter(17.5)) - (0 - _shorter(25))),
        ("raptr.schedule.shorter-full-runs", (-0.05 - _shorter(17.5) - 4 * _shorter(25)) / 5),
        ("raptr.scaling.sqrt-linear", -0.06),
    ],
)
def test_effects_by_hand(name, effect):
    assert verdict(name, frame_of()).effect == pytest.approx(effect)


def test_one_schedule_is_missing():
    frame = frame_of()
    found = verdict("raptr.schedule.less-sensitive", frame[frame["method"] != "gradual_stacking/exponential"])
    assert (found.verdict, found.effect) == ("untested", None)
    assert "gradual_stacking/exponential" in found.detail
