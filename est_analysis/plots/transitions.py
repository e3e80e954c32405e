"""Losses on both sides of a stage transition: what residual connections, layer norm and scaling do to them."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .intervals import over_seeds
from .style import CHANGES, in_order, method_style, rows_of, style

LEARNED_NOTHING = 0.9  # of the target's variance: above it a net has nothing that a transition could break
_LINEAR = 0.1  # up to 10 % the axis is linear, beyond it logarithmic

# The two questions: what a net is made of, and how kept layers are scaled.
_ARCHITECTURE = {
    "": "residual\n+ layer norm",
    "no-norm": "no\nlayer norm",
    "no-residual": "no\nresidual",
    "no-residual/no-norm": "neither",
}
_SCALING = {"": "none", "sqrt_gap": "√gap", "linear_gap": "gap", "inv_p": "1/p"}
_LOSSES = ("train_loss", "validation_loss")
_WHOLE = "#555555"
_DASHED = (0, (4, 1.5))
_SIDES = ("subnet_loss_before", "subnet_loss_after")


def summarise_transitions(frame: pd.DataFrame) -> pd.DataFrame:
    """Every run's relative change of the subnetwork's loss at each of its transitions, the weights standing still.

    Args:
        frame: tidy rows with `subnet_loss_before`, `subnet_loss_after` and `relative_loss`.

    Returns:
        Columns method (the label), base (the method), variant (what was changed about it, empty for nothing), seed,
        step, number (of the transition in its run, from 0), change (after / before - 1), relative_loss, and learned:
        whether that is at most `LEARNED_NOTHING`.
    """
    keys = ["method", "seed", "step"]
    sides = [rows_of(frame, f"subnet_loss_{side}").set_index(keys)["value"] for side in ("before", "after")]
    table = (sides[1] / sides[0] - 1).rename("change").dropna().reset_index().sort_values(keys, ignore_index=True)
    relative = rows_of(frame, "relative_loss").set_index(keys)["value"]
    table["relative_loss"] = relative.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    table["number"] = table.groupby(["method", "seed"]).cumcount()
    table["learned"] = ~(table["relative_loss"] > LEARNED_NOTHING)
    parts = table["method"].str.partition("/")
    return table.assign(base=parts[0], variant=parts[2])[
        ["method", "base", "variant", "seed", "step", "number", "change", "relative_loss", "learned"]
    ]


def summarise_transition_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over a run's transitions of the relative change, then mean and 95 % interval over seeds.

    Args:
        frame: as for `summarise_transitions`.

    Returns:
        Columns method, mean, low, high, seeds, and learned: whether every run had at one of its transitions.
    """
    transitions = summarise_transitions(frame)
    runs = transitions.groupby(["method", "seed"], as_index=False).agg(
        value=("change", "mean"), learned=("learned", "any")
    )
    table = over_seeds(runs, ["method"])
    return table.assign(learned=table["method"].map(runs.groupby("method")["learned"].all()))


def transition_changes(frame: pd.DataFrame) -> Figure:
    """Relative change of the subnetwork's loss at each transition, for every method and what was changed about it.

    A mark is a seed at a transition, a method's transitions standing from left to right; the short line is the mean.
    The left panel takes residual connections and layer norm away, the right one scales the kept layers. Pale and
    hollow: nothing had been learned by then (`LEARNED_NOTHING`), so that nothing could change; a mean is pale where
    that holds at all transitions of a run.

    Args:
        frame: as for `summarise_transitions`; `method` is a label such as `raptr/no-norm`.

    Returns:
        The figure; its marks carry `change:<label>` or `pale:<label>`, its means `mean:<label>` as group identifier.
    """
    table = summarise_transitions(frame)
    scaled = table["variant"].isin([name for name in _SCALING if name])
    panels = [(table[~scaled], {**_ARCHITECTURE, **_unknown(table[~scaled])}, "what the net is made of")]
    if scaled.any():
        both = table[scaled | ((table["variant"] == "") & table["base"].isin(table[scaled]["base"]))]
        panels.append((both, _SCALING, "scaling of kept layers"))
    widths = [
        sum(name in set(rows["variant"]) for name in names) * max(1.6, rows["base"].nunique())
        for rows, names, _ in panels
    ]
    with style():
        figure = Figure(figsize=(0.42 * sum(widths) + 1.6, 4.0), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
        for (rows, names, title), ax in zip(panels, axes, strict=True):
            _draw_changes(rows, names, ax)
            ax.set_title(title)
        _percent_axis(axes[0], table["change"])
        axes[0].set_ylabel("change of the loss at a transition")
        figure.legend(handles=_change_entries(table), loc="outside lower center", ncols=6)
    return figure


def _change_entries(table: pd.DataFrame) -> list[Line2D]:
    """The legend of the changes."""
    looks = [method_style(base) for base in in_order(table["base"])]
    entries = [Line2D([], [], color=look.colour, marker=look.marker, ls="", label=look.label) for look in looks]
    if not table["learned"].all():
        pale = {"mfc": "white", "alpha": 0.5, "ls": "", "label": "pale: nothing learned by then"}
        entries.append(Line2D([], [], color="#555555", marker="o", **pale))
    return entries


def _unknown(table: pd.DataFrame) -> dict[str, str]:
    """Variants that are of neither kind, under their own names."""
    others = sorted(set(table["variant"]) - set(_ARCHITECTURE))
    return {name: "\n".join(CHANGES.get(change, change) for change in name.split("/")) for name in others}


def _draw_changes(table: pd.DataFrame, names: dict[str, str], ax: Axes) -> None:
    """Draws the variants of `table` side by side, in each the methods beside one another."""
    groups = [name for name in names if (table["variant"] == name).any()]
    bases = in_order(table["base"])
    slot = 0.86 / len(bases)
    for place, variant in enumerate(groups):
        for position, base in enumerate(bases):
            rows = table[(table["variant"] == variant) & (table["base"] == base)]
            if not rows.empty:
                _draw_slot(rows, place + (position - (len(bases) - 1) / 2) * slot, slot, ax)
    for place in range(1, len(groups)):
        ax.axvline(place - 0.5, color="#cccccc", lw=0.7, zorder=0)
    ax.axhline(0, color="#444444", lw=0.8, zorder=1)
    ax.set_xticks(range(len(groups)), [names[name] for name in groups])
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.tick_params(axis="x", length=0)
    ax.grid(False, axis="x")


def _draw_slot(rows: pd.DataFrame, centre: float, slot: float, ax: Axes) -> None:
    """Draws one label: its seeds at each transition, from left to right, and the mean."""
    label, last = rows["method"].iloc[0], rows["number"].max()
    look = method_style(label)
    x = centre + slot * 0.56 * (rows["number"] / max(last, 1) - 0.5)
    for learned, name, looks in (
        (True, "change", {"mew": 0, "alpha": 0.75}),
        (False, "pale", {"mfc": "white", "mew": 0.9, "alpha": 0.4}),
    ):
        chosen = rows["learned"] == learned
        if chosen.any():
            (marks,) = ax.plot(x[chosen], rows.loc[chosen, "change"], look.marker, color=look.colour, ms=4.5, **looks)
            marks.set_gid(f"{name}:{label}")
    runs = rows.groupby("seed").agg(change=("change", "mean"), learned=("learned", "any"))
    mean = runs["change"].mean()
    (line,) = ax.plot(
        [centre - 0.4 * slot, centre + 0.4 * slot], [mean, mean], color=look.colour, lw=1.8,
        alpha=1.0 if runs["learned"].all() else 0.4, solid_capstyle="butt",
    )  # fmt: skip
    line.set_gid(f"mean:{label}")


def _percent_axis(ax: Axes, changes: pd.Series) -> None:
    """Percent on the vertical axis, beyond `_LINEAR` logarithmic where changes are large."""
    if changes.abs().max() > 3 * _LINEAR:
        ax.set_yscale("symlog", linthresh=_LINEAR, linscale=1.2)
        ticks = [tick for tick in _ticks() if 1.3 * min(changes.min(), -_LINEAR) <= tick <= 3 * changes.max()]
        ax.set_yticks(ticks)
        ax.minorticks_off()
    ax.yaxis.set_major_formatter(
        lambda value, _: f"{100 * value:+,.5g} %".replace("-", "\N{MINUS SIGN}") if value else "0"
    )


def _ticks() -> list[float]:
    beyond = [_LINEAR * factor * 10**power for power in range(6) for factor in (1, 3)]
    return [*(-tick for tick in reversed(beyond)), -_LINEAR / 2, 0.0, _LINEAR / 2, *beyond]


def summarise_transition_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean losses over a method's seeds, in units of the variance of each seed's target.

    Args:
        frame: tidy rows with `validation_loss`, `relative_loss` and, as far as they are to be drawn, `train_loss`,
            `subnet_loss_before` and `subnet_loss_after`.

    Returns:
        Columns method, metric, step, mean, low, high and seeds, at the steps that all of a method's seeds have.
    """
    rows = _in_variances(frame)
    table = over_seeds(rows, ["method", "metric", "step"])
    return table[table["seeds"] == table["method"].map(rows.groupby("method")["seed"].nunique())].reset_index(drop=True)


def _in_variances(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of all losses, divided by the variance of the seed's target."""
    keys = ["method", "seed", "step"]
    loss, relative = (rows_of(frame, name).set_index(keys)["value"] for name in ("validation_loss", "relative_loss"))
    variance = (loss / relative).groupby(["method", "seed"]).median()
    rows = frame[frame["metric"].isin([*_LOSSES, *_SIDES])]
    of_run = variance.reindex(pd.MultiIndex.from_frame(rows[["method", "seed"]])).to_numpy()
    return rows.assign(value=rows["value"] / of_run).sort_values(keys, ignore_index=True)


def transition_losses(
    frame: pd.DataFrame, methods: Sequence[str] = ("raptr", "est", "pld", "gradual_stacking")
) -> Figure:
    """Losses of the trained subnetwork and of the whole model over a run, a panel a method, transitions marked.

    Thin lines are seeds, bold ones means; a hollow mark is the subnetworks' held-out loss before a transition, a filled
    one that after it, with the same weights. All in units of the target's variance, at which nothing is learned.

    Args:
        frame: as for `summarise_transition_losses`.
        methods: which labels; those that the frame does not hold are left out.

    Returns:
        The figure; its lines carry `train_loss:<label>`, `validation_loss:<label>`, `transition:<label>` and
        `sides:<label>` as group identifiers.
    """
    frame = frame[frame["method"].isin(methods)]
    rows, table = _in_variances(frame), summarise_transition_losses(frame)
    names = [method for method in methods if (rows["method"] == method).any()]
    columns = min(2, len(names))
    with style():
        figure = Figure(figsize=(4.4 * columns + 0.4, 2.5 * -(-len(names) // columns) + 0.6), layout="constrained")
        axes = figure.subplots(-(-len(names) // columns), columns, sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[len(names) :]:
            ax.set_axis_off()
        for method, ax in zip(names, axes.flat, strict=False):
            _draw_losses(rows[rows["method"] == method], table[table["method"] == method], ax)
            ax.set_title(method_style(method).label)
        _fit_losses(rows, axes.flat[0])
        for ax in axes.flat[max(0, len(names) - columns) : len(names)]:
            ax.set_xlabel("optimizer step")
        figure.supylabel("loss / variance of the target", fontsize=10)
        figure.legend(handles=_loss_entries(), loc="outside lower center", ncols=2 * columns)
    return figure


def _draw_losses(rows: pd.DataFrame, table: pd.DataFrame, ax: Axes) -> None:
    """Draws one method: the subnetwork in its own colour, the whole model in grey."""
    method = table["method"].iloc[0]
    for metric, colour, line in (
        ("validation_loss", _WHOLE, _DASHED),
        ("train_loss", method_style(method).colour, "-"),
    ):
        for _, run in rows[rows["metric"] == metric].groupby("seed"):
            ax.plot(run["step"], run["value"], color=colour, lw=0.5, alpha=0.3)
        mean = table[table["metric"] == metric]
        ax.plot(mean["step"], mean["mean"], color=colour, ls=line, lw=1.5, gid=f"{metric}:{method}")
    wide = table[table["metric"].isin(_SIDES)].pivot(index="step", columns="metric", values="mean")
    aside = 0.008 * table["step"].max()
    for step, sides in wide.dropna().iterrows():
        ax.axvline(step, color="#999999", lw=0.8, ls=(0, (2, 2)), zorder=0.5, gid=f"transition:{method}")
        values = [sides[name] for name in _SIDES]
        (pair,) = ax.plot([step - aside, step + aside], values, "-", color="black", lw=1.0, zorder=4)
        pair.set_gid(f"sides:{method}")
        for place, value, inside in zip((step - aside, step + aside), values, ("white", "black"), strict=True):
            ax.plot(place, value, "o", mec="black", mfc=inside, ms=4, mew=0.9, zorder=5)


def _fit_losses(rows: pd.DataFrame, ax: Axes) -> None:
    """A logarithmic axis for all that is drawn but the first steps, which may run off the top."""
    shown = rows[rows["step"] >= 0.03 * rows["step"].max()]["value"]
    ax.set_yscale("log")
    ax.set_ylim(0.8 * shown.min(), 1.2 * shown.max())
    ticks = [digit * 10.0**power for power in range(-7, 4) for digit in (1, 3)]
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in ticks if low <= tick <= high])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.minorticks_off()
    ax.set_xlim(0, rows["step"].max())


def _loss_entries() -> list[Line2D]:
    return [
        Line2D([], [], color="#999999", lw=1.8, label="trained subnetwork"),
        Line2D([], [], color=_WHOLE, ls=_DASHED, label="whole model"),
        Line2D([], [], color="black", marker="o", mfc="white", ms=4, ls="", label="before a transition"),
        Line2D([], [], color="black", marker="o", ms=4, ls="", label="after it, same weights"),
    ]
