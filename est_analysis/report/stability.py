"""Table, headline and caveat of the recipe that measures stability at initialisation against depth."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from est_analysis.claims import Verdict
from est_analysis.claims.raptr_stability import depth_exponent
from est_analysis.plots import summarise_stability

from .tables import MISSING, effect_cell, tally

_NAMES = {
    "residual+norm": "residual + layer norm",
    "gelu residual+norm": "residual + layer norm, GELU blocks",
    "residual": "no layer norm",
    "norm": "no residual",
}


def stability_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a variant of the net: its depths, the mean Psi at each, and the exponent fitted to them."""
    try:
        table = summarise_stability(frame)
    except ValueError:  # nothing was measured
        table = pd.DataFrame(columns=["method", "depth", "mean", "seeds"])
    depths = sorted(table["depth"].unique())
    means = table.set_index(["method", "depth"])["mean"].to_dict()

    def row(variant: str) -> dict[str, str]:
        runs = frame[frame["method"] == variant]
        return {
            "net": _NAMES.get(variant, variant),
            "nets drawn": str(runs["seed"].nunique()),
            "depths": ", ".join(str(depth) for depth in depths if (variant, depth) in means) or MISSING,
            **{f"mean Psi, L = {d}": f"{means[variant, d]:.4f}" if (variant, d) in means else MISSING for d in depths},
            "exponent [95 %]": exponent_text(frame, variant),
        }

    return pd.DataFrame([row(variant) for variant in _in_order(frame)])


def _in_order(frame: pd.DataFrame) -> list[str]:
    return sorted(
        frame["method"].unique(), key=lambda name: (list(_NAMES).index(name) if name in _NAMES else len(_NAMES), name)
    )


def exponent_text(frame: pd.DataFrame, variant: str) -> str:
    """The exponent of mean Psi in 1/L with its interval, or a dash."""
    return effect_cell(lambda: depth_exponent(frame, variant), "{:.3f}".format)


def stability_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """How the mean of Psi falls with the depth in each net, and how many claims held."""
    found = {variant: exponent_text(frame, variant) for variant in _in_order(frame)}
    parts = [f"{_NAMES.get(variant, variant)} {text}" for variant, text in found.items() if text != MISSING]
    opening = "No exponent could be fitted: that needs two depths of 32 or more"
    if parts:
        opening = f"Mean Psi goes with the depth L as L^(-c) (0: it does not fall), c being: {'; '.join(parts)}"
    return f"{opening}. {tally(verdicts, scale)}"


def caveat(context: Mapping[str, Any]) -> str:
    """How far the measurement is from the paper's, in plain words."""
    seeds = len(context.get("seeds") or ())
    drawn = f"{seeds} nets" if seeds > 1 else "few nets"
    return (
        "The sizes, widths and depths, are ours: the paper's could not be read. Its lemma is about linear residual "
        f"nets at initialisation; {drawn} of each kind were drawn, of finite width, and nothing was trained. The norm "
        "convention (layer norm at the entrance of each branch, none at the end) could not be checked against the "
        "paper either. A verdict here is about these nets and depths, and says nothing about trained ones."
    )
