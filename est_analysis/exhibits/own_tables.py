"""Tables of what only we measured: the grid, the ablations, traces at equal loss. No published numbers beside them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pandas as pd

from est_analysis.claims import Measured, NotMeasured
from est_analysis.claims.ablation_checks import prices
from est_analysis.claims.checks import final_loss_gap
from est_analysis.claims.equal_loss import CORPORA
from est_analysis.claims.grid import FAMILIES, of_family
from est_analysis.claims.statistics import geometric_mean, over_seeds
from est_analysis.plots import in_order, method_style

from .cells import final_mean, saved
from .table import Cell, Table, exact

_INTERVALS = "means over seeds with 95 % t intervals"
# What `log_ratios` calls what it compares -> what stands in the table, in its order; methods are in between.
_AT_EQUAL_LOSS = {
    "whole model": "{}",
    "both decayed": "{}, both decayed",
    "one rate": "{}, one rate for both",
    "one rate, both decayed": "{}, one rate for both, both decayed",
    "attention and MLP": "{}: attention and MLP alone",
    "embeddings": "{}: embeddings alone",
    "Fisher trace": "{}: Fisher trace",
    "scale-invariant": "{}: in the scale-invariant form",
}


def grid_losses(lengths: Sequence[pd.DataFrame]) -> dict[str, Table]:
    """The grid's tables by their file names.

    Args:
        lengths: tidy rows of a grid each, the shortest training first.
    """
    shortest, *longer = map(_grid_losses, lengths)
    return {"grid_losses": shortest} | ({"grid_losses_longer": longer[-1]} if longer else {})


def _grid_losses(frame: pd.DataFrame) -> Table:
    """One row a method, one column a family; no entry where it did not run."""
    own = frame[frame["budget"] == 1]
    families = {name: of_family(own, name) for name in FAMILIES if (own["family"] == name).any()}
    cells = {
        (_row(method), FAMILIES[name]): _loss(rows, method) if (rows["method"] == method).any() else Cell()
        for method in in_order(own["method"])
        for name, rows in families.items()
    }
    return Table(
        title=f"Methods on four families after {own['step'].max():,} steps",
        heading="method",
        cells=cells,
        notes=(
            f"Final validation loss in nats minus the full model's of the same seed; of the full model the loss. "
            f"{own['seed'].nunique()} seeds: {_INTERVALS}. No entry: not run at this length.",
        ),
    )


def _row(method: str) -> str:
    return "full model: its loss" if method == "full" else method_style(method).label


def _loss(rows: pd.DataFrame, method: str) -> Cell:
    if method == "full":
        return _cell(lambda: final_mean(rows, method=method), ".3f")
    return _cell(lambda: final_loss_gap(rows, method), "+.3f")


def _cell(check: Callable[[], Measured], form: str) -> Cell:
    try:
        return Cell(ours=check(), form=form)
    except NotMeasured as missing:
        return Cell(why=str(missing))


def ablation_losses(frame: pd.DataFrame, title: str) -> Table:
    """One row a contender: how far it ends from the full model, for what it saves.

    Args:
        frame: tidy rows of one of the two recipes of ablations.
        title: of the table.
    """
    cells = {}
    for method in in_order(frame["method"]):
        row = _row(method)
        cells[row, "loss minus the full model's"] = _loss(frame, method)
        if method != "full":
            cells[row, "layer FLOPs saved, %"] = _cell(partial(saved, frame, method=method), ".1f")
            cells[row, "nats per 10 % saved"] = _cell(partial(_price, frame, method), "+.3f")
        if "lr" in frame.columns:
            rate = frame.loc[frame["method"] == method, "lr"].iloc[0]
            cells[row, "learning rate"] = exact(rate, "", form="g")
    return Table(
        title=title,
        heading="contender",
        cells=cells,
        notes=(
            f"Final validation loss in nats, {frame['step'].max():,} steps, {frame['seed'].nunique()} seeds: "
            f"{_INTERVALS}.",
        ),
    )


def _price(frame: pd.DataFrame, method: str) -> Measured:
    return over_seeds(prices(frame, method)[method], unit="nats", detail="")


def traces_at_equal_loss(ratios: Iterable[pd.DataFrame]) -> Table:
    """One row a comparison, one column a language and length of training: traces over the full model's.

    Args:
        ratios: of `log_ratios` each, the shortest training first.
    """
    rows = pd.concat(ratios)
    counts = rows.groupby("steps")["seed"].nunique().items()
    seeds = " and ".join(f"{count} seeds at {steps:,} steps" for steps, count in counts)
    columns = {
        (corpus, steps): f"{'Python source' if corpus == 'text' else 'hidden Markov model'}, {steps:,} steps"
        for steps in sorted(rows["steps"].unique())
        for corpus in CORPORA
    }
    cells = {}
    for what, words in _AT_EQUAL_LOSS.items():
        for method in in_order(rows.loc[rows["what"] == what, "method"]):
            own = rows[(rows["what"] == what) & (rows["method"] == method)].set_index(["corpus", "steps"])["value"]
            for place, column in columns.items():
                known = place in own.index
                found = geometric_mean(own.loc[[place]], unit="x", detail="") if known else None
                cells[words.format(method_style(method).label), column] = Cell(ours=found, form=".2f")
    return Table(
        title="Hessian traces over the full model's at equal loss",
        heading="trace of",
        cells=cells,
        notes=(
            f"Geometric means over {seeds} with 95 % t intervals of the logarithm. EST, RaPTr, dropout and the full "
            "model each at its own best rate unless a row says otherwise; EST with something changed at EST's. No "
            "entry: not run, one rate is best for both, or some seed cannot be read at equal loss.",
        ),
    )
