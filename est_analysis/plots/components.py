"""What a net has learned of a polynomial, degree by degree: over the run, and at its end."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .curves import summarise_stages
from .intervals import over_seeds
from .style import in_order, method_style, style

_COLUMNS = 3  # panels side by side
_SHOWN = (-0.03, 1.12)  # 0 is learned, 1 is not; a net that runs with layers missing may lie above
_TAIL = "#f0f0ee"


def _errors(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the component errors, with columns degree and tail (whether measured in the full-depth tail)."""
    parts = frame["metric"].str.extract(r"^(tail_)?error_(\d+)$")
    rows = frame.assign(degree=parts[1], tail=parts[0].notna())[parts[1].notna()]
    if rows.empty:
        raise ValueError("no rows of metric 'error_<degree>' to draw: the frame is not of polynomials")
    return rows.astype({"degree": int}).sort_values(["method", "seed", "degree", "step"], ignore_index=True)


def summarise_components(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean error and its 95 % interval over seeds, by degree, at every step that all of a method's seeds have.

    Args:
        frame: tidy rows with `error_<degree>` and, of a full-depth tail, `tail_error_<degree>`.

    Returns:
        Columns method, degree, tail, step, mean, low, high and seeds, in order of steps.
    """
    rows = _errors(frame)
    table = over_seeds(rows, ["method", "degree", "tail", "step"])
    # Where one seed is missing the mean would jump for no reason but that.
    return table[table["seeds"] == table["method"].map(rows.groupby("method")["seed"].nunique())].reset_index(drop=True)


def summarise_final_components(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean error at the end and its 95 % interval over seeds, by degree: of the training, and of the tail.

    Args:
        frame: as for `summarise_components`.

    Returns:
        Columns method, degree, tail, mean, low, high and seeds.
    """
    return over_seeds(_finals(frame), ["method", "degree", "tail"])


def _finals(frame: pd.DataFrame) -> pd.DataFrame:
    return _errors(frame).groupby(["method", "degree", "tail", "seed"], as_index=False)["value"].last()


def _draw_degree(rows: pd.DataFrame, table: pd.DataFrame, ax: Axes) -> None:
    """Draws one degree, the tail included: a thin line a seed (`rows`), a bold one a method (`table`)."""
    for method in in_order(table["method"]):
        look, mean = method_style(method), table[table["method"] == method]
        for seed, run in rows[rows["method"] == method].groupby("seed"):
            ax.plot(run["step"], run["value"], color=look.colour, lw=0.6, alpha=0.28, gid=f"seed:{method}:{seed}")
        ax.plot(mean["step"], mean["mean"], color=look.colour, ls=look.linestyle, zorder=3, gid=f"mean:{method}")


def _panels(count: int) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure of `count` panels, and the place of the legend where a row leaves one free."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.1 * columns + 0.4, 2.35 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count], axes[count] if len(axes) > count else None


def component_curves(frame: pd.DataFrame) -> Figure:
    """Error of every degree against the optimizer step, a panel a degree: 0 is learned, 1 is not.

    Thin lines are seeds, bold lines their means, vertical lines the ends of the schedule's stages. A tail in which the
    full nets trained is shaded.

    Args:
        frame: tidy rows with `error_<degree>`, `tail_error_<degree>` if there was a tail, and `stage` for the stages.

    Returns:
        The figure; its lines carry `mean:<method>`, `seed:<method>:<seed>` and `transition` as group identifiers.
    """
    rows, table = _errors(frame), summarise_components(frame)
    degrees, methods = sorted(table["degree"].unique()), in_order(table["method"])
    transitions = sorted({start for start in summarise_stages(frame)["start"] if start > 0})
    trained, last = table.loc[~table["tail"], "step"].max(), table["step"].max()
    with style():
        figure, axes, free = _panels(len(degrees))
        for degree, ax in zip(degrees, axes, strict=True):
            for step in transitions:
                ax.axvline(step, color="#999999", lw=0.8, ls=(0, (2, 2)), zorder=0.5, gid="transition")
            if last > trained:
                ax.axvspan(trained, last, color=_TAIL, lw=0, zorder=0, gid="tail")
            _draw_degree(rows[rows["degree"] == degree], table[table["degree"] == degree], ax)
            ax.set_xlim(0, last)
            ax.set_ylim(_SHOWN[0], max(_SHOWN[1], 1.05 * table.loc[table["step"] > 0, "mean"].max()))
            ax.set_title(f"degree {degree}")
        for ax in axes[-_COLUMNS:]:
            ax.set_xlabel("optimizer step")
        for ax in axes[::_COLUMNS]:
            ax.set_ylabel("error (1: not learned)")
        entries = _entries(methods, staged=bool(transitions), tailed=last > trained)
        if free is None:
            figure.legend(handles=entries, loc="outside lower center", ncols=4)
        else:
            free.legend(handles=entries, loc="center", handlelength=2.6)
    return figure


def _entries(methods: list[str], *, staged: bool, tailed: bool) -> list[Line2D]:
    """The legend of the curves."""
    looks = [method_style(method) for method in methods]
    entries = [Line2D([], [], color=look.colour, ls=look.linestyle, lw=1.8, label=look.label) for look in looks]
    if staged:
        entries.append(Line2D([], [], color="#999999", lw=0.8, ls=(0, (2, 2)), label="stage transition"))
    if tailed:
        entries.append(Line2D([], [], color=_TAIL, lw=8, label="full-depth tail"))
    return entries


def final_components(frame: pd.DataFrame) -> Figure:
    """Error at the end of training by degree, methods side by side; hollow marks are after the full-depth tail.

    Marks are means over seeds, bars their 95 % intervals (cut at 0), faint dots the seeds.

    Args:
        frame: as for `component_curves`.

    Returns:
        The figure; its marks carry `final:<method>` and `tail:<method>` as group identifiers.
    """
    seeds, table = _finals(frame), summarise_final_components(frame)
    degrees, methods = sorted(table["degree"].unique()), in_order(table["method"])
    tails = (False, True) if table["tail"].any() else (False,)
    slot = 0.84 / len(methods)
    with style():
        figure = Figure(figsize=(max(5.2, 1.62 * len(degrees) + 0.8), 3.8), layout="constrained")
        ax = figure.subplots()
        for number, method in enumerate(methods):
            for tail in tails:
                side = 0.23 * (2 * tail - 1) if len(tails) > 1 else 0.0
                shift = (number - (len(methods) - 1) / 2 + side) * slot
                ours = [rows[(rows["method"] == method) & (rows["tail"] == tail)] for rows in (seeds, table)]
                _draw_final(*ours, ax, shift=shift, hollow=tail)
        for degree in degrees[:-1]:
            ax.axvline(degree + 0.5, color="#cccccc", lw=0.7, zorder=0)
        ax.set_xticks(degrees, [f"degree {degree}" for degree in degrees])
        ax.set_xlim(degrees[0] - 0.5, degrees[-1] + 0.5)
        ax.set_ylim(-0.02 * ax.get_ylim()[1], ax.get_ylim()[1])
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel("final error (0: learned, 1: not)")
        ax.grid(False, axis="x")
        looks = [method_style(method) for method in methods]
        entries = [Line2D([], [], color=look.colour, marker=look.marker, ls="", label=look.label) for look in looks]
        if len(tails) > 1:
            entries.append(Line2D([], [], color="#555555", marker="o", mfc="white", ls="", label="after the tail"))
        figure.legend(handles=entries, loc="outside lower center", ncols=6)
    return figure


def _draw_final(seeds: pd.DataFrame, table: pd.DataFrame, ax: Axes, *, shift: float, hollow: bool) -> None:
    """Draws one method's final errors, `shift` to the right of each degree."""
    if table.empty:
        return
    method = table["method"].iloc[0]
    look = method_style(method)
    ax.plot(seeds["degree"] + shift, seeds["value"], ".", color=look.colour, alpha=0.5, ms=4, mew=0)
    low = table["low"].clip(lower=table["mean"].clip(upper=0))  # an estimate without bias may itself lie below 0
    bars = [table["mean"] - low, table["high"] - table["mean"]]
    drawn = ax.errorbar(
        table["degree"] + shift, table["mean"], [bar.fillna(0.0) for bar in bars], fmt=look.marker, color=look.colour,
        mfc="white" if hollow else look.colour, ms=5, lw=1.1, capsize=2,
    )  # fmt: skip
    drawn.lines[0].set_gid(f"{'tail' if hollow else 'final'}:{method}")
