"""What each layer of one network is worth: how far output and loss move when it is bypassed."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import METHOD_STYLES, style

_LABELS = 16  # names of layers that fit below the axis


def stability_by_layer(frame: pd.DataFrame, tolerance: float | None = None) -> Figure:
    """Relative change of the output (Psi) and change of the loss against the layer that is bypassed.

    The loss has a linear axis up to `tolerance`, or else a tenth of the largest change, and a logarithmic one beyond,
    where the first layers of a network lie. Each stack (encoder, decoder) has a line of its own.

    Args:
        frame: a row a layer, in order: name (`h.3`), psi, psi_stderr, loss_change and loss_change_stderr (nats).
        tolerance: change of the loss to mark, nats.

    Returns:
        The figure; its points carry `psi:<stack>` and `loss_change:<stack>` as group identifiers.
    """
    stacks = frame["name"].str.rpartition(".")[0]
    linear = tolerance or 0.1 * float(frame["loss_change"].abs().max()) or 1.0
    with style():
        figure = Figure(figsize=(min(11.0, max(4.6, 1.6 + 0.32 * len(frame))), 4.8), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        for ax, column in ((upper, "psi"), (lower, "loss_change")):
            _draw_stacks(frame, stacks, column, ax)
        upper.set_ylim(bottom=0)
        upper.set_title(r"relative change of the output, $\Psi_\ell$")
        marked = f"; dashed: tolerance {tolerance:g}" if tolerance else ""
        lower.set_title(f"change of the loss (nats{marked})")
        lower.set_yscale("symlog", linthresh=linear)
        ticks = _ticks(linear, frame["loss_change"])
        lower.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        lower.minorticks_off()
        lower.margins(y=0.08)
        lower.axhline(0, color="#444444", lw=0.8)
        if tolerance:
            lower.axhline(tolerance, color="#888888", ls=(0, (4, 3)), lw=1.0, gid="tolerance")
        if stacks.nunique() > 1:
            upper.legend(ncols=2)
        every = -(-len(frame) // _LABELS)
        lower.set_xticks(range(0, len(frame), every), frame["name"].iloc[::every], rotation=45, ha="right")
        lower.set_xlabel("layer bypassed")
    return figure


def _ticks(linear: float, changes: pd.Series) -> list[float]:
    """Zero, and to either side as far as there are changes the end of the linear part and the powers of ten beyond."""
    ends = [-float(changes.min()), float(changes.max())]
    powers = [10.0**power for power in range(-9, 10) if 10.0**power > 1.5 * linear]
    below, above = ([linear, *(power for power in powers if power < 3 * end)] if end > 0 else [] for end in ends)
    return [*(-tick for tick in reversed(below)), 0.0, *above]


def _draw_stacks(frame: pd.DataFrame, stacks: pd.Series, column: str, ax: Axes) -> None:
    looks = list(METHOD_STYLES.values())[1:]
    for look, stack in zip(cycle(looks), stacks.unique(), strict=False):
        places = np.flatnonzero(stacks == stack)
        rows = frame.iloc[places]
        drawn = ax.errorbar(
            places, rows[column], rows[f"{column}_stderr"], color=look.colour, marker=look.marker, ls="-", lw=1.2,
            ms=4.5, capsize=3, label=stack,
        )  # fmt: skip
        drawn.lines[0].set_gid(f"{column}:{stack}")
