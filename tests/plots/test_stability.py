import numpy as np
import pandas as pd
import pytest

from est_analysis import plots

DEPTHS, SEEDS = (8, 16, 32), (0, 1, 2)


@pytest.fixture
def stability():
    rows = []
    for method, level in (("residual+norm", 1.0), ("norm", 1.4), ("a novel one", 0.5)):
        for seed in SEEDS:
            for depth in DEPTHS:
                rows.append((method, seed, depth, "mean_psi", level / depth * (1 + 0.1 * seed)))
            rows += [(method, seed, 16, f"psi_{layer}", level / layer * (1 + 0.1 * seed)) for layer in range(1, 17)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "step", "metric", "value"])
    return frame.assign(schedule="", run_id=frame["method"] + frame["seed"].astype(str))


@pytest.fixture
def predicted(stability):
    return stability[(stability["seed"] == 0) & (stability["method"] == "norm")].drop(columns=["seed", "run_id"])


def lines(figure):
    return {line.get_gid(): line for line in figure.axes[0].lines if line.get_gid() and ":" in line.get_gid()}


def test_summary_is_mean_and_range_over_seeds(stability):
    table = plots.summarise_stability(stability).set_index(["method", "depth"])
    row = table.loc[("norm", 8)]
    assert row.tolist() == pytest.approx([1.4 / 8 * 1.1, 1.4 / 8, 1.4 / 8 * 1.2, 3])
    by_layer = plots.summarise_psi_by_layer(stability).set_index(["method", "layer"])
    assert by_layer.loc[("norm", 4)].tolist() == pytest.approx([16, 1.4 / 4 * 1.1, 1.4 / 4, 1.4 / 4 * 1.2, 3])


def test_depth_figure_draws_the_summary_and_the_prediction(stability, predicted):
    figure = plots.stability_against_depth(stability, predicted)
    drawn = lines(figure)
    assert set(drawn) == {"measured:residual+norm", "measured:norm", "measured:a novel one", "predicted:norm"}
    table = plots.summarise_stability(stability).query("method == 'norm'")
    np.testing.assert_array_equal(drawn["measured:norm"].get_xdata(), DEPTHS)
    np.testing.assert_array_equal(drawn["measured:norm"].get_ydata(), table["mean"])
    np.testing.assert_allclose(drawn["predicted:norm"].get_ydata(), 1.4 / np.array(DEPTHS))
    assert drawn["predicted:norm"].get_linestyle() == "--"
    ax = figure.axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    bars = ax.collections[1].get_segments()  # the second variant in order: norm
    assert [bars[0][0, 1], bars[0][1, 1]] == pytest.approx([1.4 / 8, 1.4 / 8 * 1.2])


def test_layer_figure_draws_every_layer(stability, predicted):
    drawn = lines(plots.psi_by_layer(stability, predicted))
    table = plots.summarise_psi_by_layer(stability).query("method == 'norm'")
    np.testing.assert_array_equal(drawn["measured:norm"].get_xdata(), np.arange(1, 17))
    np.testing.assert_array_equal(drawn["measured:norm"].get_ydata(), table["mean"])
    np.testing.assert_allclose(drawn["predicted:norm"].get_ydata(), 1.4 / np.arange(1, 17))


def test_all_that_was_measured_lies_inside_the_axes(stability):
    for figure in (plots.stability_against_depth(stability), plots.psi_by_layer(stability)):
        low, high = figure.axes[0].get_ylim()
        values = np.concatenate([line.get_ydata() for line in lines(figure).values()])
        assert low <= values.min()
        assert values.max() <= high


def test_without_a_prediction_only_measurements_are_drawn(stability):
    for figure in (plots.stability_against_depth(stability), plots.psi_by_layer(stability)):
        assert all(name.startswith("measured:") for name in lines(figure))
        assert len(figure.legends[0].get_texts()) == 3


def test_what_cannot_be_drawn_says_why(stability):
    means = stability[stability["metric"] == "mean_psi"]
    with pytest.raises(ValueError, match="no rows of metric 'psi_<l>' to draw"):
        plots.psi_by_layer(means)
    with pytest.raises(ValueError, match="no rows of metric 'mean_psi' to draw"):
        plots.stability_against_depth(stability[stability["metric"] != "mean_psi"])
    two = pd.concat([stability, stability.assign(step=32)])
    with pytest.raises(ValueError, match="of 2 depths do not fit one figure"):
        plots.psi_by_layer(two[two["metric"] != "mean_psi"])
