"""Table, headline and figure of a sweep of learning rates, of which no claim is judged."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.claims import Verdict
from est_analysis.experiments.runs.rate_sweep import best_rates, final_losses
from est_analysis.plots import in_order, method_style

from .tables import MISSING

_KEYS = ("corpus", "family", "method", "budget")


def sweep_keys(frame: pd.DataFrame) -> list[str]:
    """The columns that tell apart what has a learning rate of its own."""
    return [key for key in _KEYS if key in frame.columns and (key == "method" or frame[key].nunique() > 1)]


def sweep_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run: what it is, its learning rate and its last validation loss."""
    if not _has_losses(frame):
        return pd.DataFrame()
    keys = [key for key in _KEYS if key in frame.columns]
    losses = final_losses(frame).rename(columns={"step": "steps"})
    return losses[["run_id", *keys, "lr", "seed", "steps", "validation_loss"]].sort_values([*keys, "lr", "seed"])


def rates_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for everything swept: its best learning rate, and at each the mean final loss and how many seeds."""
    if not _has_losses(frame):
        return pd.DataFrame({"method": [method_style(name).label for name in in_order(frame["method"])]})
    keys, losses = sweep_keys(frame), final_losses(frame)
    found = losses.groupby([*keys, "lr"])["validation_loss"].agg(["mean", "size"])
    rows = []
    for name, best in best_rates(losses, by=keys).items():
        row = {key: _word(key, value) for key, value in zip(keys, name, strict=True)} | {"best": f"{best:g}"}
        for rate in sorted(losses["lr"].unique()):
            here = found.loc[(*name, rate)] if (*name, rate) in found.index else None
            row[f"{rate:g}"] = MISSING if here is None else f"{here['mean']:.4f} ({here['size']:.0f})"
        rows.append(row)
    return pd.DataFrame(rows)


def _has_losses(frame: pd.DataFrame) -> bool:
    return "lr" in frame.columns and "validation_loss" in set(frame["metric"])


def _word(key: str, value: object) -> str:
    return method_style(str(value)).label if key == "method" else str(value)


def rates_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """The best learning rate of each."""
    del verdicts, scale
    if not _has_losses(frame):
        return "No run of the sweep has a validation loss."
    keys = sweep_keys(frame)
    each = (
        " ".join([*map(_word, keys, name), f"{rate:g}"])
        for name, rate in best_rates(final_losses(frame), by=keys).items()
    )
    return f"Best learning rates: {', '.join(each)}."


def rates_figure(frame: pd.DataFrame) -> Figure:
    """`plots.learning_rates` of the runs at the sweep's whole length."""
    if not _has_losses(frame):
        raise ValueError("no rows of metric 'validation_loss' with a learning rate to draw")
    losses = final_losses(frame)
    return plots.learning_rates(losses[losses["budget"] == 1] if "budget" in losses.columns else losses)


def caveat(context: Mapping[str, Any]) -> str:
    """What a sweep is good for."""
    del context
    return (
        "A sweep chooses learning rates; the losses of what it chose are flattered by the choice. So it runs on seeds "
        "that no other scale runs, and no claim is judged by it."
    )
