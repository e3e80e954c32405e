"""Verdicts on times whose extra is known."""

from pathlib import Path
from runpy import run_path

import pytest

from est_analysis.claims import judge
from est_analysis.claims.est_overhead import CLAIMS

PLANTED = run_path(str(Path(__file__).parents[1] / "synthetic_overhead.py"))
overhead_frame, EXTRA, EXTRACTION = (PLANTED[name] for name in ("overhead_frame", "EXTRA", "EXTRACTION"))


def found(frame):
    return {one.claim.removeprefix("est.overhead."): one for one in judge(CLAIMS.values(), frame, "quick")}


def test_known_extras_are_found_round_by_round():
    verdicts = found(overhead_frame())
    assert verdicts["extraction"].effect == pytest.approx(EXTRACTION)
    assert verdicts["inline"].effect == pytest.approx(EXTRA["seconds_inline"])
    assert verdicts["generator"].effect == pytest.approx(EXTRA["seconds_ahead"])
    assert {one.verdict for one in verdicts.values()} == {"supported"}
    assert {one.seeds for one in verdicts.values()} == {5}
    assert "over 42 rounds" in verdicts["inline"].detail


def test_what_costs_too_much_or_nothing_is_refuted():
    verdicts = found(overhead_frame({**EXTRA, "seconds_inline": -0.5, "seconds_ahead": 2.0}, extraction=9.0))
    assert {one.verdict for one in verdicts.values()} == {"refuted"}
    verdicts = found(overhead_frame(extraction=5.02, spread=0.3))
    assert verdicts["extraction"].verdict == "inconclusive"


def test_what_falls_on_one_step_in_eight_is_seen():
    """The index generator draws eight masks when it wakes: the other seven steps are as fast as without."""
    frame = overhead_frame({**EXTRA, "seconds_ahead": 0.0}, spread=0)
    waking = (frame["metric"] == "seconds_ahead") & (frame["step"] % 8 == 0)
    frame.loc[waking, "value"] *= 1.4
    verdict = found(frame)["generator"]
    assert 4 < verdict.effect < 5, "an eighth of 40 %, a little less since the other rounds of a block are slower"
    assert verdict.verdict == "refuted"


def test_times_that_are_missing_are_not_judged():
    frame = overhead_frame()
    verdicts = found(frame[frame["metric"] != "seconds_ahead"])
    assert verdicts["generator"].verdict == "untested"
    assert "seconds_ahead of 'est' was not recorded" in verdicts["generator"].detail
