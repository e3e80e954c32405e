"""The first experiments: distances from the full net, what sampling does without norms or residuals, linear nets."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .grid import draw_grid_gaps
from .intervals import over_seeds
from .style import in_order, method_style, rows_of, style

TASKS = {"digits": "digits (nats)", "polynomial": "polynomials (of the variance)"}
_NETS = {"mlp": "two-layer MLP, columns sampled", "stack": "stack of eight, layers sampled"}
_STACKS = {"stack": "as it is", "stack/no-norm": "no layer norm", "stack/no-residual": "no residual"}
_SAMPLED = ("est", "raptr")
_LINEAR = {"full": "full net", "est": "fixed size", "est/bernoulli": "independent"}


def _of_first_experiments(frame: pd.DataFrame) -> None:
    if not {"task", "net"} <= set(frame.columns):
        raise ValueError("no first experiments to draw: the frame has no columns task and net")


def summarise_first_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """Final held-out loss of every training minus that of the full net of the same task, net and seed.

    Args:
        frame: tidy rows of first experiments, with the columns task and net.

    Returns:
        Columns task, net, method, seed, value; the full nets themselves are left out.
    """
    _of_first_experiments(frame)
    rows = rows_of(frame, "validation_loss")
    ends = rows.loc[rows.groupby(["run_id", "seed"])["step"].idxmax()]
    keys = ["task", "net", "seed"]
    full = ends[ends["method"] == "full"].set_index(keys)["value"]
    others = ends[ends["method"] != "full"]
    gaps = others["value"].to_numpy() - full.reindex(pd.MultiIndex.from_frame(others[keys])).to_numpy()
    return others.assign(value=gaps)[["task", "net", "method", "seed", "value"]].dropna().reset_index(drop=True)


def first_gaps(frame: pd.DataFrame) -> Figure:
    """How far every training ends from the full net: means over seeds, 95 % intervals, and seeds."""
    gaps = summarise_first_gaps(frame)
    lengths = [gaps.loc[gaps["net"] == net, "method"].nunique() for net in _NETS]
    with style():
        figure = Figure(figsize=(7.6, 1.3 + 0.27 * sum(lengths)), layout="constrained")
        axes = figure.subplots(len(_NETS), len(TASKS), squeeze=False, gridspec_kw={"height_ratios": lengths})
        for (row, net), (column, task) in product(enumerate(_NETS), enumerate(TASKS)):
            methods = in_order(gaps.loc[gaps["net"] == net, "method"])
            ax = draw_grid_gaps(gaps[(gaps["net"] == net) & (gaps["task"] == task)], methods, axes[row, column])
            ax.tick_params(axis="y", length=0, labelleft=column == 0)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_title(_NETS[net], fontsize=9.5)
            ax.set_xlabel(TASKS[task])
        figure.supxlabel("final held-out loss minus the full net's", fontsize=10)
    return figure


def summarise_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Relative change of the subnetwork's held-out loss across a transition, weights unchanged: mean of each run's.

    Returns:
        Columns task, net, method, seed, value, for EST and RaPTr in every kind of stack.
    """
    _of_first_experiments(frame)
    wanted = frame[frame["net"].isin(list(_STACKS)) & frame["method"].isin(_SAMPLED)]
    keys = ["task", "net", "method", "seed", "step"]
    sides = [rows_of(wanted, f"subnet_loss_{side}").set_index(keys)["value"] for side in ("before", "after")]
    changes = (sides[1] / sides[0] - 1).dropna()
    return changes.groupby(keys[:-1]).mean().reset_index(name="value")


def _draw_stacks(values: pd.DataFrame, ax: Axes) -> Axes:
    """Mean, interval and seeds of both methods in every kind of stack, side by side."""
    means = over_seeds(values, ["net", "method"]).set_index(["net", "method"])
    for (place, net), (side, method) in product(enumerate(_STACKS), enumerate(_SAMPLED)):
        if (net, method) not in means.index:
            continue
        look, row = method_style(method), means.loc[(net, method)]
        x = place + 0.24 * (2 * side - 1)
        runs = values.loc[(values["net"] == net) & (values["method"] == method), "value"]
        ax.plot(np.full(len(runs), x + 0.09), runs, "_", color=look.colour, ms=5, alpha=0.7)
        ax.plot([x, x], [row["low"], row["high"]], color=look.colour, lw=1.6)
        ax.plot(x, row["mean"], look.marker, color=look.colour, ms=6.5, gid=f"mean:{net}:{method}",
                label=look.label if place == 0 else None)  # fmt: skip
    ax.axhline(0, color="#000000", lw=0.8)
    ax.set_xticks(range(len(_STACKS)), list(_STACKS.values()))
    ax.set_xlim(-0.6, len(_STACKS) - 0.4)
    return ax


def first_stacks(frame: pd.DataFrame) -> Figure:
    """What layer sampling does to stacks without layer norm and without residuals: at transitions, and in the end."""
    changes, gaps = summarise_changes(frame), summarise_first_gaps(frame)
    costs = gaps[gaps["net"].isin(list(_STACKS)) & gaps["method"].isin(_SAMPLED)]
    with style():
        figure = Figure(figsize=(7.6, 5.4), layout="constrained")
        axes = figure.subplots(2, len(TASKS), squeeze=False, sharex=True)
        for column, (task, name) in enumerate(TASKS.items()):
            _draw_stacks(changes[changes["task"] == task], axes[0, column]).set_title(name.partition(" ")[0])
            _draw_stacks(costs[costs["task"] == task], axes[1, column])
            axes[1, column].set_ylabel(f"final loss minus the full net's\nof its kind {name.partition(' ')[2]}")
        axes[0, 0].set_ylabel("subnetwork's loss across a\ntransition, relative change")
        axes[0, 0].legend()
    return figure


def summarise_linear(frame: pd.DataFrame) -> pd.DataFrame:
    """How evenly the hidden units of a linear net share the product, and how large its nuclear norm is.

    Returns:
        Columns method, seed, balance (n sum |u_i|^2 |v_i|^2 over the squared nuclear norm, from 1 up), nuclear_norm.
    """
    _of_first_experiments(frame)
    rows = frame[frame["net"] == "linear"]
    norms = rows_of(rows, "nuclear_norm").set_index(["method", "seed"])["value"]
    entries = rows[rows["metric"].str.fullmatch(r"(left|right)_\d+_\d+")]
    parts = entries["metric"].str.split("_", expand=True)
    squares = entries.assign(side=parts[0], unit=parts[2], value=entries["value"] ** 2)
    columns = squares.groupby(["method", "seed", "unit", "side"])["value"].sum().unstack("side")
    products = (columns["left"] * columns["right"]).groupby(["method", "seed"]).agg(["sum", "size"])
    balance = products["sum"] * products["size"] / norms**2
    return pd.DataFrame({"balance": balance, "nuclear_norm": norms}).reset_index()


def first_linear(frame: pd.DataFrame) -> Figure:
    """Linear nets trained whole and with masks of either law, seed by seed: balance of the units, and nuclear norm."""
    table = summarise_linear(frame)
    panels = {
        "balance": "n Σ |u|²|v|² over the squared nuclear\nnorm (1: units share the product alike)",
        "nuclear_norm": "nuclear norm of the product",
    }
    order = [method for method in _LINEAR if method in set(table["method"])]
    with style():
        figure = Figure(figsize=(6.6, 3.1), layout="constrained")
        for ax, (name, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            paths = table.pivot(index="method", columns="seed", values=name).loc[order]
            ax.plot(range(len(order)), paths, color="#9a9a9a", lw=0.7, marker="o", ms=3)
            ax.plot(range(len(order)), paths.mean(axis=1), "_", color="#000000", ms=22, mew=2, gid=f"mean:{name}")
            ax.set_xticks(range(len(order)), [_LINEAR[method] for method in order])
            ax.set_xlim(-0.5, len(order) - 0.5)
            ax.set_ylabel(label)
            if name == "balance":
                ax.axhline(1, color="#000000", lw=0.8)
    return figure
