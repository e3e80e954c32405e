"""Table and headline of EST's ablations."""

from collections.abc import Iterable
from contextlib import suppress

import pandas as pd

from est_analysis.claims import NotMeasured, Verdict, final, saving
from est_analysis.claims.ablation_checks import prices
from est_analysis.claims.checks import final_loss_gap
from est_analysis.plots import in_order, method_style

from .tables import MISSING, cell, effect_cell, spread, tally


def _gap(frame: pd.DataFrame, method: str) -> str:
    return effect_cell(lambda: final_loss_gap(frame, method), "{:+.3f}".format)


def _price(frame: pd.DataFrame, method: str) -> pd.Series:
    return prices(frame, method)[method]


def ablations_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a contender: learning rate, final loss, its distance from the full model, savings, loss per saving."""

    def row(method: str) -> dict[str, str]:
        rows = frame[frame["method"] == method]
        full = method == "full"
        return {
            "contender": method_style(method).label,
            "schedule": ", ".join(sorted(rows["schedule"].unique())),
            "seeds": str(rows["seed"].nunique()),
            "learning rate": f"{rows['lr'].iloc[0]:g}" if "lr" in rows else MISSING,
            "final validation loss": cell(lambda: final(frame, method, "validation_loss"), spread),
            "minus the full model's [95 %]": MISSING if full else _gap(frame, method),
            "layer FLOPs saved": cell(lambda: saving(frame, method), lambda part: f"{part.mean():.1f} %"),
            "total FLOPs saved": cell(
                lambda: saving(frame, method, "total_flops"), lambda part: f"{part.mean():.1f} %"
            ),
            "nats per 10 % of layer FLOPs": MISSING
            if full
            else cell(lambda: _price(frame, method), lambda price: f"{price.mean():+.4f}"),
        }

    return pd.DataFrame([row(method) for method in in_order(frame["method"])])


def ablations_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """The ablations in two sentences: what lost least for what it saved, and how many claims held."""
    costs = {}
    for method in frame["method"].unique():
        with suppress(NotMeasured):  # it saves nothing, or is the full model
            costs[method] = _price(frame, method).mean()
    best = min(costs, key=costs.__getitem__, default=None)
    opening = "Nothing to compare with the full model"
    if best:
        opening = (
            f"Least loss for the layer FLOPs saved: {method_style(best).label}, {costs[best]:+.4f} nats per 10 % "
            "against the full model of as many steps"
        )
        if "est" in costs:
            opening += f" (EST {costs['est']:+.4f})"
    return f"{opening}. {tally(verdicts, scale)}"
