"""EST's Tables 6 and 7: downstream scores one by one, and scores of small models that need no download."""

from functools import partial

import pandas as pd

from est_analysis.claims import Measured, final
from est_analysis.claims.equal_loss import of_corpus
from est_analysis.claims.est_downstream import SCORES
from est_analysis.claims.statistics import over_seeds

from .cells import PrintedTable
from .data import DataFolder
from .est_tables import FULL_SIZE, PAPER
from .table import Cell, Table, measured

_METHODS = {"Original": "full", "EST": "est"}
_PROXIES = (
    "Ours are accuracies in percent of small models trained on Python source, means over seeds with 95 % t intervals: "
    "the last identifier of a line, linear probes for kinds of token and for the library that a snippet is from, and "
    "fine-tuning for the latter. They stand in for the paper's tasks, which are far beyond such models; chance is what "
    "the commonest answer scores."
)


def score(frame: pd.DataFrame, *, method: str, metric: str) -> Measured:
    """The mean over seeds of a final score, in percent."""
    return over_seeds(100 * final(of_corpus(frame, "text"), method, metric), unit="%", detail="")


def table6(data: DataFolder) -> Table:
    """GLUE, task by task, of GPT-2."""
    return _scores(
        data,
        "6",
        title="GLUE scores of GPT-2",
        note="CoLA: Matthews correlation and accuracy; STS-B: Pearson and Spearman; MRPC and QQP: accuracy and F1; "
        "others: accuracy.",
    )


def table7(data: DataFolder) -> Table:
    """GPT4All, task by task, of TinyLlama."""
    return _scores(
        data,
        "7",
        title="GPT4All scores of TinyLlama",
        note="The paper's are accuracies in percent. Ours are of no Llama, but of the small GPT-2 beside Table 6.",
    )


def _scores(data: DataFolder, table: str, *, title: str, note: str) -> Table:
    published, rows = data.published, data.find("flatness", data.scales("flatness")[-1])
    printed, cells = PrintedTable(published, "EST", table), {}
    for row in published.rows("EST", table):
        for column in published.columns("EST", table):
            why = "" if column == "saving FLOPs" else FULL_SIZE
            cells[row, column] = Cell(**printed.at(row, column), why=why)
        for task, metric in SCORES.items() if row in _METHODS else ():
            check = partial(score, method=_METHODS[row], metric=metric)
            cells[row, task] = measured(rows, check, form=".1f")
    for task, metric in SCORES.items():
        cells["chance (ours)", task] = measured(
            rows, partial(score, method="full", metric=f"{metric}_chance"), form=".1f"
        )
    notes = (note, _PROXIES)
    return Table(title=title, locus=f"{PAPER}, Table {table}", heading="model", cells=cells, notes=notes)
