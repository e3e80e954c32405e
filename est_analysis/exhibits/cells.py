"""What every table of published numbers beside ours asks: the printed text of a cell, and the usual measurements."""

from dataclasses import replace

import pandas as pd

from est_analysis.claims import Measured, NotMeasured, final, saving
from est_analysis.claims.grid import of_family
from est_analysis.claims.statistics import over_seeds

from .data import DataFolder, Rows
from .published import Published

DIFFERENCE = "loss minus the original's"
SEEDS_NOTE = (
    "Ours are means over seeds with 95 % t intervals, differences paired by seed; the paper's differences are those of "
    "its printed losses."
)
NO_TIMES = "step times of the grid, which runs two models at once, are not kept; benchmarks/README.md has its clock"
RATIO_NOTE = "Our {what} are geometric means over seeds with 95 % t intervals of the logarithm."
# Of the models of the grid and of the ablations, in all families about; a step is 16 sequences of 64 tokens.
_PARAMETERS, _TOKENS_A_STEP = 250_000, 1_024


def small_note(rows: Rows) -> str:
    """How small our models are, and on how much those of `rows` were trained."""
    much = "few tokens"
    if rows.frame is not None:
        much = f"about {rows.frame['step'].max() * _TOKENS_A_STEP / _PARAMETERS:.0f} tokens a parameter"
    return (
        f"Our models have about {_PARAMETERS:,} parameters and are trained on {much}, of other text: losses compare "
        "within a column of ours, not with the paper's."
    )


class PrintedTable:
    """The printed texts of one table, for its cells."""

    def __init__(self, published: Published, paper: str, table: str) -> None:
        self.published, self.paper, self.table = published, paper, table

    def at(self, row: str, column: str, *, elsewhere: str = "") -> dict[str, str]:
        """What the paper prints there, or in the table `elsewhere` where this one could not be read."""
        lost = self.published.lost(self.paper, self.table, row, column)
        text = self.published.text(self.paper, self.table, row, column)
        if text or not elsewhere:
            return {"published": text, "lost": lost}
        text = self.published.text(self.paper, elsewhere, row, column)
        return {"published": text, "where": f"Table {elsewhere}" if text else "", "lost": lost}

    def difference(self, row: str, *, base: str = "Original", elsewhere: str = "") -> dict[str, str]:
        """The difference of two printed losses, in the digits they have."""
        ours = self.at(row, "loss", elsewhere=elsewhere)
        if row == base:
            return {}
        if not ours["published"]:
            return {"lost": ours["lost"]}
        theirs = self.published.value(self.paper, self.table, base, "loss")
        return ours | {"published": f"{float(ours['published']) - theirs:+.2f}"}


def of_the_family(data: DataFolder, family: str) -> Rows:
    """The grid's rows of one family at the common budget, of the largest scale that has it."""
    for scale in data.scales("grid"):
        rows = data.find("grid", scale)
        if rows.frame is None:
            return rows
        try:
            return replace(rows, source=f"{rows.source} on {family}", frame=of_family(rows.frame, family))
        except NotMeasured as why:
            missing = str(why)
    return replace(rows, frame=None, missing=missing)


def final_mean(frame: pd.DataFrame, *, method: str, metric: str = "validation_loss") -> Measured:
    """The mean over seeds of the last value of `metric`."""
    return over_seeds(final(frame, method, metric), unit="", detail="")


def saved(frame: pd.DataFrame, *, method: str, metric: str = "layer_flops") -> Measured:
    """The part of the full model's operations that was saved, in percent, by the masks that were drawn."""
    return over_seeds(saving(frame, method, metric), unit="%", detail="")
