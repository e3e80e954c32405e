"""The numbers that EST prints (arXiv 2406.06962), recomputed from the settings and the other numbers that it prints.

Only what follows by arithmetic is here: savings from schedules (eqs. 8-10), speed-ups from hours and from step times,
means of scores, tokens, parameters. A recomputed number is an interval, since what it is made of is itself rounded, or
since a saving depends on how attention is counted, which the paper does not say. It agrees if it meets the interval of
all numbers that round to the printed one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from est_analysis.errors import InputError
from est_analysis.models.families import FAMILIES
from est_analysis.subnet.cost import Architecture, countings, dense_architecture, find_architecture, schedule_cost
from est_analysis.subnet.schedule import Schedule, find_schedule

from .book import Book, Entry, Interval, Printed, read_book

__all__ = ["Book", "Entry", "Finding", "Interval", "Printed", "audit", "read_book"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A printed number beside ours."""

    locus: str
    row: str
    column: str
    printed: Printed
    recomputed: Interval
    how: str

    @property
    def agrees(self) -> bool:
        """Whether ours may be the one that was printed."""
        return self.recomputed.meets(self.printed.rounded)


def audit(book: Book) -> list[Finding]:
    """Every number of `book` that can be recomputed, in its order, once for each way to do so."""
    return [
        Finding(
            locus=entry.locus,
            row=entry.row,
            column=entry.column,
            printed=Printed(text=entry.value),
            recomputed=recomputed,
            how=how,
        )
        for entry in book.entries
        if entry.column in _RECIPES
        for recomputed, how in _RECIPES[entry.column](entry, book)
    ]


# Savings --------------------------------------------------------------------------------------------------------------

Recomputed = Iterator[tuple[Interval, str]]

_SCHEDULES = {
    "EST": "gpt2-est",
    "EST on GPT2": "gpt2-est",
    "EST on TinyLlama": "tinyllama-est",
    **{f"EST-{name}": f"gpt2-{name.lower()}" for name in ("ONE-STAGE", "THREE-STAGE")},
    **{f"EST-TWO-STAGE-{letter}": f"gpt2-two-stage-{letter.lower()}" for letter in "ABC"},
    "MSG": "gpt2-msg",
}
_OTHER_SCHEDULES = {"section 3.3": "table1", "4": "tinyllama-est", "7": "tinyllama-est"}  # of rows called EST


def _schedule(entry: Entry) -> tuple[Schedule, Architecture] | None:
    """What a row trained, on which model; None for rows without a schedule of subnetworks."""
    if entry.row not in _SCHEDULES:
        return None
    name = _OTHER_SCHEDULES.get(entry.table, "gpt2-est") if entry.row == "EST" else _SCHEDULES[entry.row]
    return find_schedule(name), find_architecture("tinyllama" if name.startswith("tinyllama") else "gpt2")


def _range(values: Iterable[float]) -> Interval:
    found = list(values)
    return Interval(low=min(found), high=max(found))


def _saving(entry: Entry, book: Book) -> Recomputed:
    if entry.row == "Staged Training":
        steps = book.find("section 4.1", entry.row, "steps of stage 1")
        yield (
            _staged_saving(book),
            f"half the width for {steps.text} steps; with all to no attention scores",
        )
    found = _schedule(entry)
    if found:
        plan, architecture = found
        savings = _range(100 * schedule_cost(plan, sizes).paper_saving for sizes in countings(architecture))
        if entry.row == "MSG":
            yield savings, "eqs. 8-10, stages of section 4.1; with all to no attention scores"
        else:
            yield savings, f"eqs. 8-10 with {plan.name}"


def _staged_saving(book: Book) -> Interval:
    """Half the hidden size until the transition: heads and MLP columns halve with it, and so do all their inputs."""
    whole = find_architecture("gpt2")
    half = dense_architecture(
        num_layers=whole.num_layers,
        hidden=whole.hidden // 2,
        num_heads=whole.num_heads // 2,
        vocab_size=whole.vocab_size,
        seq_len=whole.seq_len,
    )
    first = book.find("section 4.1", "Staged Training", "steps of stage 1").value
    share = first / book.find("section 4.1", "GPT2", "training steps").value
    pairs = zip(countings(half), countings(whole), strict=True)
    return _range(100 * share * (1 - small.mask_flops(None) / large.mask_flops(None)) for small, large in pairs)


def _table1(entry: Entry, book: Book) -> Recomputed:
    cost = schedule_cost(find_schedule("table1"), find_architecture("gpt2"))
    stages = [stage.paper / cost.full.paper for stage in cost.stages]
    named = {f"Stage {number}": share for number, share in enumerate(stages, start=1)}
    named |= {"Total": sum(stages), "Saving": len(stages) - sum(stages)}
    yield _range([named[entry.row]]), "eqs. 8-10 with table1"


def _stage_speedup(entry: Entry, book: Book) -> Recomputed:
    cost = schedule_cost(find_schedule("table1"), find_architecture("gpt2"))
    stage = cost.stages[int(entry.row.removeprefix("stage ")) - 1]
    yield _range([cost.full.paper / stage.paper]), "eq. 8, the full model over the stage"


# Times ----------------------------------------------------------------------------------------------------------------

_STEP_TIMES = {"2": "8", "4": "9"}  # table of a run's hours -> table of its step times


def _speedup(entry: Entry, book: Book) -> Recomputed:
    if entry.row == "Original":
        return
    hours = [book.find(entry.table, row, "wall clock time (hours)") for row in ("Original", entry.row)]
    yield hours[0].rounded / hours[1].rounded, f"{hours[0].text} h / {hours[1].text} h"
    if entry.row == "EST":
        table = _STEP_TIMES[entry.table]
        sizes = [e.column for e in book.entries if e.table == table and e.row.endswith("stage 1 training step")]
        if not sizes:
            raise InputError(f"no step times in the published table '{table}'; restore the file of published values")
        plan, _ = _schedule(entry)
        speedups = [step_speed_up(book, table, size, plan) for size in sizes]
        biggest = sizes[-1].removeprefix("micro-batch size ")
        yield speedups[-1], f"step times of Table {table} at its largest micro-batch, {biggest}"


def step_speed_up(book: Book, table: str, column: str, plan: Schedule) -> Interval:
    """The full model's step time over the mean of a schedule's, of a table at a micro-batch size."""
    names = ("stage 1", "stage 2", "stage 3 (original)")
    times = [book.find(table, f"total time (ms) of {name} training step", column).rounded for name in names]

    def mean(ends: Sequence[float]) -> float:
        return sum(steps * end for (steps, _), end in zip(plan.spans, ends, strict=True)) / plan.total_steps

    return times[-1] / Interval(low=mean([time.low for time in times]), high=mean([time.high for time in times]))


# Scores, tokens, parameters -------------------------------------------------------------------------------------------


def _mean_of(table: str, columns: int) -> Callable[[Entry, Book], Recomputed]:
    """The mean of a row of single scores, where the row is complete: as many columns as `columns`."""

    def recipe(entry: Entry, book: Book) -> Recomputed:
        cells = [e for e in book.entries if (e.table, e.row) == (table, entry.row) and e.column != "saving FLOPs"]
        if len(cells) < columns:
            return
        scores = [score.rounded for score in book.scores(table, entry.row)]
        mean = Interval(
            low=sum(score.low for score in scores) / len(scores), high=sum(score.high for score in scores) / len(scores)
        )
        yield mean, f"mean of the {len(scores)} scores of Table {table}"

    return recipe


def _same_as(table: str, column: str) -> Callable[[Entry, Book], Recomputed]:
    def recipe(entry: Entry, book: Book) -> Recomputed:
        yield book.find(table, entry.row, column).rounded, f"the {column} of Table {table}"

    return recipe


def _tokens(entry: Entry, book: Book) -> Recomputed:
    parts = [book.find(entry.table, entry.row, name) for name in ("batch size", "sequence length", "training steps")]
    product = parts[0].value * parts[1].value * parts[2].value
    yield _range([product]), " x ".join(part.text for part in parts)


def _parameters(entry: Entry, book: Book) -> Recomputed:
    config = {"GPT2": FAMILIES["gpt2"].presets["gpt2"], "TinyLlama": FAMILIES["llama"].presets["tinyllama"]}[entry.row]
    yield _range([config.num_parameters]), f"a vocabulary of {config.vocab_size}, {config.context_length} positions"


_RECIPES: dict[str, Callable[[Entry, Book], Recomputed]] = {
    "saving FLOPs": _saving,
    "cost of EST (r N_L (C_H + C_M))": _table1,
    "speed-up by FLOPs": _stage_speedup,
    "speed-up": _speedup,
    "average GLUE": _mean_of("6", 8),
    "GPT4All": _mean_of("7", 7),
    "GLUE": _same_as("3", "average GLUE"),
    "tokens": _tokens,
    "parameters": _parameters,
}
