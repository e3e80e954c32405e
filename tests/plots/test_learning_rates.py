"""The sweeps of learning rates: one panel for few methods, a panel each for many."""

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
    if panels > 1:
        assert [ax.get_title() for ax in figure.axes if ax.axison][:3] == ["full model", "EST", "EST, constant"]


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
