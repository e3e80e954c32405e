"""Thins the rows of a polynomial recipe's report to those that figures and claims need, for committing.

    est run poly-raptr-vs-pld --scale report
    python paper_figures/data/thin.py reports/poly-raptr-vs-pld-report/rows.csv paper_figures/data/poly_raptr_vs_pld.csv

Kept are the measurements at every evaluation, of what is logged more often the rows at evaluations, and of variants (a
method's name with a slash) the losses around transitions alone.
"""

import sys
from pathlib import Path

import pandas as pd

OFTEN = ("stage", "layer_flops", "active_layers")
OF_VARIANTS = ("relative_loss", "subnet_loss_before", "subnet_loss_after")
DROPPED = r"_stderr$|^tail_(?:train_loss|active_layers|off_support|validation_loss)$"


def thin(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows worth keeping, values to six digits."""
    evaluated = rows.loc[rows["metric"] == "error_1", ["run_id", "seed", "step"]].drop_duplicates()
    kept = rows[~rows["metric"].str.contains(DROPPED, regex=True)]
    kept = kept[~kept["method"].str.contains("/") | kept["metric"].isin(OF_VARIANTS)]
    often = kept["metric"].isin(OFTEN)
    at_evaluations = kept[often].merge(evaluated, on=["run_id", "seed", "step"])
    found = pd.concat([kept[~often], at_evaluations], ignore_index=True)
    found["value"] = found["value"].map(lambda value: float(f"{value:.6g}"))
    return found.sort_values(["method", "seed", "metric", "step"], kind="stable", ignore_index=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    thin(pd.read_csv(sys.argv[1], keep_default_na=False)).to_csv(Path(sys.argv[2]), index=False)
