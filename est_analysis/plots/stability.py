"""How much the output of a net moves when one layer is bypassed at initialisation: by depth, and layer by layer."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import METHOD_STYLES, MethodStyle, rows_of, style

# The same colours as the methods', whose figures these variants never share.
_LOOKS = {
    "residual+norm": MethodStyle(label="residual + norm", colour=METHOD_STYLES["est"].colour, marker="s"),
    "gelu residual+norm": MethodStyle(
        label="residual + norm, GELU blocks", colour=METHOD_STYLES["pld"].colour, marker="v"
    ),
    "residual": MethodStyle(label="no norm", colour=METHOD_STYLES["raptr"].colour, marker="^"),
    "norm": MethodStyle(label="no residual", colour=METHOD_STYLES["full"].colour, marker="o"),
}

_TICKS = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]


def _looks(variants: pd.Series) -> dict[str, MethodStyle]:
    """The style of every variant there is, in a fixed order, unknown ones in grey after them."""
    known = [name for name in _LOOKS if (variants == name).any()]
    others = sorted(set(variants) - set(known))
    return {name: _LOOKS[name] for name in known} | {
        name: MethodStyle(label=name, colour="#777777", marker="d") for name in others
    }


def summarise_stability(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and range over seeds of the mean Psi at each depth.

    Returns:
        Columns method, depth, mean, low, high and seeds.
    """
    groups = rows_of(frame, "mean_psi").groupby(["method", "step"])["value"]
    table = groups.agg(mean="mean", low="min", high="max", seeds="size").reset_index()
    return table.rename(columns={"step": "depth"})


def summarise_psi_by_layer(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and range over seeds of Psi_l for each layer l.

    Args:
        frame: rows of `psi_<l>`, at one depth.

    Returns:
        Columns method, depth, layer, mean, low, high and seeds.
    """
    layers = frame["metric"].str.extract(r"^psi_(\d+)$")[0]
    rows = frame.assign(layer=layers)[layers.notna()].astype({"layer": int})
    if rows.empty:
        raise ValueError("no rows of metric 'psi_<l>' to draw: measure single layers too")
    if rows["step"].nunique() > 1:
        raise ValueError(f"psi_<l> of {rows['step'].nunique()} depths do not fit one figure: keep one in the frame")
    groups = rows.groupby(["method", "step", "layer"])["value"]
    table = groups.agg(mean="mean", low="min", high="max", seeds="size").reset_index()
    return table.rename(columns={"step": "depth"})


def _draw(ax: Axes, table: pd.DataFrame, predicted: pd.DataFrame | None, along: str) -> None:
    """Measured means with their range over seeds, and the predicted line, for every variant."""
    for variant, look in _looks(table["method"]).items():
        rows = table[table["method"] == variant]
        few = len(rows) <= 12
        if few:
            bars = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
            drawn = ax.errorbar(
                rows[along], rows["mean"], bars, fmt=look.marker, color=look.colour, ms=5.5, capsize=3, label=look.label
            )
            line = drawn.lines[0]
        else:
            ax.fill_between(rows[along], rows["low"], rows["high"], color=look.colour, alpha=0.2, lw=0)
            (line,) = ax.plot(rows[along], rows["mean"], look.marker, color=look.colour, ms=3, lw=0, label=look.label)
        line.set_gid(f"measured:{variant}")
        if predicted is not None:
            exact = predicted[predicted["method"] == variant].sort_values(along)
            if not exact.empty:
                (dashed,) = ax.plot(exact[along], exact["value"], "--", color=look.colour, lw=1.3, zorder=1.5)
                dashed.set_gid(f"predicted:{variant}")
    if predicted is not None:
        ax.plot([], [], "--", color="#555555", lw=1.3, label="predicted, infinite width")


def _labelled(ax: Axes, figure: Figure) -> Figure:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    # Too few decades for decimal ticks to fall often enough.
    low, high = ax.get_ylim()
    low, high = max([t for t in _TICKS if t <= low], default=low), min([t for t in _TICKS if t >= high], default=high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_ylim(low, high)
    ax.minorticks_off()
    named = sorted(
        zip(*ax.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1].startswith("predicted")
    )
    figure.legend(*zip(*named, strict=True), loc="outside right upper")
    return figure


def stability_against_depth(frame: pd.DataFrame, predicted: pd.DataFrame | None = None) -> Figure:
    """The mean over layers of Psi against the depth, both logarithmic.

    Marks are means over seeds with the range over seeds as bars.

    Args:
        frame: tidy rows with `mean_psi`; `method` is the variant of the net and `step` its depth.
        predicted: the same columns method, step, metric and value, drawn dashed.

    Returns:
        The figure; its lines carry `measured:<variant>` and `predicted:<variant>` as group identifiers.
    """
    table = summarise_stability(frame)
    if predicted is not None:
        predicted = predicted[predicted["metric"] == "mean_psi"].rename(columns={"step": "depth"})
    with style():
        figure = Figure(figsize=(6.8, 3.8), layout="constrained")
        ax = figure.subplots()
        _draw(ax, table, predicted, "depth")
        _labelled(ax, figure)
        depths = sorted(table["depth"].unique())
        ax.set_xticks(depths, [str(depth) for depth in depths])
        ax.set_xlabel("depth L")
        ax.set_ylabel(r"relative change $\frac{1}{L}\sum_\ell \Psi_\ell$")
    return figure


def psi_by_layer(frame: pd.DataFrame, predicted: pd.DataFrame | None = None) -> Figure:
    """Psi_l of every layer l of nets of one depth, both axes logarithmic.

    Args:
        frame: tidy rows with `psi_<l>`, of one depth.
        predicted: columns method, step, metric and value, drawn dashed.

    Returns:
        The figure; its lines carry `measured:<variant>` and `predicted:<variant>` as group identifiers.
    """
    table = summarise_psi_by_layer(frame)
    if predicted is not None:
        exact = summarise_psi_by_layer(predicted).rename(columns={"mean": "value"})
        predicted = exact[exact["depth"].isin(table["depth"])]
    with style():
        figure = Figure(figsize=(6.8, 3.8), layout="constrained")
        ax = figure.subplots()
        _draw(ax, table, predicted, "layer")
        _labelled(ax, figure)
        ticks = [2**k for k in range(12) if 2**k <= table["layer"].max()]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.set_xlabel(f"bypassed layer $\\ell$ of $L = {table['depth'].iloc[0]}$")
        ax.set_ylabel(r"relative change $\Psi_\ell$ of the output")
    return figure
