"""Estimators of a trace: how fast they converge, and what a trace is made of."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import METHOD_STYLES, style


def summarise_convergence(frame: pd.DataFrame) -> pd.DataFrame:
    """Root mean square error relative to the truth.

    Args:
        frame: columns estimator, budget, repeat, estimate, truth.

    Returns:
        Columns estimator, budget, rms (relative to the truth) and repeats.
    """
    relative = ((frame["estimate"] - frame["truth"]) / frame["truth"]).pow(2)
    grouped = relative.groupby([frame["estimator"], frame["budget"]], sort=False)
    return grouped.agg(rms=lambda squares: float(np.sqrt(squares.mean())), repeats="size").reset_index()


def estimator_convergence(frame: pd.DataFrame) -> Figure:
    """Relative error of each estimator against its cost, and the slope -1/2 of plain averaging.

    Args:
        frame: as for `summarise_convergence`.
    """
    summary = summarise_convergence(frame)
    looks = list(METHOD_STYLES.values())
    with style():
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        ax = figure.subplots()
        for look, (name, rows) in zip(looks, summary.groupby("estimator", sort=False), strict=False):
            line = {"color": look.colour, "marker": look.marker, "linestyle": look.linestyle}
            ax.plot(rows["budget"], 100 * rows["rms"], label=name, gid=f"rms:{name}", **line)
        ax.set_xscale("log")
        ax.set_yscale("log")
        budgets = sorted(summary["budget"].unique())
        ax.set_xticks(budgets, [str(budget) for budget in budgets])
        ax.minorticks_off()
        ax.set_xlabel("cost, in Hessian-vector products with all data")
        ax.set_ylabel("RMS error, % of the trace")
        ax.legend()
    return figure


def trace_by_kind(frame: pd.DataFrame) -> Figure:
    """The shares of a trace, kind of module by kind of module, for several checkpoints side by side.

    Args:
        frame: columns checkpoint, kind, trace and stderr.
    """
    names, kinds = list(frame["checkpoint"].unique()), list(frame["kind"].unique())
    looks = list(METHOD_STYLES.values())
    width = 0.8 / len(names)
    with style():
        figure = Figure(figsize=(1.4 + 1.3 * len(kinds), 3.4), layout="constrained")
        ax = figure.subplots()
        for number, (name, look) in enumerate(zip(names, looks, strict=False)):
            rows = frame[frame["checkpoint"] == name].set_index("kind").reindex(kinds)
            places = np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * width
            bars = ax.bar(
                places, rows["trace"], 0.9 * width, yerr=rows["stderr"], capsize=3, color=look.colour, label=name
            )
            bars[0].set_gid(f"kind:{name}")
        ax.axhline(0, color="#444444", lw=0.8)
        ax.set_xticks(range(len(kinds)), kinds)
        ax.set_ylabel("share of the Hessian trace")
        ax.grid(False, axis="x")
        ax.legend()
    return figure
