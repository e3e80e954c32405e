"""Tables, headlines and caveat of the recipes on Boolean polynomials."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from est_analysis.claims import NotMeasured, Verdict, final, runs_of, saving
from est_analysis.claims.raptr_polynomials import top_degree
from est_analysis.plots import in_order, method_style, summarise_transition_changes

from .tables import MISSING, cell, spread, tally


def mean_depth(frame: pd.DataFrame, method: str) -> pd.Series:
    """Layers that ran, mean over all training steps of each seed: its windows' means, times their lengths."""
    windows = runs_of(frame, method, "active_layers")
    return pd.Series(
        {seed: float(run @ np.diff(run.index, prepend=0)) / run.index[-1] for seed, run in windows.items()}
    )


def components_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method: depth, savings, final error by degree, relative loss, and the top degree after the tail."""
    try:
        top = top_degree(frame)
    except NotMeasured:
        top = 0

    def row(method: str) -> dict[str, str]:
        errors = {
            f"error, degree {degree}": cell(lambda degree=degree: final(frame, method, f"error_{degree}"), _three)
            for degree in range(1, top + 1)
        }
        return {
            "method": method_style(method).label,
            "seeds": str(frame.loc[frame["method"] == method, "seed"].nunique()),
            "mean depth": cell(lambda: mean_depth(frame, method), lambda depth: f"{depth.mean():.2f}"),
            "layer FLOPs saved": cell(
                lambda: saving(frame, method, "layer_flops"), lambda part: f"{part.mean():.2f} %"
            ),
            **errors,
            "relative loss": cell(lambda: final(frame, method, "relative_loss"), _three),
            f"error, degree {top}, after the tail": cell(lambda: final(frame, method, f"tail_error_{top}"), _three),
        }

    return pd.DataFrame([row(method) for method in in_order(frame["method"])])


def _three(values: pd.Series) -> str:
    # Estimates without bias fall on either side of 0: no minus before a zero.
    return spread(values, digits=3).replace("-0.000", "0.000")


def components_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """The methods' final errors of the highest degree, and how many claims held."""
    parts = []
    try:
        top = top_degree(frame)
    except NotMeasured:
        return f"No component errors were measured. {tally(verdicts, scale)}"
    for method in in_order(frame["method"]):
        try:
            parts.append(f"{method_style(method).label} {final(frame, method, f'error_{top}').mean():.3f}")
        except NotMeasured:
            continue
    seeds = frame["seed"].nunique()
    over = "one seed" if seeds == 1 else f"means over {seeds} seeds"
    return (
        f"Error of degree {top}, the highest, at the end (0: learned, 1: not; {over}): {', '.join(parts)}. "
        f"{tally(verdicts, scale)}"
    )


def transitions_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method and what was changed about it: relative change at its transitions, and its final loss."""
    try:
        changes = summarise_transition_changes(frame).set_index("method")
    except ValueError:  # nothing was measured around transitions
        changes = pd.DataFrame()

    def row(method: str) -> dict[str, str]:
        return {
            "method": method_style(method).label,
            "seeds": str(frame.loc[frame["method"] == method, "seed"].nunique()),
            "mean depth": cell(lambda: mean_depth(frame, method), lambda depth: f"{depth.mean():.2f}"),
            "change at a transition [95 %]": change_text(changes.loc[method]) if method in changes.index else MISSING,
            "relative loss": cell(lambda: final(frame, method, "relative_loss"), _three),
        }

    return pd.DataFrame([row(method) for method in in_order(frame["method"])])


def change_text(change: pd.Series) -> str:
    """A row of `summarise_transition_changes` in words, in brackets where nothing had been learned.

    >>> change_text(pd.Series({"mean": -0.014, "low": -0.029, "high": 0.001, "learned": True}))
    '-1.4 % [-2.9, +0.1]'
    >>> change_text(pd.Series({"mean": 0.5, "low": float("nan"), "high": float("nan"), "learned": False}))
    '(+50.0 %)'
    """
    interval = "" if pd.isna(change["low"]) else f" [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
    text = f"{100 * change['mean']:+.1f} %{interval}"
    return text if change["learned"] else f"({text})"


def transitions_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """What a transition does to the loss of each method as it is, and how many claims held."""
    try:
        changes = summarise_transition_changes(frame)
    except ValueError:
        return f"Nothing was measured around stage transitions. {tally(verdicts, scale)}"
    plain = changes[~changes["method"].str.contains("/")].set_index("method")
    parts = [f"{method_style(name).label} {change_text(plain.loc[name])}" for name in in_order(plain.index.to_series())]
    opening = (
        f"At a stage transition, weights unchanged, the loss changed by (mean and 95 % interval): {', '.join(parts)}. "
        if parts
        else ""
    )
    return f"{opening}{tally(verdicts, scale)}"


def caveat(context: Mapping[str, Any]) -> str:
    """How far the runs are from the paper's, in plain words."""
    parameters, seeds = context.get("num_parameters"), len(context.get("seeds") or ())
    size = "small residual nets" if parameters is None else f"residual nets of {parameters:,} parameters"
    repeats = f"{seeds} seed{'' if seeds == 1 else 's'}" if seeds else "few seeds"
    return (
        "The sizes are ours: those of the paper's polynomials, nets and runs could not be read, beyond that its net "
        f"has 20 layers. These are {size}, with {repeats} a method, each seed a random polynomial of its own. Sizes "
        "and learning rate were chosen on runs of the full model alone, and no method was tuned. A verdict here is "
        "about this setting: it neither confirms nor contradicts what the paper found in its own."
    )
