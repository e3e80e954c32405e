import numpy as np
import pandas as pd
import pytest

from est_analysis import plots


def frame_of(names, changes):
    numbers = np.arange(1.0, 1 + len(names))
    return pd.DataFrame(
        {
            "name": names, "psi": 1 / numbers, "psi_stderr": 0.01 * numbers, "loss_change": changes,
            "loss_change_stderr": 0.02 * numbers,
        }
    )  # fmt: skip


@pytest.fixture
def one_stack():
    return frame_of([f"h.{i}" for i in range(4)], [3.0, 0.2, 0.01, 0.4])


@pytest.fixture
def two_stacks():
    return frame_of([f"{s}.{i}" for s in ("encoder", "decoder") for i in range(3)], [0.5, 0.1, -0.3, 2.0, 0.0, 0.04])


def lines(ax):
    return {line.get_gid(): line for line in ax.lines if line.get_gid() and ":" in line.get_gid()}


def test_each_layer_is_drawn_with_its_error(one_stack):
    figure = plots.stability_by_layer(one_stack, tolerance=0.05)
    upper, lower = figure.axes
    for ax, column in ((upper, "psi"), (lower, "loss_change")):
        (drawn,) = lines(ax).values()
        assert drawn.get_gid() == f"{column}:h"
        np.testing.assert_array_equal(drawn.get_xdata(), range(4))
        np.testing.assert_array_equal(drawn.get_ydata(), one_stack[column])
        bars = np.array(ax.collections[0].get_segments())[:, :, 1]
        error = one_stack[f"{column}_stderr"]
        np.testing.assert_allclose(bars, np.stack([one_stack[column] - error, one_stack[column] + error], 1))
    assert [tick.get_text() for tick in lower.get_xticklabels()] == list(one_stack["name"])
    assert upper.get_legend() is None
    assert upper.get_ylim()[0] == 0


def test_a_line_for_each_stack(two_stacks):
    upper, lower = plots.stability_by_layer(two_stacks, tolerance=0.05).axes
    assert set(lines(lower)) == {"loss_change:encoder", "loss_change:decoder"}
    np.testing.assert_array_equal(lines(lower)["loss_change:decoder"].get_xdata(), [3, 4, 5])
    np.testing.assert_array_equal(lines(lower)["loss_change:decoder"].get_ydata(), [2.0, 0.0, 0.04])
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["encoder", "decoder"]
    colours = {line.get_color() for line in lines(lower).values()}
    assert len(colours) == 2


def test_the_tolerance_is_where_the_axis_turns_logarithmic(one_stack):
    lower = plots.stability_by_layer(one_stack, tolerance=0.05).axes[1]
    (line,) = [line for line in lower.lines if line.get_gid() == "tolerance"]
    assert list(line.get_ydata()) == [0.05, 0.05]
    assert "dashed: tolerance 0.05" in lower.get_title()
    assert lower.yaxis.get_transform().linthresh == 0.05
    ticks = lower.get_yticks()
    assert 0 in ticks
    assert 0.05 in ticks
    assert all(0 <= tick <= 10 for tick in ticks), "no ticks where there is nothing"


def test_without_a_tolerance(one_stack):
    lower = plots.stability_by_layer(one_stack).axes[1]
    assert not [line for line in lower.lines if line.get_gid() == "tolerance"]
    assert "tolerance" not in lower.get_title()
    assert lower.yaxis.get_transform().linthresh == pytest.approx(0.3)


def test_falls_and_rises_both_have_ticks(two_stacks):
    ticks = plots.stability_by_layer(two_stacks, tolerance=0.05).axes[1].get_yticks()
    assert -0.1 in ticks
    assert 1.0 in ticks
    assert list(ticks) == sorted(ticks)


@pytest.mark.parametrize("changes", [[0.0, 0.0], [-0.2, -0.1], [1e-9, 2e-9], [1e4, 1.0]])
@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_any_size_of_changes_is_drawn(changes, tolerance, tmp_path):
    figure = plots.stability_by_layer(frame_of(["h.0", "h.1"], changes), tolerance=tolerance)
    lower = figure.axes[1]
    figure.savefig(tmp_path / "any.png", dpi=40)
    low, high = lower.get_ylim()
    assert low < min(changes) <= max(changes) < high
    assert low < 0 < high


def test_many_layers_are_not_all_named():
    figure = plots.stability_by_layer(frame_of([f"h.{i}" for i in range(96)], np.linspace(1, 0, 96)), tolerance=0.05)
    labels = [tick.get_text() for tick in figure.axes[1].get_xticklabels()]
    assert labels[:2] == ["h.0", "h.6"]
    assert len(labels) == 16
    assert figure.get_size_inches()[0] <= 11


def test_more_stacks_than_colours_lose_no_layer():
    """Funnel has a list a block."""
    names = [f"encoder.blocks.{i}.{j}" for i in range(14) for j in range(2)]
    figure = plots.stability_by_layer(frame_of(names, np.linspace(1, 0, 28)), tolerance=0.05)
    assert len(lines(figure.axes[1])) == 14
