"""Flatness along training: traces by method and group of parameters, against steps and against loss, and Table 5."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .intervals import mark_cut, over_seeds
from .style import MethodStyle, in_order, method_style, rows_of, style

CORPORA = {"text": "Python source", "hmm": "hidden Markov model"}
# Sums of groups; what EST samples are heads (attention) and columns (mlp), and layers, which are made of them.
GROUPS: dict[str, tuple[str, ...]] = {
    "whole model": ("hessian_trace",),
    "embeddings": ("hessian_trace_tokens", "hessian_trace_positions"),
    "attention and MLP": ("hessian_trace_attention", "hessian_trace_mlp"),
}
# Of the stacked bars, from below: colour and hatch.
_PARTS = {
    "tokens": ("#0072B2", ""),
    "positions": ("#56B4E9", "///"),
    "attention": ("#E69F00", ""),
    "mlp": ("#F5D9A0", "..."),
    "norms": ("#5A5A5A", ""),
}
_AT_EST_RATE = {"colour": "#8A8A8A", "marker": "D", "linestyle": ":"}
_LOOKS = {
    "full/est-rate": _AT_EST_RATE,
    "full/est-rate-half": _AT_EST_RATE,  # of half the steps, hollow where both are drawn
    "est/decayed-embeddings": {"colour": "#56B4E9", "marker": "v", "linestyle": (0, (1, 1))},
    "est/unscaled": {"colour": "#009E73", "marker": "P", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
}
# Kinds of ratios beside the whole model's, from above.
_KINDS = (
    "attention and MLP",
    "embeddings",
    "Fisher trace",
    "scale-invariant",
    "one rate",
    "both decayed",
    "one rate, both decayed",
)
_WIDEST = 1.4  # times the largest value seen: what of an interval is beyond that leaves the panel
_AXIS = "trace of the loss Hessian"


def variant_look(method: str) -> MethodStyle:
    """The style of a contender of the study; those that share a method differ."""
    return replace(method_style(method), **_LOOKS.get(method, {}))


def _measured(frame: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Columns corpus, method, seed, step, value (the sum of `metrics`) and loss, where both were measured."""
    if "corpus" not in frame.columns:
        raise ValueError("no flatness to draw: the frame has no column corpus")
    keys = ["corpus", "method", "seed", "step"]
    whole = rows_of(frame, metrics[0])[[*keys, "value"]].set_index(keys)["value"]
    for metric in metrics[1:]:
        whole = whole + rows_of(frame, metric).set_index(keys)["value"]
    losses = rows_of(frame, "validation_loss").set_index(keys)["value"]
    return pd.DataFrame({"value": whole, "loss": losses}).dropna().reset_index()


def summarise_flatness(frame: pd.DataFrame) -> pd.DataFrame:
    """The trace of every measured checkpoint and its validation loss, of the whole model and of parts of it.

    Returns:
        Columns corpus, method, seed, step, value, loss and group (a key of `GROUPS`); methods that were measured at one
        step only are left out.
    """
    found = pd.concat([_measured(frame, metrics).assign(group=group) for group, metrics in GROUPS.items()])
    several = found.groupby(["corpus", "method"])["step"].transform("nunique") > 1
    return found[several].reset_index(drop=True)


def draw_flatness(rows: pd.DataFrame, ax: Axes, against: str = "step") -> Axes:
    """One line a method through its geometric means over seeds, bars the range over seeds; logarithmic.

    A trace that is not positive, lost in its noise, is left out.

    Args:
        rows: one corpus and group of `summarise_flatness`.
        ax: where.
        against: `step`, or `loss`, which falls to the right.
    """
    for method in in_order(rows["method"]):
        look, runs = variant_look(method), rows[(rows["method"] == method) & (rows["value"] > 0)]
        steps = runs.groupby("step")
        mean, x = np.exp(np.log(runs["value"]).groupby(runs["step"]).mean()), steps[against].mean()
        ax.vlines(x, steps["value"].min(), steps["value"].max(), color=look.colour, lw=1, alpha=0.7)
        ax.plot(
            x,
            mean,
            color=look.colour,
            ls=look.linestyle,
            marker=look.marker,
            ms=4.5,
            lw=1.4,
            label=look.label,
            gid=f"mean:{method}",
        )
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if against == "loss":
        ax.invert_xaxis()
    return ax


def flatness_along_training(frame: pd.DataFrame) -> Figure:
    """Traces along training, a row a language: the whole model, embeddings and blocks by step; the whole by loss."""
    found = summarise_flatness(frame)
    corpora = [name for name in CORPORA if name in set(found["corpus"])]
    with style():
        figure = Figure(figsize=(11.6, 2.75 * len(corpora) + 0.7), layout="constrained")
        grid = figure.subplots(len(corpora), len(GROUPS) + 1, squeeze=False)
        for corpus, axes in zip(corpora, grid, strict=True):
            rows = found[found["corpus"] == corpus]
            for group, ax in zip(GROUPS, axes, strict=False):
                draw_flatness(rows[rows["group"] == group], ax)
            draw_flatness(rows[rows["group"] == "whole model"], axes[-1], against="loss")
            axes[0].set_ylabel(f"{CORPORA[corpus]}\n{_AXIS}")
        for title, ax in zip((*GROUPS, "whole model, by loss"), grid[0], strict=True):
            ax.set_title(title)
        for ax in grid[-1, :-1]:
            ax.set_xlabel("step")
        grid[-1, -1].set_xlabel("validation loss (nats per token)")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def flatness_ratios(tables: Sequence[pd.DataFrame], published: Mapping[str, float] | None = None) -> Figure:
    """Every method's trace over the full model's at equal loss, a panel a language and length of training.

    Geometric means, 95 % intervals, seeds; an interval that leaves the panel, and ends in an arrowhead, is wider than
    what was seen. Of several tables only what all of them have.

    Args:
        tables: columns what (`whole model` or one of `_KINDS`), method, corpus, seed, value (log of the ratio) and
            steps, the shortest training first.
        published: the traces of Table 5, `full` and `est`; a dotted line is their ratio.
    """
    every = [_labelled(table) for table in tables]
    labels = [label for label in every[0]["label"].unique() if all((label == one["label"]).any() for one in every)]
    panels = {
        (corpus, one["steps"].iloc[0]): one[(one["corpus"] == corpus) & one["label"].isin(labels)]
        for corpus in CORPORA
        for one in every
        if corpus in set(one["corpus"])
    }
    if not panels:
        raise ValueError("no rows of metric hessian_trace can be read at equal loss")
    with style():
        columns = min(2, len(panels))
        height = -(-len(panels) // columns)
        size = (2.6 + 2.9 * columns, 0.8 + (0.4 + 0.27 * len(labels)) * height)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(height, columns, sharey=True, squeeze=False).flat
        for ((corpus, steps), rows), ax in zip(panels.items(), axes, strict=True):
            _draw_ratios(rows, labels, ax)
            ax.set_title(f"{CORPORA[corpus]}, {steps:,} steps" if len(tables) > 1 else CORPORA[corpus])
            if published:
                _draw_published(published, ax)
        figure.supxlabel("trace over the full model's, at equal loss", fontsize=10)
    return figure


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the column label, in the order of methods and then of kinds."""
    methods = in_order(table["method"])
    places = table["what"].map(lambda what: _KINDS.index(what) + len(methods) if what in _KINDS else -1)
    place = places.where(places >= 0, table["method"].map(methods.index))
    looks = table["method"].map(lambda method: variant_look(method).label)
    label = looks.where(table["what"] == "whole model", looks + ": " + table["what"])
    return table.assign(label=label, place=place).sort_values("place", kind="stable", ignore_index=True)


def _draw_published(published: Mapping[str, float], ax: Axes) -> None:
    value = published["est"] / published["full"]
    ax.axvline(value, color="#0072B2", lw=1.1, ls=":", gid="published")
    ax.annotate(
        f"Table 5: {value:.2f}",
        (value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -3),
        textcoords="offset points",
        va="top",
        fontsize=8.5,
        color="#0072B2",
    )


def _draw_ratios(rows: pd.DataFrame, labels: list[str], ax: Axes) -> None:
    means = over_seeds(rows, ["label", "method"]).set_index("label")
    for place, label in enumerate(reversed(labels)):
        if label not in means.index:
            continue
        row = means.loc[label]
        look = variant_look(str(row["method"]))
        if row["seeds"] > 1:
            ends = np.exp([row["low"], row["high"]])
            ax.plot(ends, [place, place], color=look.colour, lw=1.6, gid=f"interval:{label}")
        ax.plot(
            np.exp(rows.loc[rows["label"] == label, "value"]), [place] * int(row["seeds"]), "|", color=look.colour, ms=7
        )
        ax.plot(np.exp(row["mean"]), place, marker=look.marker, color=look.colour, ms=6.5, ls="", gid=f"mean:{label}")
    ax.axvline(1, color="#000000", lw=0.8)
    ax.set_xscale("log")
    low, high = np.exp(rows["value"].min()), np.exp(rows["value"].max())
    widest = means.loc[means["seeds"] > 1, "high"].max()
    within = min(np.exp(widest), _WIDEST * high) if np.isfinite(widest) else high
    ax.set_xlim(min(0.17, 0.9 * low), max(2.0, 1.15 * high, 1.08 * within))
    mark_cut(ax)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(labels)), list(reversed(labels)))
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="y", length=0)


def table_5(table: pd.DataFrame, published: Mapping[str, float] | None = None) -> Figure:
    """Traces at equal loss as bars, split over groups, beside the paper's; every panel has a scale of its own.

    Args:
        table: columns corpus, method (`full` and `est`), part, value and loss.
        published: the traces of Table 5, `full` and `est`.
    """
    if table.empty:
        raise ValueError("no rows of metric hessian_trace can be read at equal loss")
    corpora = [name for name in CORPORA if name in set(table["corpus"])]
    count = len(corpora) + bool(published)
    with style():
        figure = Figure(figsize=(2.5 * count + 1.4, 3.3), layout="constrained")
        axes = list(figure.subplots(1, count, squeeze=False)[0])
        if published:
            ax = axes.pop(0)
            values = [published["full"], published["est"]]
            ax.bar((0, 1), values, width=0.62, color="#FFFFFF", edgecolor="#000000", lw=1)
            _finish_bars(ax, values, "GPT-2, the paper\n(3.06 and 3.05 nats)")
        for corpus, ax in zip(corpora, axes, strict=True):
            rows = table[table["corpus"] == corpus]
            tops = _stack(rows, ax)
            _finish_bars(ax, tops, f"{CORPORA[corpus]}\n(both {rows['loss'].iloc[0]:.2f} nats)")
        figure.axes[0].set_ylabel(_AXIS)
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right center")
    return figure


def _stack(rows: pd.DataFrame, ax: Axes) -> list[float]:
    """Bars of the full model and EST; the height of each. A part that is negative hangs below 0."""
    tops = [0.0, 0.0]
    bottoms = [0.0, 0.0]
    for part, (colour, hatch) in _PARTS.items():
        values = [
            rows.loc[(rows["method"] == name) & (rows["part"] == part), "value"].sum() for name in ("full", "est")
        ]
        base = [top if value >= 0 else bottom for top, bottom, value in zip(tops, bottoms, values, strict=True)]
        name = {"mlp": "MLP"}.get(part, part)
        ax.bar(
            (0, 1), values, bottom=base, width=0.62, color=colour, hatch=hatch, edgecolor="#333333", lw=0.5, label=name
        )
        tops = [top + max(value, 0) for top, value in zip(tops, values, strict=True)]
        bottoms = [bottom + min(value, 0) for bottom, value in zip(bottoms, values, strict=True)]
    return tops


def _finish_bars(ax: Axes, tops: list[float], title: str) -> None:
    for place, top in enumerate(tops):
        ax.annotate(
            f"{top:.0f}" if top >= 100 else f"{top:.3g}",
            (place, top),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    ax.set_xticks((0, 1), [method_style(name).label for name in ("full", "est")])
    ax.set_xlim(-0.6, 1.6)
    ax.set_ylim(top=1.13 * max(tops))
    ax.set_title(title)
    ax.grid(False, axis="x")
