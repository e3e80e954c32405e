"""Figures of downstream proxies on known effects."""

from pathlib import Path
from runpy import run_path

import numpy as np
import pandas as pd
import pytest

from est_analysis import plots
from est_analysis.claims.est_downstream import ALONG, beyond_the_loss, checkpoints

PLANTED = run_path(str(Path(__file__).parents[1] / "synthetic_downstream.py"))
downstream_frame, SHIFTS, LOSSES = (PLANTED[name] for name in ("downstream_frame", "SHIFTS", "LOSSES"))


def _points(frame):
    return pd.concat([beyond_the_loss(seed) for _, seed in checkpoints(frame).groupby("seed")])


def test_final_scores_are_in_percent_with_chance():
    found = plots.summarise_downstream(downstream_frame(slope=0))
    assert len(found) == 4 * len(LOSSES) * 3
    one = found[(found["method"] == "est") & (found["seed"] == 1)]
    assert one["value"].to_numpy() == pytest.approx(60 - 10 * LOSSES["est"] + SHIFTS["est"] + 0.2)
    assert set(found["chance"]) == {10.0}


def test_what_is_left_of_score_and_trace_lies_on_the_planted_line():
    frame = downstream_frame(shifts=dict.fromkeys(SHIFTS, 0.0))
    found = _points(frame)
    slope, height = np.polyfit(found["log_trace_left"], found["score_left"], 1)
    assert slope == pytest.approx(-PLANTED["SLOPE"], abs=1e-6)
    assert height == pytest.approx(0, abs=1e-6)
    assert set(found["step"]) == set(PLANTED["STEPS"])


def test_every_method_and_chance_is_drawn():
    figure = plots.downstream_scores(downstream_frame())
    for ax in figure.axes:
        drawn = {line.get_gid() for line in ax.lines}
        assert {f"mean:{method}" for method in LOSSES} <= drawn
        assert "chance 10 %" in ax.get_title()
    figure = plots.downstream_against_trace(_points(downstream_frame()), ALONG)
    assert {line.get_gid() for line in figure.axes[1].lines} == {*(f"left:{method}" for method in LOSSES), "line"}


def _of_variants(*methods):
    """Frames of the full model under other names."""
    frame = downstream_frame()
    full = frame[frame["method"] == "full"]
    return pd.concat([full.assign(method=name, run_id=name + full["run_id"]) for name in methods])


def test_contenders_can_be_told_apart():
    halves = ("full/half", "full/est-rate-half")
    names = ("full", *halves, "full/est-rate", "est", "est/unscaled", "est/decayed-embeddings", "raptr", "dropout")
    ax = plots.downstream_scores(_of_variants(*names)).axes[0]
    lines = [line for line in ax.lines if str(line.get_gid()).startswith("mean:")]
    looks = {(line.get_marker(), line.get_color(), line.get_fillstyle()) for line in lines}
    assert len(looks) == len(lines) == len(names)
    hollow = {line.get_gid() for line in lines if line.get_fillstyle() == "none"}
    assert hollow == {f"mean:{name}" for name in halves}


def test_an_interval_that_leaves_its_panel_ends_in_an_arrowhead():
    wide, *_ = plots.downstream_scores(_of_variants("full")).axes  # of three seeds, wider than what they span
    assert {line.get_marker() for line in wide.lines if line.get_gid() == "cut:full"} == {"<", ">"}


def test_a_frame_of_another_recipe_says_what_it_lacks():
    with pytest.raises(ValueError, match="no column corpus"):
        plots.downstream_scores(downstream_frame().drop(columns="corpus"))
    with pytest.raises(ValueError, match="downstream_last_word"):
        plots.downstream_scores(downstream_frame().query("metric == 'validation_loss'"))
