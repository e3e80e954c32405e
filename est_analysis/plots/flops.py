"""Validation loss against the floating-point operations spent, counted in two ways."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import in_order, method_style, rows_of, style

_PANELS = {
    "total_flops": "everything counted (attention and LM head too)",
    "layer_flops": "layers only (the papers' count)",
}


def summarise_loss_against_flops(frame: pd.DataFrame, flops: str = "total_flops") -> pd.DataFrame:
    """The full model's validation loss at each evaluation, beside the operations spent until then.

    Operations are read off each run's own cumulative count, linearly between two records (exact within a stage of
    fixed-size subnetworks).

    Args:
        frame: tidy rows with `validation_loss` and `flops`.
        flops: the count, `total_flops` or `layer_flops`.

    Returns:
        Columns method, seed, run_id, step, flops and loss.
    """
    spent = dict(iter(rows_of(frame, flops).groupby("run_id")))
    losses = rows_of(frame, "validation_loss")
    losses = losses[losses["run_id"].isin(list(spent))].rename(columns={"value": "loss"})
    parts = []
    for run_id, run in losses.groupby("run_id", sort=False):
        steps, counts = spent[run_id]["step"], spent[run_id]["value"]
        parts.append(run.assign(flops=np.interp(run["step"], [0, *steps], [0.0, *counts])))
    return pd.concat(parts, ignore_index=True)[["method", "seed", "run_id", "step", "flops", "loss"]]


def draw_loss_against_flops(points: pd.DataFrame, ax: Axes) -> Axes:
    """Draws one thin line a run and one bold line a method: means over runs at equal steps."""
    for method, runs in ((name, points[points["method"] == name]) for name in in_order(points["method"])):
        look = method_style(method)
        for run_id, run in runs.groupby("run_id"):
            ax.plot(run["flops"], run["loss"], color=look.colour, lw=0.7, alpha=0.4, gid=f"run:{run_id}")
        steps = runs.groupby("step").agg(flops=("flops", "mean"), loss=("loss", "mean"), runs=("run_id", "nunique"))
        mean = steps[steps["runs"] == runs["run_id"].nunique()]
        (line,) = ax.plot(mean["flops"], mean["loss"], color=look.colour, ls=look.linestyle, label=look.label)
        line.set_gid(f"mean:{method}")
        ax.plot(mean["flops"].iloc[-1:], mean["loss"].iloc[-1:], color=look.colour, marker=look.marker, ms=7)
    shown = points[points["flops"] >= 0.05 * points["flops"].max()]["loss"]
    margin = 0.05 * (shown.max() - shown.min()) or 0.1
    ax.set_ylim(shown.min() - margin, shown.max() + margin)
    ax.set_xlim(left=0)
    ax.set_xlabel("cumulative FLOPs")
    return ax


def loss_against_flops(frame: pd.DataFrame) -> Figure:
    """Validation loss against cumulative FLOPs: a panel for the full count and one for the papers' layer-only count.

    Marks show where each method's training ends. The losses of the first 5 % may run off the top.

    Args:
        frame: tidy rows with `validation_loss` and `total_flops` or `layer_flops`.

    Returns:
        The figure; its lines carry `mean:<method>` and `run:<run_id>` as group identifiers.
    """
    counts = [metric for metric in _PANELS if (frame["metric"] == metric).any()] or ["total_flops"]
    with style():
        figure = Figure(figsize=(4.9 * len(counts), 3.7), layout="constrained")
        axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        for metric, ax in zip(counts, axes, strict=True):
            draw_loss_against_flops(summarise_loss_against_flops(frame, metric), ax).set_title(_PANELS[metric])
        axes[0].set_ylabel("validation loss (nats per token)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure
