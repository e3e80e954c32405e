"""Final loss against learning rate for every method: the sweeps that chose the learning rates of the recipes."""

from collections.abc import Iterable
from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .flatness import CORPORA
from .style import FAMILY_STYLES, MethodStyle, in_order, method_style, style

_TOGETHER = 4  # methods that one panel holds
_COLUMNS = 4
# Columns of which each value has a line of its own, and what it looks like.
_LINES = {
    "family": FAMILY_STYLES,
    "corpus": {
        "text": MethodStyle(label=CORPORA["text"], colour="#000000", marker="o", linestyle="-"),
        "hmm": MethodStyle(label=CORPORA["hmm"], colour="#0072B2", marker="s", linestyle="--"),
    },
}
_LOSS = "final validation loss (nats per token)"


def _mean_losses(runs: pd.DataFrame) -> tuple[pd.Series, float, pd.Index]:
    """Means over seeds by learning rate, the best of the rates that most seeds ran at, and those of one seed alone."""
    losses = runs.groupby("lr")["validation_loss"].agg(["mean", "count"])
    most = losses["count"].max()
    best = losses.loc[losses["count"] == most, "mean"].idxmin()
    return losses["mean"], float(best), losses.index[(losses["count"] == 1) & (most > 1)]


def _draw(
    runs: pd.DataFrame,
    name: str,
    look: MethodStyle,
    ax: Axes,
    *,
    from_best: bool = False,
    ls: str | tuple = "-",
    ms: float = 6.0,
) -> None:
    """Draws one line, its best learning rate filled; rates of one seed, where others have more, are small."""
    losses, best, alone = _mean_losses(runs)
    losses = losses - from_best * losses[best]
    line = {"color": look.colour, "marker": look.marker, "ls": ls, "ms": ms}
    several = np.flatnonzero(~losses.index.isin(alone)).tolist()
    ax.plot(losses.index, losses, **line, mfc="white", markevery=several, label=look.label, gid=f"sweep:{name}")
    if len(alone):
        ax.plot(alone, losses[alone], **line | {"ms": 3, "ls": ""}, mfc="white", mew=0.8, gid=f"alone:{name}")
    ax.plot(best, losses[best], **line, gid=f"best:{name}")


def _label_rates(sweep: pd.DataFrame, ax: Axes) -> None:
    rates = sorted(sweep["lr"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(rates, [f"{1000 * rate:g}" for rate in rates])


def _rate_label(axes: Iterable[Axes]) -> str:
    """What the learning rates are called, and what small marks are if there are any."""
    alone = any(str(line.get_gid()).startswith("alone:") for ax in axes for line in ax.lines)
    return "peak learning rate (thousandths)" + "; small marks: one seed" * alone


def learning_rates(sweep: pd.DataFrame) -> Figure:
    """One line a method, its best learning rate filled; of many methods a panel each, the others grey behind it.

    Of several families or texts each panel holds one method's distance from its loss at the rate chosen, a line for
    each. Seeds are averaged; where some rates were run on more seeds than others, the best is one of them, and marks of
    one seed are small: such a mark may lie below the best.

    Args:
        sweep: columns method, lr and validation_loss, one finished run a row; column family or corpus where there are
            several.

    Returns:
        The figure; its lines carry `sweep:<method>`, `alone:<method>` (rates of one seed) and `best:<method>` as group
        identifiers.
    """
    missing = {"method", "lr", "validation_loss"} - set(sweep.columns)
    if missing:
        raise ValueError(f"no sweep to draw: the rows have no column {', '.join(sorted(missing))}")
    methods = in_order(sweep["method"])
    with style():
        for column, looks in _LINES.items():
            if column in sweep.columns and sweep[column].nunique() > 1:
                return _by_line(sweep, methods, column, looks)
        return _panels(sweep, methods) if len(methods) > _TOGETHER else _one_panel(sweep, methods)


def _one_panel(sweep: pd.DataFrame, methods: list[str]) -> Figure:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    ax = figure.subplots()
    for method in methods:
        _draw(sweep[sweep["method"] == method], method, method_style(method), ax)
    _label_rates(sweep, ax)
    ax.set_xlabel(_rate_label([ax]))
    ax.set_ylabel(_LOSS)
    ax.legend()
    return figure


def _a_panel_each(methods: list[str]) -> tuple[Figure, list[Axes]]:
    """An empty figure with a panel for every method, titled."""
    rows = ceil(len(methods) / _COLUMNS)
    figure = Figure(figsize=(2.3 * _COLUMNS + 0.6, 1.75 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for ax in axes[len(methods) :]:
        ax.set_axis_off()
    for method, ax in zip(methods, axes, strict=False):
        ax.set_title(method_style(method).label)
    return figure, axes[: len(methods)]


def _by_line(sweep: pd.DataFrame, methods: list[str], column: str, looks: dict[str, MethodStyle]) -> Figure:
    figure, axes = _a_panel_each(methods)
    for method, ax in zip(methods, axes, strict=True):
        for name, look in looks.items():
            runs = sweep[(sweep["method"] == method) & (sweep[column] == name)]
            if not runs.empty:
                _draw(runs, f"{name}:{method}", look, ax, from_best=True, ls=look.linestyle, ms=4.5)
        _label_rates(sweep, ax)
    figure.supxlabel(_rate_label(axes), fontsize=10)
    figure.supylabel("final validation loss above that of the rate chosen (nats per token)", fontsize=10)
    handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend([*handles.values()], [*handles], loc="outside upper center", ncols=len(handles))
    return figure


def _panels(sweep: pd.DataFrame, methods: list[str]) -> Figure:
    figure, axes = _a_panel_each(methods)
    for method, ax in zip(methods, axes, strict=True):
        for other in methods:
            losses, *_ = _mean_losses(sweep[sweep["method"] == other])
            ax.plot(losses.index, losses, color="#d0d0d0", lw=0.8, zorder=1)
        _draw(sweep[sweep["method"] == method], method, method_style(method), ax)
        _label_rates(sweep, ax)
    figure.supxlabel(_rate_label(axes), fontsize=10)
    figure.supylabel(_LOSS, fontsize=10)
    return figure
