import matplotlib
import numpy as np
import pytest

from est_analysis import plots
from est_analysis.plots.style import in_order, rows_of


def lines(figure, gid):
    """Every line of the figure with this group identifier, panel by panel."""
    return [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]


def test_loss_curves_draw_the_summary(frame):
    figure = plots.loss_curves(frame)
    for method in ("full", "est", "raptr"):
        for metric, line in zip(("train_loss", "validation_loss"), lines(figure, f"mean:{method}"), strict=True):
            curve = plots.summarise_curves(frame, metric).query("method == @method")
            np.testing.assert_array_equal(line.get_xdata(), curve["step"])
            np.testing.assert_array_equal(line.get_ydata(), curve["mean"])
            assert line.get_color() == plots.METHOD_STYLES[method].colour
    assert len(lines(figure, "run:est-0002")) == 2


def test_loss_curves_mark_the_transitions(frame):
    figure = plots.loss_curves(frame)
    assert [line.get_xdata()[0] for line in lines(figure, "transition:est")] == [80, 280] * 2
    assert [line.get_xdata()[0] for line in lines(figure, "transition:raptr")] == [150, 300, 450] * 2
    assert not lines(figure, "transition:full")
    ribbon = figure.axes[0]
    assert [label.get_text() for label in ribbon.get_yticklabels()] == ["EST stage", "RaPTr stage"]
    assert [text.get_text() for text in ribbon.texts] == ["1", "2", "3", "1", "2", "3", "4"]


def test_summarised_curves_are_means_over_seeds(frame):
    rows = frame[(frame["method"] == "est") & (frame["metric"] == "validation_loss") & (frame["step"] == 600)]
    last = plots.summarise_curves(frame, "validation_loss").query("method == 'est'").iloc[-1]
    assert (last["step"], last["runs"]) == (600, 3)
    assert last["mean"] == pytest.approx(rows["value"].mean())
    assert last["sd"] == pytest.approx(rows["value"].std())


def test_a_run_cut_short_does_not_bend_the_mean(frame):
    cut = frame[~((frame["run_id"] == "est-0000") & (frame["step"] > 300))]
    assert plots.summarise_curves(cut, "validation_loss").query("method == 'est'")["step"].max() == 300


def test_stages_tile_the_run(frame):
    stages = plots.summarise_stages(frame).query("method == 'raptr'")
    assert stages["start"].tolist() == [0, 150, 300, 450]
    assert stages["end"].tolist() == [150, 300, 450, 600]


def test_loss_against_flops_draws_the_summary(frame):
    figure = plots.loss_against_flops(frame)
    for metric, line in zip(("total_flops", "layer_flops"), lines(figure, "mean:est"), strict=True):
        points = (
            plots.summarise_loss_against_flops(frame, metric)
            .query("method == 'est'")
            .groupby("step")
            .mean(numeric_only=True)
        )
        np.testing.assert_allclose(line.get_xdata(orig=False), points["flops"].to_numpy())
        np.testing.assert_allclose(line.get_ydata(orig=False), points["loss"].to_numpy())


def test_flops_are_read_between_records(frame):
    # At step 55, between two records and inside stage 1: a quarter of the layers' 6e9 a step, and the head's 2e9.
    frame.loc[(frame["metric"] == "validation_loss") & (frame["step"] == 50), "step"] = 55
    points = plots.summarise_loss_against_flops(frame).query("run_id == 'est-0000' and step == 55")
    assert points["flops"].item() == pytest.approx(55 * (6e9 / 4 + 2e9))


def test_step_time_ratios(frame):
    table = plots.summarise_step_time(frame).set_index(["method", "stage"])
    assert table["ratio"].to_dict() == pytest.approx(
        {("est", 0): 0.5, ("est", 1): 0.7, ("est", 2): 1.0}
        | {("raptr", 0): 0.6, ("raptr", 1): 0.75, ("raptr", 2): 0.9, ("raptr", 3): 1.0}
    )
    assert table.loc[("est", 0), "layer_flops"] == pytest.approx(0.25)
    assert table.loc[("est", 0), "total_flops"] == pytest.approx((0.25 * 6 + 2) / 8)
    assert table.loc[("est", 0), "windows"] == 3 * 8


def test_step_time_by_stage_draws_the_summary(frame):
    figure = plots.step_time_by_stage(frame)
    table = plots.summarise_step_time(frame)
    for method in ("est", "raptr"):
        (line,) = lines(figure, f"measured:{method}")
        np.testing.assert_allclose(line.get_ydata(orig=False), table[table["method"] == method]["ratio"].to_numpy())


def test_final_traces_draw_every_run_with_its_error(frame):
    figure = plots.final_traces(frame)
    traces = plots.summarise_traces(frame)
    assert traces["stderr"].eq(40.0).all()
    for method in ("full", "est", "raptr"):
        (line,) = lines(figure, f"trace:{method}")
        np.testing.assert_array_equal(line.get_ydata(), traces[traces["method"] == method]["trace"])
    bars = figure.axes[0].collections[0].get_segments()
    assert bars[0][1, 1] - bars[0][0, 1] == pytest.approx(2 * 40.0)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("draw", [plots.loss_curves, plots.loss_against_flops, plots.final_traces])
def test_one_method_is_enough(make_frame, draw, seeds):
    assert draw(make_frame(methods=("est",), seeds=seeds)).axes


def test_what_cannot_be_drawn_says_why(make_frame):
    with pytest.raises(ValueError, match="run it too"):
        plots.step_time_by_stage(make_frame(methods=("est",)))
    with pytest.raises(ValueError, match="only 'full' was timed"):
        plots.step_time_by_stage(make_frame(methods=("full",)))
    with pytest.raises(ValueError, match=r"no rows of metric 'perplexity' to draw: the frame holds .*hessian_trace, "):
        rows_of(make_frame(), "perplexity")


def test_methods_without_a_style_come_last_and_are_drawn(frame):
    frame["method"] = frame["method"].replace("raptr", "a novel one")
    assert in_order(frame["method"]) == ["full", "est", "a novel one"]
    assert lines(plots.loss_curves(frame), "mean:a novel one")


def test_every_style_is_told_apart_by_colour_and_the_first_three_without():
    styles = list(plots.METHOD_STYLES.values())
    assert len({style.colour for style in styles}) == len(styles)
    assert len({style.marker for style in styles}) == len(styles)
    assert len({style.linestyle for style in styles[:3]}) == 3


def test_saved_files_are_the_same_every_time(frame, tmp_path):
    first = plots.save(plots.final_traces(frame), tmp_path / "a", "traces")
    second = plots.save(plots.final_traces(frame), tmp_path / "b", "traces")
    assert [path.name for path in first] == ["traces.png", "traces.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_drawing_leaves_the_settings_alone(frame):
    before = dict(matplotlib.rcParams)
    plots.loss_curves(frame)
    assert dict(matplotlib.rcParams) == before
