"""The training loss around stage transitions, in the shape of EST's Figure 2: what changes as the subnetwork grows."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .curves import draw_curves, draw_stages, summarise_curves, summarise_stages
from .style import method_style, rows_of, style

_AROUND = 8  # windows on each side of a transition
_TREND = 2  # windows before a transition that the straight line goes through
_DASHED = (0, (3, 1.2))


def summarise_transition_windows(frame: pd.DataFrame, method: str = "est") -> pd.DataFrame:
    """The mean training loss over the seeds of `method` in the windows around each of its transitions.

    Args:
        frame: tidy rows with `train_loss` (the mean of the window that ends at a step) and `stage`.
        method: which one.

    Returns:
        Columns transition (its step), step, centre (of the window, in steps), mean, and trend: the straight line
        through the two windows before the transition, in these and in the one after it, elsewhere missing.
    """
    curve = summarise_curves(frame[frame["method"] == method], "train_loss")
    stages = summarise_stages(frame)
    ends = stages.loc[stages["method"] == method, "end"].tolist()[:-1]
    if not ends:
        raise ValueError(f"no stage transition of '{method}' to draw: it was not run, or without stages")
    curve["centre"] = (curve["step"] + curve["step"].shift(fill_value=0)) / 2
    parts = []
    for end in ends:
        after = int(np.searchsorted(curve["step"], end, side="right"))
        part = curve.iloc[max(0, after - _AROUND) : after + _AROUND].assign(transition=end)
        before = curve.iloc[after - _TREND : after]
        line = np.polyfit(before["centre"], before["mean"], 1)
        near = part["step"].isin(curve["step"].iloc[after - _TREND : after + 1])
        part["trend"] = np.where(near, np.polyval(line, part["centre"]), np.nan)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    return table[["transition", "step", "centre", "mean", "trend"]]


def _draw_transition(frame: pd.DataFrame, windows: pd.DataFrame, method: str, ax: Axes) -> None:
    """Draws the windows around one transition: seeds thin, their mean bold, the trend before it and where it leads."""
    end, look = windows["transition"].iloc[0], method_style(method)
    centres = windows.set_index("step")["centre"]
    rows = rows_of(frame[frame["method"] == method], "train_loss")
    for _, run in rows[rows["step"].isin(windows["step"])].groupby("run_id"):
        ax.plot(run["step"].map(centres), run["value"], color=look.colour, lw=0.7, alpha=0.35)
    (line,) = ax.plot(windows["centre"], windows["mean"], look.marker, color=look.colour, ls="-", lw=1.8, ms=4.5)
    line.set_gid(f"near:{method}:{end}")
    trend = windows.dropna()
    (line,) = ax.plot(trend["centre"], trend["trend"], color="black", lw=1.6, ls=_DASHED, zorder=4)
    line.set_gid(f"trend:{end}")
    ax.plot(trend["centre"].iloc[-1], trend["trend"].iloc[-1], "o", mec="black", mfc="white", ms=6, zorder=5)
    ax.axvline(end, color=look.colour, ls=look.linestyle, lw=0.9, alpha=0.7, zorder=0)
    ax.set_title(f"{look.label} around step {end}")
    ax.set_xlabel("optimizer step")


def stage_transitions(frame: pd.DataFrame, method: str = "est") -> Figure:
    """Training loss of `method` and of the full model over the run, and that of `method` around each transition.

    A dashed line goes through the two windows before a transition to where they lead in the one after it (hollow): what
    the loss lies below that is a drop that the trend does not explain.

    Args:
        frame: tidy rows with `train_loss` and `stage`.
        method: the one with stages.

    Returns:
        The figure; its lines carry `mean:<method>`, `near:<method>:<step>` and `trend:<step>` as group identifiers.
    """
    frame = frame[frame["method"].isin(["full", method])]
    windows = summarise_transition_windows(frame, method)
    around = [part for _, part in windows.groupby("transition")]
    with style():
        figure = Figure(figsize=(4.4 + 2.9 * len(around), 3.7), layout="constrained")
        grid = figure.add_gridspec(
            2, 1 + len(around), height_ratios=[0.07, 1], width_ratios=[1.5, *[1.0] * len(around)]
        )
        whole = figure.add_subplot(grid[1, 0])
        ribbon = figure.add_subplot(grid[0, 0], sharex=whole)
        rows, curves = rows_of(frame, "train_loss"), summarise_curves(frame, "train_loss")
        draw_curves(rows, curves, whole).set_ylabel("loss (nats per token)")
        draw_stages(summarise_stages(frame[frame["method"] == method]), ribbon, whole)
        ribbon.set_title("training loss, sampled subnetwork")
        for column, part in enumerate(around, start=1):
            _draw_transition(frame, part, method, figure.add_subplot(grid[:, column]))
        handles, labels = whole.get_legend_handles_labels()
        led = Line2D([], [], color="black", ls=_DASHED, lw=1.6, marker="o", mfc="white", mec="black")
        words = "line through the two windows before, and where it leads"
        figure.legend([*handles, led], [*labels, words], loc="outside lower center", ncols=4)
    return figure
