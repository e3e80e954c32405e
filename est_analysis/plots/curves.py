"""Loss against step, in the shape of EST's Figure 3: what the subnetwork sees, and what the full model reaches."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import in_order, method_style, rows_of, style

# The first steps fall by several nats and would flatten everything after them: the axis fits the rest.
_SHOWN_FROM = 0.05
# The differences that matter are in the last part of training, and small: an inset enlarges it.
_INSET_FROM = 0.75


def summarise_curves(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean of `metric` over a method's runs at every step that all of them have.

    Args:
        frame: tidy rows.
        metric: which one, such as `validation_loss`.

    Returns:
        Columns method, step, mean, sd (missing for one run) and runs.
    """
    rows = rows_of(frame, metric)
    runs = rows.groupby("method")["run_id"].nunique()
    curves = rows.groupby(["method", "step"], as_index=False).agg(
        mean=("value", "mean"), sd=("value", "std"), runs=("run_id", "nunique")
    )
    # Where one run is missing the mean would jump for no reason but that.
    return curves[curves["runs"] == curves["method"].map(runs)].reset_index(drop=True)


def summarise_stages(frame: pd.DataFrame) -> pd.DataFrame:
    """When each stage of each method begins and ends, in steps.

    Windows never straddle a transition, so a stage ends at the last step recorded in it.

    Returns:
        Columns method, stage (0-based), start and end; empty when stages were not recorded.
    """
    rows = frame[frame["metric"] == "stage"]
    ends = rows.groupby(["method", "value"], as_index=False)["step"].max().rename(columns={"step": "end"})
    ends["stage"] = ends.pop("value").astype(int)
    ends = ends.sort_values(["method", "stage"], ignore_index=True)
    ends["start"] = ends.groupby("method")["end"].shift(fill_value=0)
    return ends[["method", "stage", "start", "end"]]


def draw_curves(rows: pd.DataFrame, curves: pd.DataFrame, ax: Axes) -> Axes:
    """Draws one thin line a run (`rows`) under one bold line a method (`curves`, from `summarise_curves`)."""
    for method in in_order(curves["method"]):
        look = method_style(method)
        for run_id, run in rows[rows["method"] == method].groupby("run_id"):
            ax.plot(run["step"], run["value"], color=look.colour, lw=0.7, alpha=0.4, gid=f"run:{run_id}")
        mean = curves[curves["method"] == method]
        (line,) = ax.plot(mean["step"], mean["mean"], color=look.colour, ls=look.linestyle, label=look.label)
        line.set_gid(f"mean:{method}")
    shown = rows[rows["step"] >= _SHOWN_FROM * rows["step"].max()]["value"]
    margin = 0.05 * (shown.max() - shown.min()) or 0.1
    ax.set_ylim(shown.min() - margin, shown.max() + margin)
    ax.set_xlim(0, rows["step"].max())
    ax.set_xlabel("optimizer step")
    return ax


def draw_end(rows: pd.DataFrame, curves: pd.DataFrame, ax: Axes) -> None:
    """Enlarges the last quarter of training in the upper right corner of `ax`."""
    first = _INSET_FROM * rows["step"].max()
    rows, curves = rows[rows["step"] >= first], curves[curves["step"] >= first]
    if curves["step"].nunique() < 2:
        return
    inset = draw_curves(rows, curves, ax.inset_axes((0.61, 0.53, 0.38, 0.45)))
    for line in inset.lines:
        line.set_gid(None)  # the identifiers name the lines of the panel itself
    inset.set_xlim(curves["step"].min(), curves["step"].max())
    inset.set_xlabel("")
    inset.tick_params(labelsize=7.5, length=2)
    inset.spines[["top", "right"]].set_visible(True)


def draw_stages(stages: pd.DataFrame, ribbon: Axes, ax: Axes) -> None:
    """Draws every method's stages as a row of numbered bars in `ribbon`, and its transitions as lines down `ax`."""
    methods = [name for name in in_order(stages["method"]) if (stages["method"] == name).sum() > 1]
    ribbon.set_visible(bool(methods))
    if not methods:
        return
    for row, method in enumerate(methods):
        look = method_style(method)
        for stage in stages[stages["method"] == method].itertuples():
            shade = 0.15 if stage.stage % 2 == 0 else 0.4
            ribbon.barh(row, stage.end - stage.start, left=stage.start, height=0.86, color=look.colour, alpha=shade)
            middle = (stage.start + stage.end) / 2
            ribbon.text(middle, row, str(stage.stage + 1), ha="center", va="center", fontsize=8)
            if stage.stage > 0:
                line = ax.axvline(stage.start, color=look.colour, ls=look.linestyle, lw=0.9, alpha=0.7, zorder=0)
                line.set_gid(f"transition:{method}")
    ribbon.set_yticks(range(len(methods)), [f"{method_style(name).label} stage" for name in methods], fontsize=8)
    ribbon.set_ylim(len(methods) - 0.5, -0.5)
    ribbon.tick_params(length=0, labelbottom=False)
    ribbon.grid(False)
    for spine in ribbon.spines.values():
        spine.set_visible(False)


_PANELS = {"train_loss": "training loss, sampled subnetwork", "validation_loss": "validation loss, full model"}


def loss_curves(frame: pd.DataFrame) -> Figure:
    """Training loss of the sampled subnetwork and validation loss of the full model against the optimizer step.

    One thin line a run, one bold line a method (the mean over seeds). The stages of the methods that have several are
    the numbered bars above; their transitions are the vertical lines. The losses of the first 5 % of the steps may run
    off the top, and an inset enlarges the last quarter of the validation losses.

    Args:
        frame: tidy rows with `train_loss` or `validation_loss` (a panel each) and, for the stages, `stage`.

    Returns:
        The figure; its lines carry `mean:<method>`, `run:<run_id>` and `transition:<method>` as group identifiers.
    """
    metrics = [metric for metric in _PANELS if (frame["metric"] == metric).any()]
    if not metrics:
        rows_of(frame, "validation_loss")  # raises, naming what the frame holds
    stages = summarise_stages(frame)
    staged = int((stages.groupby("method").size() > 1).sum())
    with style():
        figure = Figure(figsize=(4.9 * len(metrics), 4.0), layout="constrained")
        # A ribbon without stages keeps no room to speak of, and is hidden.
        grid = figure.subplots(2, len(metrics), sharex="col", squeeze=False, height_ratios=[0.06 * staged or 0.01, 1])
        for metric, ribbon, ax in zip(metrics, *grid, strict=True):
            rows, curves = rows_of(frame, metric), summarise_curves(frame, metric)
            draw_curves(rows, curves, ax)
            if metric == "validation_loss":
                draw_end(rows, curves, ax)
            draw_stages(stages, ribbon, ax)
            (ribbon if staged else ax).set_title(_PANELS[metric])
        grid[1, 0].set_ylabel("loss (nats per token)")
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure
