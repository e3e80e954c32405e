import numpy as np
import pandas as pd
import pytest

from est_analysis import plots

# Three seeds 0.01 apart: sd 0.01, t(0.975, 2) = 4.3027, over the root of 3.
HALF = 4.302653 * 0.01 / np.sqrt(3)


def lines(figure, gid):
    return [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]


def test_summary_is_mean_and_t_interval_over_the_seeds_of_a_bank(make_polynomials):
    table = plots.summarise_components(make_polynomials()).set_index(["method", "degree", "tail", "step"])
    row = table.loc[("pld", 2, False, 60)]
    assert row.tolist() == pytest.approx([0.66, 0.66 - HALF, 0.66 + HALF, 3])
    final = plots.summarise_final_components(make_polynomials()).set_index(["method", "degree", "tail"])
    assert final.loc[("pld", 3, False), "mean"] == pytest.approx(0.81)
    assert final.loc[("pld", 3, True)].tolist() == pytest.approx([0.51, 0.51 - HALF, 0.51 + HALF, 3])


def test_a_seed_cut_short_does_not_bend_the_mean(make_polynomials):
    frame = make_polynomials(tail=False)
    cut = frame[~((frame["method"] == "pld") & (frame["seed"] == 2) & (frame["step"] > 60))]
    steps = plots.summarise_components(cut).groupby("method")["step"].max()
    assert steps.to_dict() == {"full": 120, "raptr": 120, "pld": 60}


def test_curves_draw_the_summary_a_panel_a_degree(make_polynomials, planted):
    figure = plots.component_curves(make_polynomials())
    table = plots.summarise_components(make_polynomials())
    for method in ("full", "raptr", "pld"):
        drawn = lines(figure, f"mean:{method}")
        assert len(drawn) == len(planted.DEGREES)
        for degree, line in zip(planted.DEGREES, drawn, strict=True):
            rows = table[(table["method"] == method) & (table["degree"] == degree)]
            np.testing.assert_array_equal(line.get_xdata(), rows["step"])
            np.testing.assert_array_equal(line.get_ydata(), rows["mean"])
        # A bank's seeds share their run's name and still have a line each.
        assert all(len(lines(figure, f"seed:{method}:{seed}")) == len(planted.DEGREES) for seed in range(3))


def test_curves_mark_transitions_and_tail(make_polynomials, planted):
    with_tail, without = (plots.component_curves(make_polynomials(tail=tail)) for tail in (True, False))
    assert [line.get_xdata()[0] for line in lines(with_tail, "transition")] == 3 * list(planted.TRANSITIONS)
    spans = [
        [patch for ax in f.axes for patch in ax.patches if patch.get_gid() == "tail"] for f in (with_tail, without)
    ]
    assert [len(found) for found in spans] == [3, 0]
    assert (spans[0][0].get_x(), spans[0][0].get_width()) == (planted.STEPS, planted.TAIL)


def test_final_marks_are_the_summary_and_hollow_after_the_tail(make_polynomials):
    figure = plots.final_components(make_polynomials())
    table = plots.summarise_final_components(make_polynomials())
    for gid, tail in (("final", False), ("tail", True)):
        (line,) = lines(figure, f"{gid}:pld")
        rows = table[(table["method"] == "pld") & (table["tail"] == tail)]
        np.testing.assert_array_equal(line.get_ydata(), rows["mean"])
        assert (line.get_markerfacecolor() == "white") == tail
        assert line.get_color() == plots.METHOD_STYLES["pld"].colour
    # Errors stand at their own degree, methods apart.
    places = [lines(figure, f"final:{method}")[0].get_xdata() for method in ("full", "raptr", "pld")]
    assert all(np.abs(x - [1, 2, 3]).max() < 0.5 for x in places)
    assert (np.diff(places, axis=0) > 0.1).all()


def test_bars_are_the_intervals_cut_at_zero(make_polynomials):
    figure = plots.final_components(make_polynomials(methods=("full",), tail=False))
    bars = figure.axes[0].collections[0].get_segments()
    ends = [(bar[0, 1], bar[1, 1]) for bar in bars]
    # 0.01 -+ 0.0248 lies partly below 0, and 0.11 -+ 0.0248 does not.
    np.testing.assert_allclose(ends, [(0, 0.01 + HALF), (0, 0.01 + HALF), (0.11 - HALF, 0.11 + HALF)], atol=1e-9)


def test_estimates_below_zero_are_drawn(make_polynomials):
    frame = make_polynomials(methods=("full",), tail=False)
    frame.loc[frame["metric"] == "error_1", "value"] -= 0.05
    (line,) = lines(plots.final_components(frame), "final:full")
    assert line.get_ydata()[0] == pytest.approx(-0.04)


@pytest.mark.parametrize("draw", [plots.component_curves, plots.final_components])
def test_one_seed_and_many_degrees_are_enough(make_polynomials, draw):
    frame = make_polynomials(methods=("raptr",), seeds=(0,))
    more = [frame.assign(metric=frame["metric"].str.replace("error_1", f"error_{degree}")) for degree in (1, 4, 5, 6)]
    frame = pd.concat(more).drop_duplicates(["metric", "step"])
    assert any(line.get_gid() == "mean:raptr" or line.get_gid() == "final:raptr" for line in draw(frame).axes[0].lines)


def test_a_frame_without_polynomials_says_so(make_frame):
    for draw in (plots.component_curves, plots.final_components):
        with pytest.raises(ValueError, match="no rows of metric 'error_<degree>' to draw"):
            draw(make_frame())
