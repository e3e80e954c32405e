"""Final loss against learning rate for every method: the sweeps that chose the learning rates of the recipes."""

from math import ceil

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import in_order, method_style, style

_TOGETHER = 4  # methods that one panel holds
_COLUMNS = 4
_LOSS = "final validation loss (nats per token)"


def _draw(sweep: pd.DataFrame, method: str, ax: Axes) -> None:
    """Draws one method, its best learning rate filled."""
    look, runs = method_style(method), sweep[sweep["method"] == method].sort_values("lr")
    hollow = {"color": look.colour, "marker": look.marker, "mfc": "white", "label": look.label}
    ax.plot(runs["lr"], runs["validation_loss"], gid=f"sweep:{method}", **hollow)
    best = runs.loc[runs["validation_loss"].idxmin()]
    ax.plot(best["lr"], best["validation_loss"], color=look.colour, marker=look.marker, gid=f"best:{method}")


def _label_rates(sweep: pd.DataFrame, ax: Axes) -> None:
    rates = sorted(sweep["lr"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])


def learning_rates(sweep: pd.DataFrame) -> Figure:
    """One line a method, its best learning rate filled; of many methods a panel each, the others grey behind it.

    Args:
        sweep: columns method, lr and validation_loss, one finished run a row.

    Returns:
        The figure; its lines carry `sweep:<method>` and `best:<method>` as group identifiers.
    """
    missing = {"method", "lr", "validation_loss"} - set(sweep.columns)
    if missing:
        raise ValueError(f"no sweep to draw: the rows have no column {', '.join(sorted(missing))}")
    methods = in_order(sweep["method"])
    with style():
        return _panels(sweep, methods) if len(methods) > _TOGETHER else _one_panel(sweep, methods)


def _one_panel(sweep: pd.DataFrame, methods: list[str]) -> Figure:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    ax = figure.subplots()
    for method in methods:
        _draw(sweep, method, ax)
    _label_rates(sweep, ax)
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel(_LOSS)
    ax.legend()
    return figure


def _panels(sweep: pd.DataFrame, methods: list[str]) -> Figure:
    rows = ceil(len(methods) / _COLUMNS)
    figure = Figure(figsize=(2.3 * _COLUMNS + 0.6, 1.75 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for ax in axes[len(methods) :]:
        ax.set_axis_off()
    for method, ax in zip(methods, axes, strict=False):
        for other in methods:
            runs = sweep[sweep["method"] == other].sort_values("lr")
            ax.plot(runs["lr"], runs["validation_loss"], color="#d0d0d0", lw=0.8, zorder=1)
        _draw(sweep, method, ax)
        _label_rates(sweep, ax)
        ax.set_title(method_style(method).label)
    figure.supxlabel("peak learning rate", fontsize=10)
    figure.supylabel(_LOSS, fontsize=10)
    return figure
