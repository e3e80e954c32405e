"""Ablations: EST's dimensions, loss against saving over schedules, Table 3 beside ours; RaPTr's schedules and more."""

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .intervals import over_seeds
from .style import METHOD_STYLES, method_style, rows_of, style

COMPONENTS = {
    "est/only-heads": ("heads",),
    "est/only-mlp": ("MLP",),
    "est/only-layers": ("layers",),
    "est/two-stage-b": ("heads", "MLP"),
    "est/heads-layers": ("heads", "layers"),
    "est/mlp-layers": ("MLP", "layers"),
    "est": ("heads", "MLP", "layers"),
}
TABLE_3 = ("est/two-stage-a", "est/two-stage-b", "est/two-stage-c", "est/three-stage", "est", "est/one-stage")
_SHORTER = ("full", "short", "short/half")
# Schedules by what they save: two groups, each with a style.
_TABLE_3_BY_SAVING = ("est/two-stage-a", "est/two-stage-b", "est", "est/two-stage-c", "est/one-stage")
_LENGTHS_AND_RATES = ("est/half-as-long", "est/mild", "est/harsh", "est/twice-as-long")
_BY_SAVING = {
    "Table 3": (_TABLE_3_BY_SAVING, METHOD_STYLES["est"]),
    "EST with other lengths or rates": (_LENGTHS_AND_RATES, METHOD_STYLES["raptr"]),
}
# Where a name stands so that no interval crosses it, in points from the mean or from the interval's upper end; to the
# right of the mean unless said. Where it is far a thin line leads there.
_NAMED_AT = {
    "est": ("mean", -6, 0),
    "est/half-as-long": ("mean", -6, 0),
    "est/mild": ("mean", -6, 0),
    "est/two-stage-a": ("mean", 12, -40),
    "est/two-stage-b": ("mean", 14, -38),
    "est/two-stage-c": ("high", 5, 0),
}
# What saves as much as EST, or nearly.
_AT_ONE_SAVING = (
    "short",
    "est",
    "est/three-stage",
    "est/two-stage",
    "est/linear",
    "est/exponential",
    "est/constant",
    "est/bernoulli",
    "est/unscaled",
)


# RaPTr's and stacking's schedules, and what else may change about RaPTr.
_RAPTR_SCHEDULES = (
    "short",
    "raptr",
    "raptr/two-stage",
    "raptr/exponential",
    "raptr/late",
    "raptr/warm-up",
    "gradual_stacking",
    "gradual_stacking/two-stage",
    "gradual_stacking/exponential",
)
_RAPTR_CHANGES = {
    "scaling": ("raptr/sqrt_gap", "raptr/linear_gap", "raptr/inv_p"),
    "axis": ("raptr/width",),
    "law": ("stochastic_depth",),
}


def summarise_ablations(frame: pd.DataFrame) -> pd.DataFrame:
    """Where every run ends against the full model's run of the same seed.

    Returns:
        Columns method, seed, gap (validation loss minus the full model's) and saved (percent of its layer FLOPs); the
        full model itself has zeros.
    """
    found = []
    for metric in ("validation_loss", "layer_flops"):
        rows = rows_of(frame, metric)
        found.append(rows.loc[rows.groupby("run_id")["step"].idxmax()].set_index(["method", "seed"])["value"])
    losses, flops = found
    table = pd.DataFrame({"loss": losses, "flops": flops}).reset_index()
    full = table[table["method"] == "full"].set_index("seed")
    if full.empty:
        raise ValueError("nothing to compare with: the frame holds no run of 'full'")
    gap = table["loss"] - table["seed"].map(full["loss"])
    saved = 100 * (1 - table["flops"] / table["seed"].map(full["flops"]))
    table = table.assign(gap=gap, saved=saved)[["method", "seed", "gap", "saved"]]
    return table.dropna().sort_values(["method", "seed"], ignore_index=True)


def sums_of_single(points: pd.DataFrame) -> dict[str, float]:
    """For every contender that samples several dimensions, the sum of the mean gaps with one of them sampled."""
    means = points.groupby("method")["gap"].mean()
    alone = {parts[0]: means[method] for method, parts in COMPONENTS.items() if len(parts) == 1 and method in means}
    return {
        method: sum(alone[part] for part in parts)
        for method, parts in COMPONENTS.items()
        if len(parts) > 1 and method in means and set(parts) <= alone.keys()
    }


def _interval(ax: Axes, row: pd.Series, place: float, look: Mapping[str, str]) -> None:
    ax.plot([row["low"], row["high"]], [place, place], color=look["color"], lw=1.6)
    ax.plot(row["mean"], place, ls="", ms=6.5, gid=f"mean:{row['method']}", **look)


def draw_components(points: pd.DataFrame, value: str, ax: Axes) -> Axes:
    """One line a contender: the mean of `value` with its 95 % interval, and the seeds."""
    shown = [method for method in COMPONENTS if method in set(points["method"])]
    means = over_seeds(points, ["method"], value).set_index("method", drop=False)
    look = {"color": METHOD_STYLES["est"].colour, "marker": METHOD_STYLES["est"].marker}
    for place, method in enumerate(reversed(shown)):
        runs = points.loc[points["method"] == method, value]
        ax.plot(runs, [place] * len(runs), "|", color=look["color"], ms=8)
        _interval(ax, means.loc[method], place, look)
    ax.axvline(0, color="#000000", lw=0.8)
    ax.set_yticks(range(len(shown)), [" + ".join(COMPONENTS[method]) for method in reversed(shown)])
    ax.tick_params(axis="y", length=0)
    return ax


def ablation_components(frame: pd.DataFrame) -> Figure:
    """What sampling each of EST's dimensions costs, in EST's stages: the loss, and the loss for what it saves.

    Hollow diamonds are the sums of the costs with one dimension sampled at a time.
    """
    points = summarise_ablations(frame)
    points = points[points["method"].isin(COMPONENTS)]
    if points.empty:
        raise ValueError("no ablation to draw: the frame holds none of its contenders")
    with style():
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        draw_components(points, "gap", left)
        shown = [method for method in COMPONENTS if method in set(points["method"])]
        sums = sums_of_single(points)
        for method, total in sums.items():
            place = len(shown) - 1 - shown.index(method)
            left.plot(total, place, "D", mfc="none", mec="#D55E00", mew=1.5, ms=8, gid=f"sum:{method}")
        if sums:
            left.legend(left.lines[-1:], ["sum of the costs\nof one at a time"], loc="upper right")
        left.set_xlabel("final loss minus the full model's (nats)")
        draw_components(points.assign(price=10 * points["gap"] / points["saved"]), "price", right)
        right.set_xlabel("the same per 10 % of layer FLOPs saved")
    return figure


def _name(method: str) -> str:
    """What a contender is called among others of EST's."""
    return method_style(method).label.removeprefix("EST, ")


def _write_name(method: str, saved: float, row: pd.Series, ax: Axes) -> None:
    """Writes what `method` is called beside its mark, below whatever else is drawn there."""
    end, right, up = _NAMED_AT.get(method, ("mean", 6, 0))
    leader = {"arrowstyle": "-", "color": "#888888", "lw": 0.7, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 4}
    ax.annotate(
        _name(method),
        (saved, row[end] if np.isfinite(row[end]) else row["mean"]),
        xytext=(right, up),
        textcoords="offset points",
        ha="left" if right > 0 else "right",
        va="center",
        fontsize=8,
        bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.3},
        arrowprops=leader if up else None,
        zorder=1.5,
        gid=f"name:{method}",
    )


def draw_savings(points: pd.DataFrame, ax: Axes) -> Axes:
    """A mark a schedule at its saving, with the 95 % interval of its loss, and the line of shorter full models."""
    means = over_seeds(points, ["method"], "gap").set_index("method")
    saved = points.groupby("method")["saved"].mean()
    line = [method for method in _SHORTER if method in means.index]
    look = {"color": METHOD_STYLES["short"].colour, "ls": ":", "marker": "o", "ms": 5}
    ax.plot(saved[line], means.loc[line, "mean"], label="full model, fewer steps", gid="shorter", **look)
    for group, (methods, style_of) in _BY_SAVING.items():
        shown = [method for method in methods if method in means.index]
        rows, look = means.loc[shown], {"color": style_of.colour, "ls": ""}
        halves = np.nan_to_num((rows["high"] - rows["mean"]).to_numpy())
        ax.errorbar(saved[shown], rows["mean"], yerr=halves, elinewidth=1.2, **look)
        ax.plot(saved[shown], rows["mean"], marker=style_of.marker, ms=6, zorder=4, label=group, **look)
        for method in shown:
            _write_name(method, saved[method], means.loc[method], ax)
    ax.axhline(0, color="#000000", lw=0.8)
    ax.set_xlim(-3, 70)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.15 * (high - low))  # for the legend
    ax.set_xlabel("layer FLOPs saved (%)")
    ax.set_ylabel("final loss minus the full model's (nats)")
    return ax


def draw_contenders(points: pd.DataFrame, contenders: Sequence[str], ax: Axes) -> Axes:
    """One line a contender: means, 95 % intervals and seeds; dotted, the shorter full model."""
    means = over_seeds(points, ["method"], "gap").set_index("method", drop=False)
    shown = [method for method in contenders if method in means.index]
    for place, method in enumerate(reversed(shown)):
        look = method_style(method)
        runs = points.loc[points["method"] == method, "gap"]
        ax.plot(runs, [place] * len(runs), "|", color=look.colour, ms=8)
        _interval(ax, means.loc[method], place, {"color": look.colour, "marker": look.marker})
    if "short" in means.index:
        ax.axvline(means.loc["short", "mean"], color=METHOD_STYLES["short"].colour, ls=":", lw=1.2)
    ax.axvline(0, color="#000000", lw=0.8)
    ax.set_yticks(range(len(shown)), [_name(method) for method in reversed(shown)])
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("final loss minus the full model's (nats)")
    return ax


def ablation_schedules(frame: pd.DataFrame) -> Figure:
    """Final loss against the layer FLOPs that a schedule saves, and what changes at EST's own saving.

    A schedule below the dotted line, or left of it, ends better than a shorter run of the full model.
    """
    points = summarise_ablations(frame)
    if not set(points["method"]) & {*_TABLE_3_BY_SAVING, *_LENGTHS_AND_RATES, *_AT_ONE_SAVING}:
        raise ValueError("no ablation to draw: the frame holds none of its contenders")
    with style():
        figure = Figure(figsize=(10.2, 4.1), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        draw_savings(points, left).legend(loc="upper left")
        left.set_title("schedules that save more or less")
        draw_contenders(points, _AT_ONE_SAVING, right)
        right.set_title(f"at EST's saving{_least_and_most(points)}")
    return figure


def _least_and_most(points: pd.DataFrame) -> str:
    """What those that save as much as EST save: the least and the most, or the one number."""
    saved = points[points["method"].isin(_AT_ONE_SAVING)].groupby("method")["saved"].mean()
    numbers = dict.fromkeys(f"{number:.3g}" for number in (saved.min(), saved.max()))
    return "" if saved.empty else f", {' to '.join(numbers)} %"


def raptr_ablations(frame: pd.DataFrame) -> Figure:
    """RaPTr and stacking on several schedules; and RaPTr with other scalings, or sampling heads and MLP columns.

    All save 25 % of the layer FLOPs, but for RaPTr after a warm-up of the full model, 17.5 %.
    """
    points = summarise_ablations(frame)
    there = set(points["method"])
    changes = {what: shown for what, methods in _RAPTR_CHANGES.items() if (shown := [m for m in methods if m in there])}
    if not changes and not there & {*_RAPTR_SCHEDULES} - {"raptr", "short"}:
        raise ValueError("no ablation of RaPTr to draw: the frame holds none of its contenders")
    with style():
        figure = Figure(figsize=(10.2, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_contenders(points, _RAPTR_SCHEDULES, left).set_title("schedules")
        draw_contenders(points, ["raptr", *chain(*changes.values())], right).set_title(", ".join(changes))
    return figure


def table_3(frames: Sequence[pd.DataFrame], published: Mapping[str, float]) -> Figure:
    """The paper's Table 3 beside ours: each schedule's loss minus the full model's, on one scale.

    Args:
        frames: tidy rows of the ablations, one for each length of training; each has a panel.
        published: the paper's losses by contender, that of the full model under `full`.
    """
    lengths = [summarise_ablations(frame) for frame in frames]
    shown = [method for method in TABLE_3 if method in published and method in set(lengths[0]["method"])]
    if not shown:
        raise ValueError("no Table 3 to draw: the frame holds none of its schedules")
    with style():
        figure = Figure(figsize=(3.2 + 2.2 * (1 + len(frames)), 2.9), layout="constrained")
        axes = figure.subplots(1, 1 + len(frames), sharey=True, sharex=True)
        for place, method in enumerate(reversed(shown)):
            gap = published[method] - published["full"]
            axes[0].plot(gap, place, marker="o", color="#000000", ms=6.5, ls="", gid=f"published:{method}")
        for ax, frame, points in zip(axes[1:], frames, lengths, strict=True):
            _draw_table_3(points, shown, ax)
            ax.set_title(f"here: {frame['step'].max():,} steps, {points['seed'].nunique()} seeds")
        saved = lengths[0].groupby("method")["saved"].mean()
        names = [f"{_name(m)} ({saved[m]:.1f} %)" for m in reversed(shown)]
        axes[0].set_yticks(range(len(shown)), names)
        axes[0].set_title("published: GPT-2, one run")
        for ax in axes:
            ax.axvline(0, color="#000000", lw=0.8)
            ax.tick_params(axis="y", length=0)
        figure.supxlabel("final validation loss minus the full model's (nats per token)", fontsize=10)
    return figure


def _draw_table_3(points: pd.DataFrame, shown: Sequence[str], ax: Axes) -> None:
    look = METHOD_STYLES["est"]
    means = over_seeds(points[points["method"].isin(shown)], ["method"], "gap").set_index("method", drop=False)
    for place, method in enumerate(reversed(shown)):
        if method in means.index:
            runs = points.loc[points["method"] == method, "gap"]
            ax.plot(runs, [place] * len(runs), "|", color=look.colour, ms=8)
            _interval(ax, means.loc[method], place, {"color": look.colour, "marker": look.marker})
