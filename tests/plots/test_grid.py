"""Figures of a grid whose every effect is known."""

from pathlib import Path
from runpy import run_path

import pytest

from est_analysis import plots

TESTS = Path(__file__).parents[1]
tidy_frame = run_path(str(TESTS / "synthetic.py"))["tidy_frame"]
FULL_FLOPS, GAPS, SHARES, grid_frame = map(
    run_path(str(TESTS / "synthetic_grid.py")).get, ("FULL_FLOPS", "GAPS", "SHARES", "grid_frame")
)


def test_gaps_are_differences_of_the_same_family_and_seed():
    gaps = plots.summarise_grid_gaps(grid_frame())
    assert len(gaps) == 2 * 3 * (len(GAPS) - 1)
    means = gaps.groupby(["family", "method"])["value"].mean()
    for (_, method), mean in means.items():
        assert mean == pytest.approx(GAPS[method])


def test_a_run_without_its_baseline_is_left_out():
    frame = grid_frame()
    frame = frame[~((frame["method"] == "full") & (frame["seed"] == 1) & (frame["family"] == "t5"))]
    gaps = plots.summarise_grid_gaps(frame)
    assert set(gaps.loc[gaps["family"] == "t5", "seed"]) == {0, 2}


def test_the_gap_figure_has_a_panel_a_family_and_a_mark_a_method():
    figure = plots.grid_gaps(grid_frame())
    assert [ax.get_title() for ax in figure.axes] == ["GPT-2", "T5"]
    for ax in figure.axes:
        marks = {line.get_gid(): line for line in ax.lines if (line.get_gid() or "").startswith("mean:")}
        assert {gid.removeprefix("mean:") for gid in marks} == GAPS.keys() - {"full"}
        assert marks["mean:est"].get_xdata()[0] == pytest.approx(GAPS["est"])


def test_an_interval_that_leaves_its_panel_ends_in_an_arrowhead():
    frame = grid_frame()
    wild = (frame["method"] == "est") & (frame["metric"] == "validation_loss") & (frame["family"] == "t5")
    frame.loc[wild, "value"] += frame.loc[wild, "seed"] * 0.1  # the interval is 2.5 times as wide as the seeds are
    gpt2, t5 = plots.grid_gaps(frame).axes
    heads = {line.get_marker(): line.get_xdata()[0] for line in t5.lines if line.get_gid() == "cut:est"}
    assert (heads["<"], heads[">"]) == t5.get_xlim()
    assert not [line for line in gpt2.lines if str(line.get_gid()).startswith("cut:")]


def test_lengths_are_drawn_above_one_another():
    longer = grid_frame()
    longer = longer.assign(step=4 * longer["step"])
    longer = longer[(longer["family"] == "gpt2") & longer["method"].isin(["full", "est", "raptr"])]
    figure = plots.grid_lengths([grid_frame(), longer])
    assert [ax.get_title() for ax in figure.axes] == ["GPT-2"]
    assert figure.get_suptitle() == "100 steps: hollow, 400 steps: filled"
    means = [line for line in figure.axes[0].lines if str(line.get_gid()).startswith("mean:")]
    assert sorted(line.get_gid() for line in means) == sorted(["mean:est", "mean:raptr"] * 2), "all that ran longer"
    for short, long in zip(means[: len(means) // 2], means[len(means) // 2 :], strict=True):
        assert short.get_gid() == long.get_gid()
        assert short.get_ydata()[0] > long.get_ydata()[0]
        assert (short.get_markerfacecolor(), long.get_markerfacecolor()) == ("white", long.get_color())


def test_the_frontier_holds_the_ends_of_runs():
    points = plots.summarise_frontier(grid_frame())
    assert set(points["method"]) == {"full", "est", "raptr"}
    assert len(points) == 3 * 3 * 3
    row = points[(points["method"] == "est") & (points["budget"] == 2.0)]
    assert row["flops"].tolist() == pytest.approx([2 * FULL_FLOPS * SHARES["est"]] * 3)
    ax = plots.frontier(grid_frame()).axes[0]
    assert {line.get_gid() for line in ax.lines} >= {"mean:full", "mean:est", "mean:raptr"}


@pytest.mark.parametrize("draw", [plots.grid_gaps, plots.frontier])
def test_a_frame_of_no_grid_is_refused(draw):
    with pytest.raises(ValueError, match="no columns family and budget"):
        draw(tidy_frame())


def test_one_budget_is_no_frontier():
    with pytest.raises(ValueError, match="at one budget"):
        plots.frontier(grid_frame(budgets=(1.0,)))
