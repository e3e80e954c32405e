"""The figure of stage transitions, on curves whose drops are known."""

import pytest

from est_analysis import plots


def test_the_line_before_a_transition_leads_above_the_planted_drop(make_frame):
    table = plots.summarise_transition_windows(make_frame())
    assert table["transition"].unique().tolist() == [80, 280]
    for end, part in table.groupby("transition"):
        assert part["step"].min() == end - 70
        assert part["step"].max() == end + 80
        led = part.dropna()
        assert led["step"].tolist() == [end - 10, end, end + 10]
        before, after = led.iloc[:2], led.iloc[2]
        assert before["trend"].tolist() == pytest.approx(before["mean"].tolist())
        assert after["trend"] - after["mean"] == pytest.approx(0.3, abs=0.02)  # SUBNETWORK_GAP falls by 0.3


def test_the_figure_has_a_panel_for_the_run_and_one_a_transition(make_frame):
    figure = plots.stage_transitions(make_frame())
    drawn = {line.get_gid() for ax in figure.axes for line in ax.lines}
    assert {"mean:full", "mean:est", "near:est:80", "near:est:280", "trend:80", "trend:280"} <= drawn
    assert "mean:raptr" not in drawn


def test_a_method_without_stages(make_frame):
    with pytest.raises(ValueError, match="no stage transition of 'full'"):
        plots.stage_transitions(make_frame(), "full")
