"""Table and headline of flatness along training."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from est_analysis.claims import NotMeasured, Verdict, final
from est_analysis.claims.equal_loss import CORPORA, of_corpus
from est_analysis.claims.flatness_checks import at_equal_loss
from est_analysis.plots import in_order, method_style

from .tables import MISSING, cell, effect_cell, spread, tally


def _trace(rows: pd.DataFrame, method: str, metric: str) -> str:
    def shown(values: pd.Series) -> str:
        error = f" ± {values.sem():.3g}" if len(values) > 1 else ""
        return f"{values.mean():.4g}{error}"

    return cell(lambda: final(rows, method, metric), shown)


def _ratio(frame: pd.DataFrame, corpus: str, method: str) -> str:
    check = partial(at_equal_loss, frame, corpus=corpus, ours=method, theirs="full")
    return effect_cell(check, lambda log: f"{np.exp(log):.2f}")


def flatness_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a language and contender: learning rate, final loss, final traces, ratio at equal loss."""

    def row(corpus: str, rows: pd.DataFrame, method: str) -> dict[str, str]:
        runs = rows[rows["method"] == method]
        return {
            "language": CORPORA[corpus],
            "contender": method_style(method).label,
            "seeds": str(runs["seed"].nunique()),
            "learning rate": f"{runs['lr'].iloc[0]:g}" if "lr" in runs else MISSING,
            "final validation loss": cell(lambda: final(rows, method, "validation_loss"), spread),
            "above the least possible": cell(
                lambda: final(rows, method, "validation_loss") - final(rows, method, "best_loss"),
                lambda excess: f"{excess.mean():.4f}",
            ),
            "Hessian trace": _trace(rows, method, "hessian_trace"),
            "Fisher trace": _trace(rows, method, "fisher_trace"),
            "top eigenvalue": _trace(rows, method, "top_eigenvalue"),
            "trace ratio at equal loss [95 %]": MISSING if method == "full" else _ratio(frame, corpus, method),
        }

    found = []
    for corpus in CORPORA:
        try:
            rows = of_corpus(frame, corpus)
        except NotMeasured:
            continue
        found += [row(corpus, rows, method) for method in in_order(rows["method"])]
    return pd.DataFrame(found)


def flatness_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """Two sentences: EST's trace over the full model's at equal loss on each language, and how many claims held."""
    parts = [f"{CORPORA[name]} {ratio}" for name in CORPORA if (ratio := _ratio(frame, name, "est")) != MISSING]
    opening = "; ".join(parts) or "not measured"
    said = f"EST's Hessian trace over the full model's at equal loss (the paper: 0.21): {opening}"
    return f"{said}. {tally(verdicts, scale)}"
