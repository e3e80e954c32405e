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


def test_rows_of_something_else():
    with pytest.raises(ValueError, match="no column lr, validation_loss"):
        plots.learning_rates(pd.DataFrame({"method": ["est"]}))
