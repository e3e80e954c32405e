"""EST's Tables 1 to 5: cost of a schedule, main results, schedules, TinyLlama, Hessian trace."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from math import exp

from est_analysis.claims import Measured
from est_analysis.claims.checks import final_loss_gap, whole_run_speed_up
from est_analysis.claims.equal_loss import CORPORA
from est_analysis.claims.est import flatness
from est_analysis.claims.flatness_checks import at_equal_loss

from .cells import (
    DIFFERENCE,
    NO_TIMES,
    RATIO_NOTE,
    SEEDS_NOTE,
    PrintedTable,
    final_mean,
    of_the_family,
    saved,
    small_note,
)
from .data import DataFolder, Rows
from .table import Cell, Table, exact, measured

PAPER = "EST, arXiv 2406.06962"
FULL_SIZE = (
    "these scores need models of the paper's size and downloads, for which 'est claims est.paper-scale' has the "
    "commands; small models have other tasks, which need no download"
)
_HOURS = "hours are the machine's; what a schedule does to them is the speed-up"


def table1(data: DataFolder) -> Table:
    """Cost of the example schedule in units of r N_L (C_H + C_M), by equations 8 to 10."""
    from est_analysis.subnet.cost import find_architecture, schedule_cost  # loads torch
    from est_analysis.subnet.schedule import find_schedule

    cost = schedule_cost(find_schedule("table1"), find_architecture("gpt2"))
    shares = [stage.paper / cost.full.paper for stage in cost.stages]
    sums = {"Total": (sum(shares), float(len(shares))), "Saving": (len(shares) - sum(shares), 0.0)}
    rows = {f"Stage {number}": (share, 1.0) for number, share in enumerate(shares, start=1)} | sums
    printed, cells = PrintedTable(data.published, "EST", "1"), {}
    for row, costs in rows.items():
        for who, value in zip(("EST", "the original"), costs, strict=True):
            column = f"cost of {who} (r N_L (C_H + C_M))"
            cells[row, column] = exact(value, "computed by equations 8 to 10", **printed.at(row, column), form=".2f")
    return Table(
        title="An example of what a schedule saves",
        locus=f"{PAPER}, Table 1",
        heading="stage",
        cells=cells,
        notes=(
            f"In layers the schedule saves {100 * cost.paper_saving:.1f} %; with attention scores and the LM head of "
            f"GPT-2 counted it saves {100 * cost.true_saving:.1f} %.",
        ),
    )


def table2(data: DataFolder) -> Table:
    """Main results on GPT-2, beside the grid's GPT-2 (losses, savings) and `reproduce` (speed-up)."""
    # Of the longer runs no step times are kept: the machine did other work beside them.
    grid, times = of_the_family(data, "gpt2"), data.find("reproduce", data.scales("reproduce")[-1])
    printed, cells = PrintedTable(data.published, "EST", "2"), {}
    methods = {"Original": "full", "Staged Training": "staged", "MSG": "msg", "EST": "est"}
    for row, method in (methods | {"full model, shorter (ours)": "short"}).items():
        text = partial(printed.at, row)
        also = "3" if row == "EST" else ""  # where EST's row can be read
        tabled = partial(printed.at, row, elsewhere=also)
        cells[row, "wall clock time (hours)"] = Cell(**text("wall clock time (hours)"), why=_HOURS)
        cells[row, "speed-up"] = Cell(**text("speed-up"), why="" if row == "Original" else NO_TIMES)
        if row == "EST":
            cells[row, "speed-up"] = measured(
                times, partial(whole_run_speed_up, method="est"), **text("speed-up"), form=".2f"
            )
        cells |= _costs(row, method, grid, text("saving FLOPs"))
        cells |= _losses(row, method, grid, tabled("loss"), printed.difference(row, elsewhere=also))
        for score in ("average GLUE", "SQuAD", "LAMBADA"):
            cells[row, score] = Cell(**tabled(score), why=FULL_SIZE)
    return Table(
        title="Main results on GPT-2",
        locus=f"{PAPER}, Table 2",
        heading="method",
        cells=cells,
        notes=(
            SEEDS_NOTE,
            RATIO_NOTE.format(what="speed-ups"),
            small_note(grid),
            "Our Staged Training keeps half of the width for 36 % of the steps, which saves nearly as much as EST; the "
            "paper's keeps it for a third of them and counts that as 16.7 %, where halving the width saves more "
            "('est audit').",
        ),
    )


def _costs(row: str, method: str, rows: Rows, printed: Mapping[str, str]) -> dict[tuple[str, str], Cell]:
    """Savings of layer FLOPs, which the papers count, and of all of them."""
    if method == "full":
        return {(row, "saving FLOPs"): Cell(**printed), (row, "saving of all FLOPs"): Cell()}
    return {
        (row, "saving FLOPs"): measured(rows, partial(saved, method=method), **printed, form=".1f"),
        (row, "saving of all FLOPs"): measured(rows, partial(saved, method=method, metric="total_flops"), form=".1f"),
    }


def _losses(
    row: str, method: str, rows: Rows, printed: Mapping[str, str], difference: Mapping[str, str]
) -> dict[tuple[str, str], Cell]:
    """The final loss and its distance from the full model's."""
    cells = {(row, "loss"): measured(rows, partial(final_mean, method=method), **printed)}
    if method == "full":
        return cells | {(row, DIFFERENCE): Cell()}
    gap = partial(final_loss_gap, ours=method)
    return cells | {(row, DIFFERENCE): measured(rows, gap, **difference, form="+.3f")}


SCHEDULES = {
    "Original": "full",
    "EST-ONE-STAGE": "est/one-stage",
    "EST-TWO-STAGE-A": "est/two-stage-a",
    "EST-TWO-STAGE-B": "est/two-stage-b",
    "EST-TWO-STAGE-C": "est/two-stage-c",
    "EST-THREE-STAGE": "est/three-stage",
    "EST": "est",
    "two stages at EST's cost (ours)": "est/two-stage",
    "full model, shorter (ours)": "short",
}


def table3(data: DataFolder) -> Table:
    """EST's schedules on GPT-2, beside those of `est-ablations`; beside the grid's where these are not there yet."""
    rows = data.find("est-ablations")
    grid = of_the_family(data, "gpt2")
    printed, cells = PrintedTable(data.published, "EST", "3"), {}
    for row, method in SCHEDULES.items():
        known = rows.frame is None and grid.frame is not None and (grid.frame["method"] == method).any()
        of = grid if known else rows
        cells |= _costs(row, method, of, printed.at(row, "saving FLOPs"))
        cells |= _losses(row, method, of, printed.at(row, "loss"), printed.difference(row))
        for score in ("average GLUE", "SQuAD", "LAMBADA"):
            cells[row, score] = Cell(**printed.at(row, score), why=FULL_SIZE)
    return Table(
        title="Schedules of EST on GPT-2",
        locus=f"{PAPER}, Table 3",
        heading="schedule",
        cells=cells,
        notes=(SEEDS_NOTE, small_note(rows)),
    )


def table4(data: DataFolder) -> Table:
    """Main results on TinyLlama, beside the grid's Llama."""
    grid = of_the_family(data, "llama")
    printed, cells = PrintedTable(data.published, "EST", "4"), {}
    for row, method in {"Original": "full", "EST": "est", "full model, shorter (ours)": "short"}.items():
        text = partial(printed.at, row)
        cells[row, "wall clock time (hours)"] = Cell(**text("wall clock time (hours)"), why=_HOURS)
        cells[row, "speed-up"] = Cell(**text("speed-up"), why=NO_TIMES)
        cells |= _costs(row, method, grid, text("saving FLOPs"))
        cells |= _losses(row, method, grid, text("loss"), printed.difference(row))
        cells[row, "GPT4All"] = Cell(**text("GPT4All"), why=FULL_SIZE)
    here = cells["EST", "saving FLOPs"].ours_text
    note = (
        "Our Llamas are trained by the shares of GPT-2's schedule, the paper's by TinyLlama's own. On GPT-2 they save "
        f"26.7 %, here {f'{here} %' if here else 'less'}: heads share keys and values, and these are computed whole."
    )
    return Table(
        title="Main results on TinyLlama",
        locus=f"{PAPER}, Table 4",
        heading="method",
        cells=cells,
        notes=(SEEDS_NOTE, small_note(grid), note),
    )


def table5(data: DataFolder) -> Table:
    """The trace of the loss Hessian: of `reproduce` at the end of training, of `flatness` at equal loss."""
    rows, printed, cells = data.find("reproduce"), PrintedTable(data.published, "EST", "5"), {}
    trace = "Hessian trace"
    for row, method in {"Original": "full", "EST": "est"}.items():
        cells[row, "loss"] = measured(rows, partial(final_mean, method=method), **printed.at(row, "loss"))
        cells[row, "GLUE"] = Cell(**printed.at(row, "GLUE"), why=FULL_SIZE)
        found = partial(final_mean, method=method, metric="hessian_trace")
        cells[row, trace] = measured(rows, found, **printed.at(row, trace), form=".0f")
    values = [data.published.value("EST", "5", row, trace) for row in ("EST", "Original")]
    ratio = {"published": f"{values[0] / values[1]:.2f}", "form": ".2f"}
    cells["EST / Original", trace] = measured(rows, lambda frame: _ratio(flatness(frame)), **ratio)
    along = data.find("flatness")
    rates = {"full": "each at its best rate", "full/est-rate": "at one learning rate, as in the paper"}
    for (corpus, name), (theirs, rate) in product(CORPORA.items(), rates.items()):
        check = partial(at_equal_loss, corpus=corpus, ours="est", theirs=theirs)
        row = f"EST / Original at equal loss, {rate}, {name} (ours)"
        cells[row, trace] = measured(along, lambda frame, check=check: _ratio(check(frame)), form=".2f")
    return Table(
        title="Trace of the loss Hessian with respect to all parameters",
        locus=f"{PAPER}, Table 5",
        heading="model",
        cells=cells,
        notes=(
            SEEDS_NOTE,
            RATIO_NOTE.format(what="ratios"),
            "The paper's ratio is that of its two traces. A trace says something only at almost equal losses, and "
            "depends on the scale of the weights; the paper does not say how it estimated its own.",
        ),
    )


def _ratio(logarithm: Measured) -> Measured:
    """A ratio of traces from its logarithm, as claims measure it."""
    interval = None if logarithm.interval is None else (exp(logarithm.interval[0]), exp(logarithm.interval[1]))
    return replace(logarithm, effect=exp(logarithm.effect), interval=interval, unit="")
