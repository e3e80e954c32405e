"""What sampling costs at the transitions of EST: by drawing masks, to second order, and in the training curve."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .intervals import mark_cut, over_seeds
from .style import style

# How a cost was found, in the order of a group of marks.
_WAYS = {
    "masks": ("drawn masks", "#000000", "o"),
    "hessian": ("second order, true Hessian", "#0072B2", "s"),
    "fisher": ("second order, Fisher", "#D55E00", "^"),
    "curve": ("drop of the training curve", "#009E73", "D"),
}
_PARTS = {
    "heads": "heads",
    "columns": "MLP\ncolumns",
    "width": "heads and\ncolumns",
    "layers": "layers",
    "drop": "drop",
}


def draw_sampling_costs(costs: pd.DataFrame, ax: Axes) -> Axes:
    """One group a part, one mark a way of finding its cost: mean over seeds with its 95 % interval, and the seeds."""
    parts = [part for part in _PARTS if part in set(costs["part"])]
    means = over_seeds(costs, ["part", "way"]).set_index(["part", "way"])
    for (part, way), row in means.iterrows():
        _, colour, marker = _WAYS[way]
        place = parts.index(part) + 0.19 * (list(_WAYS).index(way) - 1.5)
        seeds = costs.loc[(costs["part"] == part) & (costs["way"] == way), "value"]
        ax.plot([place, place], [row["low"], row["high"]], color=colour, lw=1.6, gid=f"interval:{part}:{way}")
        ax.plot([place] * len(seeds), seeds, "_", color=colour, ms=7)
        ax.plot(place, row["mean"], marker=marker, color=colour, ms=6, ls="", gid=f"mean:{part}:{way}")
    # An interval of three seeds can be far wider than what there is to see: then it ends in an arrowhead.
    low, high = min(costs["value"].min(), 0.0), max(costs["value"].max(), 0.0)
    ax.set_ylim(low - 0.15 * (high - low), high + 0.2 * (high - low))
    mark_cut(ax, vertical=True)
    ax.axhline(0, color="#000000", lw=0.8)
    ax.set_xticks(range(len(parts)), [_PARTS[part] for part in parts])
    ax.grid(axis="x", visible=False)
    return ax


def sampling_costs(costs: pd.DataFrame) -> Figure:
    """What sampling costs before every transition of EST, by part and by how it was found, and the drop that follows.

    A panel a transition, each with its own axis. An interval that leaves a panel, and ends in an arrowhead, is wider
    than what it shows.

    Args:
        costs: columns seed, step, transition, part, way and value, as `claims.sampling_costs.side_by_side` gives them.
    """
    transitions = sorted(costs["transition"].unique())
    widths = [costs.loc[costs["transition"] == one, "part"].nunique() + 1 for one in transitions]
    with style():
        figure = Figure(figsize=(1.3 + 0.72 * sum(widths), 3.7), layout="constrained")
        axes = figure.subplots(1, len(transitions), width_ratios=widths, squeeze=False)[0]
        for one, ax in zip(transitions, axes, strict=True):
            here = costs[costs["transition"] == one]
            draw_sampling_costs(here, ax)
            ax.set_title(f"stage {one + 1} to {one + 2} (step {here['step'].iloc[0]})")
        axes[0].set_ylabel("sampled minus full loss (nats per token)")
        used = [way for way in _WAYS if way in set(costs["way"])]
        entries = [
            axes[0].plot([], [], color=_WAYS[way][1], marker=_WAYS[way][2], ls="", label=_WAYS[way][0])[0]
            for way in used
        ]
        figure.legend(handles=entries, loc="outside lower center", ncols=len(used))
    return figure
