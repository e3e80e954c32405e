"""Drops of a training curve beyond its trend: by hand, and whether their standard error is their spread."""

import numpy as np
import pandas as pd
import pytest

from est_analysis.claims.checks import transition_drop
from est_analysis.claims.claim import NotMeasured
from est_analysis.claims.transition_losses import excess_fall, transition_falls

ENDS = [*range(10, 144, 10), 143, 147, *range(150, 401, 10)]  # a transition after step 147: windows of 3 and 4 steps
CHANGE = 147


def curve(noise, drop=0.0):
    """A line that falls by a nat in 400 steps, and by `drop` after the transition; `noise` is that of every step."""
    steps = np.arange(1, 401)
    losses = 3 - steps / 400 - drop * (steps > CHANGE) + noise
    starts = [0, *ENDS[:-1]]
    return pd.Series([losses[a:b].mean() for a, b in zip(starts, ENDS, strict=True)], index=ENDS)


def frame_of(curves, method="est"):
    rows = []
    for seed, loss in enumerate(curves):
        rows += [(seed, step, "train_loss", value) for step, value in loss.items()]
        rows += [(seed, step, "stage", float(step > CHANGE)) for step in loss.index]
    frame = pd.DataFrame(rows, columns=["seed", "step", "metric", "value"])
    return frame.assign(run_id="r" + frame["seed"].astype(str) + method, method=method, schedule="s")


def noisy(draw, size=0.5, **options):
    return [curve(draw.normal(0, size, 400), **options) for _ in range(3)]


def test_a_line_has_no_drop_and_a_step_has_its_own():
    assert excess_fall(curve(0.0), CHANGE) == pytest.approx(0, abs=1e-12)
    assert excess_fall(curve(0.0, drop=0.2), CHANGE) == pytest.approx(-0.2)
    with pytest.raises(NotMeasured, match="too few windows of train_loss around the transition at step 15"):
        excess_fall(curve(0.0), 15)


def test_the_standard_error_is_the_spread_of_drops_that_are_none():
    draw = np.random.default_rng(0)
    found = [transition_falls(frame_of(noisy(draw)), "est") for _ in range(100)]
    spread = np.std([falls.to_numpy() for falls, _ in found])
    told = np.mean([errors.to_numpy() for _, errors in found])
    assert told == pytest.approx(spread, rel=0.15)  # 300 drops: the spread has error 4 %
    plain = np.std([excess_fall(loss, 300) for _ in range(100) for loss in noisy(draw)])
    assert plain != pytest.approx(spread, rel=0.15), "windows of 3 and 4 steps are noisier than those of ten"


def test_seeds_that_agree_by_chance_do_not_hide_the_noise():
    draw = np.random.default_rng(1)
    curves = [loss - 0.0 for loss in noisy(draw)]
    alike = [loss.where(loss.index < 143, curve(0.0, drop=0.2)) for loss in curves]  # no noise where it drops
    for loss in alike:
        loss.loc[160:] = curves[0].loc[160:]
    measured = transition_drop(frame_of(alike), "est")
    assert measured.effect == pytest.approx(-0.2, abs=0.15)
    _, errors = transition_falls(frame_of(alike), "est")
    noise = np.sqrt((errors**2).to_numpy().sum()) / 3
    assert measured.interval[1] - measured.effect >= 1.9 * noise > 0.1


def test_what_both_runs_share_is_no_noise():
    """The same batches: nearly all noise is common, and the error of the difference is that of what is not."""
    draw = np.random.default_rng(2)
    shared = [draw.normal(0, 0.5, 400) for _ in range(3)]
    ours, theirs = ([curve(noise + draw.normal(0, 0.05, 400)) for noise in shared] for _ in range(2))
    frame = pd.concat([frame_of(ours), frame_of(theirs, "full")])
    alone, beside = (transition_falls(frame, "est", beside=name)[1].to_numpy().mean() for name in ("", "full"))
    assert beside == pytest.approx(alone * 0.05 * 2**0.5 / 0.5, rel=0.3)
