"""Table and headline of the grid."""

from collections.abc import Iterable

import pandas as pd

from est_analysis.claims import NotMeasured, Verdict, final, saving
from est_analysis.claims.grid import FAMILIES, loss_difference, of_family
from est_analysis.plots import in_order, method_style

from .tables import MISSING, cell, effect_cell, spread, tally


def _gap(frame: pd.DataFrame, family: str, method: str) -> str:
    return effect_cell(lambda: loss_difference(frame, family, method, "full"), "{:+.3f}".format)


def grid_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a family and method: seeds, final loss, its distance from the full model, savings."""

    def row(family: str, rows: pd.DataFrame, method: str) -> dict[str, str]:
        return {
            "family": FAMILIES[family],
            "method": method_style(method).label,
            "schedule": ", ".join(sorted(rows.loc[rows["method"] == method, "schedule"].unique())),
            "seeds": str(rows.loc[rows["method"] == method, "seed"].nunique()),
            "learning rate": f"{rows.loc[rows['method'] == method, 'lr'].iloc[0]:g}",
            "final validation loss": cell(lambda: final(rows, method, "validation_loss"), spread),
            "minus the full model's [95 %]": MISSING if method == "full" else _gap(frame, family, method),
            "layer FLOPs saved": cell(lambda: saving(rows, method, "layer_flops"), lambda part: f"{part.mean():.1f} %"),
            "total FLOPs saved": cell(lambda: saving(rows, method, "total_flops"), lambda part: f"{part.mean():.1f} %"),
        }

    found = []
    for family in FAMILIES:
        try:
            rows = of_family(frame, family)
        except NotMeasured:
            continue
        found += [row(family, rows, method) for method in in_order(rows["method"])]
    return pd.DataFrame(found)


def grid_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """The grid in two sentences: what ended best at a quarter less cost on each family, and how many claims held."""
    parts = []
    for family in FAMILIES:
        try:
            rows = of_family(frame, family)
            losses = {m: final(rows, m, "validation_loss").mean() for m in rows["method"].unique()}
        except NotMeasured:
            continue
        best = min(losses.keys() - {"full"}, key=losses.__getitem__, default=None)
        if best and "full" in losses:
            gap = losses[best] - losses["full"]
            parts.append(f"{FAMILIES[family]}: {method_style(best).label} ({gap:+.4f} nats from the full model)")
    opening = "; ".join(parts) or "No family has a full model to compare with"
    return f"Best of the cheaper runs on each family: {opening}. {tally(verdicts, scale)}"
