"""Downstream proxies: final scores by method, and score against Hessian trace once the loss is accounted for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .flatness import variant_look
from .intervals import mark_cut, over_seeds
from .style import in_order, method_style, rows_of, style

TASKS = {
    "downstream_last_word": "last word of a line",
    "downstream_probe_kinds": "probe: kind of token",
    "downstream_probe_library": "probe: package",
    "downstream_finetune_library": "fine-tuned: package",
}
_VARIED = {"full/est-rate-half": "full/est-rate"}  # where it is not the plain method


def _text(frame: pd.DataFrame) -> pd.DataFrame:
    if "corpus" not in frame.columns:
        raise ValueError("no downstream scores to draw: the frame has no column corpus")
    return frame[frame["corpus"] == "text"]


def summarise_downstream(frame: pd.DataFrame) -> pd.DataFrame:
    """The final scores of every run on text, in percent.

    Returns:
        Columns task, method, seed, value and chance.
    """
    rows = _text(frame)
    found = []
    for task in TASKS:
        scores = rows_of(rows, task)
        ends = scores.loc[scores.groupby("run_id")["step"].idxmax()]
        chance = rows_of(rows, f"{task}_chance").groupby("run_id")["value"].last()
        found.append(ends.assign(task=task, value=100 * ends["value"], chance=100 * ends["run_id"].map(chance)))
    return pd.concat(found, ignore_index=True)[["task", "method", "seed", "value", "chance"]]


def _marks(method: str) -> dict[str, object]:
    """Marker and colour of a contender; hollow where it has those of the contender that it varies."""
    varied = _VARIED.get(method, method.split("/")[0])
    look, plain = variant_look(method), variant_look(varied)
    same = method != varied and (look.marker, look.colour) == (plain.marker, plain.colour)
    return {"color": look.colour, "marker": look.marker, "ls": "", "fillstyle": "none" if same else "full"}


def draw_downstream(scores: pd.DataFrame, methods: list[str], ax: Axes) -> Axes:
    """One line a method: mean over seeds, 95 % interval, seeds; the dotted line is chance."""
    means = over_seeds(scores, ["method"]).set_index("method")
    for place, method in enumerate(reversed(methods)):
        if method not in means.index:
            continue
        look, row = variant_look(method), means.loc[method]
        ax.plot([row["low"], row["high"]], [place, place], color=look.colour, lw=1.6, gid=f"interval:{method}")
        ax.plot(
            scores.loc[scores["method"] == method, "value"], [place] * int(row["seeds"]), "|", color=look.colour, ms=7
        )
        ax.plot(row["mean"], place, ms=6.5, gid=f"mean:{method}", **_marks(method))
    shown = scores["value"]
    margin = 0.25 * (shown.max() - shown.min()) or 1.0
    low, high, chance = shown.min() - margin, shown.max() + margin, scores["chance"].mean()
    if low <= chance <= high:
        ax.axvline(chance, color="#000000", lw=0.8, ls=":", gid="chance")
    ax.set_xlim(low, high)
    mark_cut(ax)
    ax.set_yticks(range(len(methods)), [method_style(method).label for method in reversed(methods)])
    ax.set_ylim(-0.6, len(methods) - 0.4)
    ax.tick_params(axis="y", length=0)
    return ax


def downstream_scores(frame: pd.DataFrame) -> Figure:
    """Final accuracies on text, a panel a proxy: means over seeds, 95 % intervals, and seeds.

    An interval that leaves the panel, and ends in an arrowhead, is wider than the differences between methods. Chance
    stands in the title; the dotted line marks it where it is within reach.
    """
    scores = summarise_downstream(frame)
    methods = in_order(scores["method"])
    with style():
        figure = Figure(figsize=(2.0 + 2.2 * len(TASKS), 1.1 + 0.3 * len(methods)), layout="constrained")
        for (task, title), ax in zip(TASKS.items(), figure.subplots(1, len(TASKS), sharey=True), strict=True):
            one = scores[scores["task"] == task]
            draw_downstream(one, methods, ax).set_title(f"{title}\n(chance {one['chance'].mean():.0f} %)")
        figure.supxlabel("accuracy at the end of training (%)", fontsize=10)
    return figure


def downstream_against_trace(points: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Score against loss, and at equal loss against the trace, and the line of least squares through the latter.

    Args:
        points: a row a checkpoint: method, loss, score (percent), and what the loss leaves, score_left, log_trace_left.
        tasks: whose mean the score is, keys of `TASKS`.
    """
    with style():
        figure = Figure(figsize=(9.2, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        for method in in_order(points["method"]):
            label, runs = variant_look(method).label, points[points["method"] == method]
            marks = {**_marks(method), "ms": 5, "alpha": 0.8}
            left.plot(runs["loss"], runs["score"], label=label, gid=f"score:{method}", **marks)
            right.plot(runs["log_trace_left"], runs["score_left"], gid=f"left:{method}", **marks)
        slope, height = np.polyfit(points["log_trace_left"], points["score_left"], 1)
        ends = np.array([points["log_trace_left"].min(), points["log_trace_left"].max()])
        right.plot(ends, height + slope * ends, color="#000000", lw=1.2, gid="line")
        left.set_xlabel("validation loss (nats per byte)")
        left.set_ylabel(f"{' and '.join(TASKS[task] for task in tasks)} (%)")
        right.set_xlabel("ln trace of the Hessian, beyond what the loss tells")
        right.set_ylabel("score beyond what the loss tells (points)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    return figure
