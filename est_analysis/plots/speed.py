"""Step time in each stage as a part of the full model's, beside what the operation count allows."""

import pandas as pd
from matplotlib.figure import Figure

from .style import in_order, method_style, rows_of, style


def _per_window(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a window: its run, stage, step time, length, and the operations of one step in it."""
    wanted = frame[frame["metric"].isin(["stage", "step_seconds", "layer_flops", "total_flops"])]
    wide = wanted.pivot(index=["method", "seed", "run_id", "step"], columns="metric", values="value").reset_index()
    wide = wide.dropna(subset=["stage", "step_seconds"])
    steps = wide.groupby("run_id")["step"].diff().fillna(wide["step"])
    for count in {"layer_flops", "total_flops"} & set(wide.columns):
        wide[count] = wide.groupby("run_id")[count].diff().fillna(wide[count]) / steps
    return wide


def summarise_step_time(frame: pd.DataFrame, baseline: str = "full") -> pd.DataFrame:
    """Each method's step time and operations in each stage, divided by the baseline's.

    A window's time is divided by the median step time of the baseline run of the same seed (of all baseline runs where
    there is none), so that seeds run on different machines still compare.

    Args:
        frame: tidy rows with `step_seconds` and `stage`, and the FLOPs counts if there are any.
        baseline: the method to divide by.

    Returns:
        Columns method, stage, ratio (the median over windows), low and high (the quartiles), windows, and total_flops
        and layer_flops (ratios of operations a step) where counted. The baseline's own rows are left out.
    """
    for metric in ("step_seconds", "stage"):
        rows_of(frame, metric)  # raises where it was not recorded
    windows = _per_window(frame)
    full = windows[windows["method"] == baseline]
    if full.empty:
        raise ValueError(f"no step times of method '{baseline}' to divide by: run it too")
    by_seed = full.groupby("seed")["step_seconds"].median()
    reference = windows["seed"].map(by_seed).fillna(full["step_seconds"].median())
    windows = windows.assign(ratio=windows["step_seconds"] / reference)
    groups = windows[windows["method"] != baseline].groupby(["method", "stage"])
    table = groups["ratio"].quantile([0.25, 0.5, 0.75]).unstack()
    table = table.rename(columns={0.25: "low", 0.5: "ratio", 0.75: "high"}).assign(windows=groups.size())
    for count in [name for name in ("total_flops", "layer_flops") if name in windows]:
        table[count] = groups[count].mean() / full[count].mean()
    return table.reset_index().astype({"stage": int}).rename_axis(columns=None)


def step_time_by_stage(frame: pd.DataFrame, baseline: str = "full") -> Figure:
    """Measured step time of every method and stage relative to the full model's, beside the ratio of operations.

    Filled marks are the median over windows with the quartiles as bars; hollow diamonds are the operations of a step
    with everything counted, short ticks those of the layers alone. A mark above its diamond is time that the smaller
    subnetwork should have saved and did not.

    Args:
        frame: tidy rows with `step_seconds` and `stage` of the baseline and of at least one other method.
        baseline: the method to divide by.

    Returns:
        The figure; its measured points carry `measured:<method>` as group identifier.
    """
    table = summarise_step_time(frame, baseline)
    if table.empty:
        raise ValueError(f"only '{baseline}' was timed: a method to compare with it is missing")
    methods = in_order(table["method"])
    table = table.set_index("method").loc[methods].reset_index()
    gaps = table["method"].map({name: 0.7 * position for position, name in enumerate(methods)})
    places = table.index.to_numpy() + gaps.to_numpy()
    with style():
        figure = Figure(figsize=(max(5.2, 1.0 * len(table) + 2.6), 3.6), layout="constrained")
        ax = figure.subplots()
        ax.axhline(1.0, color=method_style(baseline).colour, lw=1.2, zorder=1, label=method_style(baseline).label)
        for method, rows in table.groupby("method", sort=False):
            look, x = method_style(method), places[rows.index]
            bars = [rows["ratio"] - rows["low"], rows["high"] - rows["ratio"]]
            drawn = ax.errorbar(x - 0.12, rows["ratio"], bars, fmt=look.marker, color=look.colour, ms=7, capsize=3)
            drawn.lines[0].set_gid(f"measured:{method}")
            drawn.set_label(f"{look.label}, measured")
            ax.text(x.mean(), 1.03, look.label, ha="center", va="bottom", color=look.colour, fontweight="bold")
        if "total_flops" in table:
            ax.plot(places + 0.12, table["total_flops"], "D", mfc="white", mec="#333333", ms=6.5, label="all FLOPs")
        if "layer_flops" in table:
            ax.plot(places + 0.12, table["layer_flops"], "_", color="#333333", ms=13, mew=2, label="layer FLOPs")
        ax.set_xticks(places, [f"stage {stage + 1}" for stage in table["stage"]])
        ax.set_ylabel("ratio to the full model's step")
        ax.set_ylim(0, max(1.15, 1.08 * table["high"].max()))
        ax.grid(False, axis="x")
        figure.legend(loc="outside right upper")
    return figure
