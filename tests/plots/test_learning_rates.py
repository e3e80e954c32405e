"""The sweeps of learning rates: one panel for few methods, a panel each for many."""

import numpy as np
import pandas as pd
import pytest

from est_analysis import plots


def _sweep(methods):
    rows = [(method, lr, 2 + abs(lr - 4e-3) * 100) for method in methods for lr in (8e-3, 2e-3, 4e-3)]
    return pd.DataFrame(rows, columns=["method", "lr", "validation_loss"])


@pytest.mark.parametrize(
    ("methods", "panels"),
    [(["full", "est"], 1), (["full", "est", "est/constant", "raptr", "pld", "short"], 6)],
)
def test_the_best_rate_is_filled(methods, panels):
    figure = plots.learning_rates(_sweep(methods))
    drawn = {line.get_gid(): line for ax in figure.axes for line in ax.lines}
    assert len([ax for ax in figure.axes if ax.axison]) == panels
    for method in methods:
        assert drawn[f"sweep:{method}"].get_xdata().tolist() == [2e-3, 4e-3, 8e-3]
        assert drawn[f"best:{method}"].get_xdata().tolist() == [4e-3]
    assert "small" not in (figure.get_supxlabel() or figure.axes[0].get_xlabel()), "all rates have one seed"
    if panels > 1:
        assert [ax.get_title() for ax in figure.axes if ax.axison][:3] == ["full model", "EST", "EST, constant"]


@pytest.mark.parametrize("methods", [["full"], ["full", "est", "est/constant", "raptr", "pld"]])
def test_seeds_are_averaged_and_a_rate_of_fewer_seeds_is_no_best(methods):
    first = _sweep(methods)
    second = first[first["lr"] > 2e-3].assign(validation_loss=lambda runs: runs["validation_loss"] + 0.2)
    least = first[first["lr"] == 2e-3].assign(lr=1e-3, validation_loss=1.0)
    figure = plots.learning_rates(pd.concat([first, least, second]))
    drawn = {line.get_gid(): line for ax in figure.axes for line in ax.lines}
    assert drawn["sweep:full"].get_xydata() == pytest.approx(
        np.array([[1e-3, 1.0], [2e-3, 2.2], [4e-3, 2.1], [8e-3, 2.5]])
    )
    assert drawn["best:full"].get_xydata() == pytest.approx(np.array([[4e-3, 2.1]]))
    assert drawn["alone:full"].get_xdata().tolist() == [1e-3, 2e-3], "of one seed where others have two"
    assert drawn["alone:full"].get_markersize() < drawn["best:full"].get_markersize()
    assert drawn["sweep:full"].get_markevery() == [2, 3]
    label = figure.get_supxlabel() or figure.axes[0].get_xlabel()
    assert label == "peak learning rate (thousandths); small marks: one seed"


def test_several_families_are_drawn_from_their_own_best():
    sweep = pd.concat(
        [_sweep(["full", "est"]).assign(family="gpt2"), _sweep(["full", "est"]).eval("lr = lr / 2").assign(family="t5")]
    )
    figure = plots.learning_rates(sweep)
    drawn = {line.get_gid(): line for ax in figure.axes for line in ax.lines}
    assert drawn["sweep:t5:est"].get_xdata().tolist() == [1e-3, 2e-3, 4e-3]
    assert drawn["sweep:t5:est"].get_ydata() == pytest.approx([0.2, 0.0, 0.4])
    assert drawn["best:t5:full"].get_xydata().tolist() == [[2e-3, 0]]
    assert drawn["best:gpt2:full"].get_xydata().tolist() == [[4e-3, 0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["GPT-2", "T5"]


def test_rows_of_something_else():
    with pytest.raises(ValueError, match="no column lr, validation_loss"):
        plots.learning_rates(pd.DataFrame({"method": ["est"]}))
