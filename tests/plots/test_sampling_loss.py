"""The figure of what sampling costs draws its table."""

import pandas as pd
import pytest

from est_analysis import plots
from est_analysis.claims.sampling_costs import side_by_side


def test_marks_are_means_over_seeds(frame):
    costs = side_by_side(frame)
    costs["value"] += 0.01 * costs["seed"]
    figure = plots.sampling_costs(costs)
    first, second = figure.axes
    assert [ax.get_title() for ax in (first, second)] == ["stage 1 to 2 (step 80)", "stage 2 to 3 (step 280)"]
    for number, ax in enumerate((first, second)):
        drawn = {line.get_gid(): line.get_ydata() for line in ax.lines if str(line.get_gid()).startswith("mean:")}
        rows = costs[costs["transition"] == number]
        means = rows.groupby(["part", "way"])["value"].mean()
        assert {f"mean:{part}:{way}" for part, way in means.index} == drawn.keys()
        for (part, way), mean in means.items():
            assert drawn[f"mean:{part}:{way}"][0] == pytest.approx(mean)
    assert [text.get_text() for text in first.get_xticklabels()][-2:] == ["layers", "drop"]
    assert "layers" not in [text.get_text() for text in second.get_xticklabels()]
    assert len(figure.legends[0].get_texts()) == 4


def test_an_interval_that_leaves_its_panel_ends_in_an_arrowhead(frame):
    costs = side_by_side(frame)
    wild = (costs["part"] == "drop") & (costs["way"] == "curve") & (costs["transition"] == 0)
    costs.loc[wild, "value"] += costs.loc[wild, "seed"]  # the interval is 2.5 times as wide as the seeds are
    first, second = plots.sampling_costs(costs).axes
    heads = {line.get_marker(): line.get_xydata()[0] for line in first.lines if line.get_gid() == "cut:drop:curve"}
    assert (heads["v"][1], heads["^"][1]) == first.get_ylim()
    (mean,) = (line for line in first.lines if line.get_gid() == "mean:drop:curve")
    assert heads["v"][0] == heads["^"][0] == mean.get_xdata()[0]
    assert not [line for line in second.lines if str(line.get_gid()).startswith("cut:")]


def test_one_seed_and_one_transition_are_drawn_too(frame):
    costs = side_by_side(frame).query("seed == 0 and transition == 1")
    assert isinstance(costs, pd.DataFrame)
    assert len(plots.sampling_costs(costs).axes) == 1
