"""Means over seeds and their intervals, as every figure with error bars shows them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats


def over_seeds(rows: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean and Student's 95 % t interval of `value` in every group of `rows`, one row a seed.

    >>> frame = pd.DataFrame({"method": "est", "seed": [0, 1, 2], "value": [1.0, 2.0, 3.0]})
    >>> over_seeds(frame, ["method"]).round(3).values.tolist()  # 2 -+ 4.303 / sqrt(3)
    [['est', 2.0, -0.484, 4.484, 3]]

    Args:
        rows: one row a seed in each group.
        by: columns that make the groups.
        value: the column to average.

    Returns:
        The columns `by`, then mean, low, high (both missing for one seed) and seeds.
    """
    groups = rows.groupby(list(by))[value]
    table = groups.agg(mean="mean", half="sem", seeds="size").reset_index()
    table["half"] *= stats.t.ppf(0.975, df=np.maximum(table["seeds"] - 1, 1))
    table = table.assign(low=table["mean"] - table["half"], high=table["mean"] + table["half"])
    return table[[*by, "mean", "low", "high", "seeds"]]


def mark_cut(ax: Axes, *, vertical: bool = False) -> None:
    """An arrowhead where an interval leaves the panel: on the lines whose gid begins with `interval:`."""
    edges = ax.get_ylim() if vertical else ax.get_xlim()
    for line in [line for line in ax.lines if str(line.get_gid()).startswith("interval:")]:
        across, ends = line.get_data() if vertical else line.get_data()[::-1]
        heads, outside = "v^" if vertical else "<>", (ends[0] < edges[0], ends[1] > edges[1])
        for edge, end, marker, leaves in zip(edges, ends, heads, outside, strict=True):
            if leaves and np.isfinite(end):
                look = {"color": line.get_color(), "ms": 5, "ls": "", "clip_on": False}
                place = (across[0], edge) if vertical else (edge, across[0])
                ax.plot(*place, marker=marker, gid=str(line.get_gid()).replace("interval", "cut"), **look)
    (ax.set_ylim if vertical else ax.set_xlim)(edges)
