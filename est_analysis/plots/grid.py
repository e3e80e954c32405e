"""The grid: how far every method ends from the full model, and the loss against FLOPs at several budgets."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .intervals import mark_cut, over_seeds
from .style import FAMILY_STYLES, in_order, method_style, rows_of, style


def _ends(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The last value of `metric` of every run."""
    rows = rows_of(frame, metric)
    return rows.loc[rows.groupby("run_id")["step"].idxmax()]


def summarise_grid_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Final validation loss of every run at the common budget minus the full model's of the same family and seed.

    Args:
        frame: tidy rows of a grid, with the columns family and budget.

    Returns:
        Columns family, method, seed, value; the full model itself is left out.
    """
    if not {"family", "budget"} <= set(frame.columns):
        raise ValueError("no grid to draw: the frame has no columns family and budget")
    ends = _ends(frame[frame["budget"] == 1], "validation_loss")
    full = ends[ends["method"] == "full"].set_index(["family", "seed"])["value"]
    others = ends[ends["method"] != "full"]
    known = pd.MultiIndex.from_frame(others[["family", "seed"]])
    gaps = others["value"].to_numpy() - full.reindex(known).to_numpy()
    return others.assign(value=gaps)[["family", "method", "seed", "value"]].dropna().reset_index(drop=True)


def draw_grid_gaps(
    gaps: pd.DataFrame, methods: list[str], ax: Axes, *, above: float = 0.0, hollow: bool = False
) -> Axes:
    """One line a method: the mean over seeds with its 95 % interval, and the seeds.

    Args:
        gaps: from `summarise_grid_gaps`, of one family.
        methods: from top to bottom.
        ax: where.
        above: how far above the method's own place it is drawn, for others beside it.
        hollow: outlined means, thin intervals.
    """
    means = over_seeds(gaps, ["method"]).set_index("method")
    for number, method in enumerate(reversed(methods)):
        if method not in means.index:
            continue
        look, row, place = method_style(method), means.loc[method], number + above
        width, face = (1.0, "white") if hollow else (1.6, look.colour)
        ax.plot([row["low"], row["high"]], [place, place], color=look.colour, lw=width, gid=f"interval:{method}")
        ax.plot(gaps.loc[gaps["method"] == method, "value"], [place] * int(row["seeds"]), "|", color=look.colour, ms=7)
        mean = {"marker": look.marker, "color": look.colour, "mfc": face, "ms": 6.5, "ls": ""}
        ax.plot(row["mean"], place, gid=f"mean:{method}", **mean)
    ax.axvline(0, color="#000000", lw=0.8)
    ax.set_yticks(range(len(methods)), [method_style(method).label for method in reversed(methods)])
    ax.set_ylim(-0.6, len(methods) - 0.4)
    return ax


def _set_limits(ax: Axes, shown: pd.Series) -> None:
    """Room for the seeds; an interval that is wider ends in an arrowhead."""
    margin = 0.12 * (max(shown.max(), 0) - min(shown.min(), 0)) or 0.1
    ax.set_xlim(min(shown.min(), 0) - margin, max(shown.max(), 0) + margin)
    mark_cut(ax)


def grid_gaps(frame: pd.DataFrame) -> Figure:
    """How far every method ends from the full model, a panel a family: means over seeds, 95 % intervals, and seeds.

    An interval that leaves the panel, and ends in an arrowhead, is wider than the differences between methods.
    """
    gaps = summarise_grid_gaps(frame)
    families = [name for name in FAMILY_STYLES if name in set(gaps["family"])]
    return _gap_panels([gaps], families)


def grid_lengths(frames: Sequence[pd.DataFrame]) -> Figure:
    """The same distances at several lengths of training, above one another: a panel for each family of the longest.

    Methods that did not run at the longest on any family are left out; shorter training is hollow.

    Args:
        frames: tidy rows of a grid each, the shortest first; each has the families of the last.
    """
    *shorter, longest = (summarise_grid_gaps(frame) for frame in frames)
    families = [name for name in FAMILY_STYLES if name in set(longest["family"])]
    trained = [f"{frame.loc[frame['budget'] == 1, 'step'].max():,} steps" for frame in frames]
    kept = [gaps[gaps["method"].isin(longest["method"]) & gaps["family"].isin(families)] for gaps in shorter]
    figure = _gap_panels([*kept, longest], families)
    words = [f"{steps}: {'filled' if steps == trained[-1] else 'hollow'}" for steps in trained]
    figure.suptitle(", ".join(words), fontsize=10)
    return figure


def _gap_panels(lengths: Sequence[pd.DataFrame], families: Sequence[str]) -> Figure:
    """A panel for every family; of several lengths of training the last is filled and lowest."""
    together = pd.concat(lengths)
    methods = in_order(together["method"])
    places = [0.7 * (0.5 - (number + 0.5) / len(lengths)) * (len(lengths) > 1) for number in range(len(lengths))]
    with style():
        row = 0.3 if len(lengths) == 1 else 0.42
        figure = Figure(figsize=(2.2 + 2.45 * len(families), 0.9 + row * len(methods)), layout="constrained")
        axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        for family, ax in zip(families, axes, strict=True):
            for gaps, above in zip(lengths, places, strict=True):
                mine = gaps[gaps["family"] == family]
                draw_grid_gaps(mine, methods, ax, above=above, hollow=gaps is not lengths[-1])
            ax.set_title(FAMILY_STYLES[family].label)
            _set_limits(ax, together.loc[together["family"] == family, "value"])
            ax.tick_params(axis="y", length=0)
        figure.supxlabel("final validation loss minus the full model's (nats per token)", fontsize=10)
    return figure


def summarise_frontier(frame: pd.DataFrame) -> pd.DataFrame:
    """Where every run of the methods that were run at several budgets ends.

    Returns:
        Columns method, budget, seed, flops and loss.
    """
    if not {"family", "budget"} <= set(frame.columns):
        raise ValueError("no frontier to draw: the frame has no columns family and budget")
    several = frame.groupby(["family", "method"])["budget"].transform("nunique") > 1
    if not several.any():
        raise ValueError("no frontier to draw: every method was run at one budget")
    losses = _ends(frame[several], "validation_loss").rename(columns={"value": "loss"})
    spent = _ends(frame[several], "total_flops").set_index("run_id")["value"]
    points = losses.assign(flops=losses["run_id"].map(spent))
    return points[["method", "budget", "seed", "flops", "loss"]].reset_index(drop=True)


def draw_frontier(points: pd.DataFrame, ax: Axes) -> Axes:
    """One line a method through its means over seeds, and the seeds."""
    for method in in_order(points["method"]):
        look, runs = method_style(method), points[points["method"] == method]
        mean = runs.groupby("budget")[["flops", "loss"]].mean()
        ax.plot(
            mean["flops"],
            mean["loss"],
            color=look.colour,
            ls=look.linestyle,
            marker=look.marker,
            label=look.label,
            gid=f"mean:{method}",
        )
        ax.plot(runs["flops"], runs["loss"], "_", color=look.colour, ms=8, gid=f"seeds:{method}")
    ax.set_xscale("log")
    ax.set_xlabel("total FLOPs of the run")
    ax.set_ylabel("final validation loss (nats per token)")
    return ax


def frontier(frame: pd.DataFrame) -> Figure:
    """Final loss against total FLOPs: each mark a run trained to its own end, at several budgets of steps."""
    points = summarise_frontier(frame)
    with style():
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        draw_frontier(points, figure.subplots()).legend()
    return figure
