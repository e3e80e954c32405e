"""One look for every figure: a colour, a marker and a line style a method, legible in print and without colour."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """How one training method or model family is drawn, in every figure."""

    label: str
    colour: str
    marker: str = "o"
    linestyle: str = "-"


# Okabe and Ito's colours, told apart under every common colour blindness; their yellow is too pale for print and is
# replaced by a dark one. The line style and the marker repeat the distinction for grey-scale print.
METHOD_STYLES = {
    "full": MethodStyle(label="full model", colour="#000000", marker="o", linestyle="-"),
    "est": MethodStyle(label="EST", colour="#0072B2", marker="s", linestyle="--"),
    "raptr": MethodStyle(label="RaPTr", colour="#D55E00", marker="^", linestyle="-."),
    "pld": MethodStyle(label="PLD", colour="#009E73", marker="v", linestyle=":"),
    "stochastic_depth": MethodStyle(label="stochastic depth", colour="#56B4E9", marker="D", linestyle="-"),
    "raptr_reversed": MethodStyle(label="RaPTr reversed", colour="#8C564B", marker="<", linestyle="--"),
    "layer_dropout": MethodStyle(label="LayerDrop", colour="#332288", marker="h", linestyle=":"),
    "progressive_stacking": MethodStyle(label="progressive stacking", colour="#882255", marker="p", linestyle=":"),
    "gradual_stacking": MethodStyle(label="gradual stacking", colour="#CC79A7", marker="P", linestyle="--"),
    "staged": MethodStyle(label="Staged Training", colour="#E69F00", marker="X", linestyle="-."),
    "msg": MethodStyle(label="MSG", colour="#8A7A00", marker="*", linestyle=":"),
    "short": MethodStyle(label="full model, shorter", colour="#5A5A5A", marker="8", linestyle=":"),
    "structured_dropout": MethodStyle(label="structured dropout", colour="#44AA99", marker="d", linestyle=":"),
    "dropout": MethodStyle(label="dropout", colour="#999933", marker=">", linestyle="--"),
}

FAMILY_STYLES = {
    "gpt2": MethodStyle(label="GPT-2", colour="#000000", marker="o", linestyle="-"),
    "llama": MethodStyle(label="Llama", colour="#0072B2", marker="s", linestyle="--"),
    "megatron-bert": MethodStyle(label="BERT (pre-norm)", colour="#D55E00", marker="^", linestyle="-."),
    "t5": MethodStyle(label="T5", colour="#009E73", marker="v", linestyle=":"),
}

# What may follow a method in a label such as `raptr/no-norm`, in words and in the order of figures and tables.
CHANGES = {
    "no-norm": "no layer norm",
    "no-residual": "no residual",
    "sqrt_gap": "√gap scaling",
    "linear_gap": "gap scaling",
    "inv_p": "1/p scaling",
    "two-stage": "two stages",
    "constant": "constant",
    "only-heads": "heads only",
    "only-mlp": "MLP only",
    "only-layers": "layers only",
    "heads-layers": "heads and layers",
    "mlp-layers": "MLP and layers",
    "one-stage": "ONE-STAGE",
    "two-stage-a": "TWO-STAGE-A",
    "two-stage-b": "TWO-STAGE-B",
    "two-stage-c": "TWO-STAGE-C",
    "three-stage": "THREE-STAGE",
    "half-as-long": "half as long",
    "twice-as-long": "twice as long",
    "mild": "rates ¾",
    "harsh": "rates ¼",
    "linear": "linear growth",
    "exponential": "exponential growth",
    "step": "growth in one step",
    "flat": "no growth",
    "warm-up": "full net first",
    "late": "late growth",
    "width": "heads and MLP",
    "bernoulli": "each unit by itself",
    "unscaled": "without 1/p",
    "half": "half the steps",
    "decayed-embeddings": "embeddings decayed",
    "est-rate": "at EST's rate",
    "est-rate-half": "half the steps at EST's rate",
    "constant-lr": "constant rate",
}

_SETTINGS = {
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def style() -> AbstractContextManager:
    """A context in which matplotlib draws in this package's style, and after which nothing has changed."""
    return matplotlib.rc_context({**sns.axes_style("ticks"), **_SETTINGS})


def method_style(method: str) -> MethodStyle:
    """The style of `method`; a method without one of its own is drawn in grey under its own name.

    What follows a slash says how a method was changed, and leaves its style as it is.

    >>> method_style("est").label, method_style("novel").label, method_style("raptr/no-residual/no-norm").label
    ('EST', 'novel', 'RaPTr, no residual, no layer norm')
    """
    name, *changes = method.split("/")
    if name not in METHOD_STYLES:
        return MethodStyle(label=method, colour="#777777", marker="d", linestyle=(0, (1, 1)))
    look = METHOD_STYLES[name]
    return replace(look, label=", ".join([look.label, *(CHANGES.get(change, change) for change in changes)]))


def in_order(methods: pd.Series) -> list[str]:
    """The distinct `methods`, in the fixed order of `METHOD_STYLES` (the baseline first), others after them by name.

    >>> in_order(pd.Series(["raptr/no-norm", "novel", "full", "raptr"]))
    ['full', 'raptr', 'raptr/no-norm', 'novel']
    """
    rank = {name: position for position, name in enumerate(METHOD_STYLES)}
    change_rank = {name: position for position, name in enumerate(CHANGES)}

    def key(label: str) -> tuple:
        name, *changes = label.split("/")
        return rank.get(name, len(rank)), [change_rank.get(change, len(change_rank)) for change in changes], label

    return sorted(methods.unique(), key=key)


def rows_of(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of `metric`, ordered by run and step; one that was not measured is an error naming those that were."""
    rows = frame[frame["metric"] == metric]
    if rows.empty:
        known = ", ".join(sorted(frame["metric"].unique())) or "none"
        raise ValueError(f"no rows of metric '{metric}' to draw: the frame holds {known}")
    return rows.sort_values(["method", "seed", "run_id", "step"], ignore_index=True)


def save(figure: Figure, folder: Path | str, name: str) -> tuple[Path, Path]:
    """Writes `figure` as `<name>.png` (160 dots an inch) and `<name>.svg`; the same figure gives the same bytes.

    Args:
        figure: what to write.
        folder: where to, made when it is not there.
        name: the files' name, without an extension.

    Returns:
        The paths of the PNG and of the SVG.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    # Identifiers are otherwise salted at random, and the date and the version are otherwise written into the files.
    with style(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg
