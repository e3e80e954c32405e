"""EST's Tables 8 and 9: milliseconds of modules and of training steps by micro-batch, and the speed-ups they give."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pandas as pd

from est_analysis.claims import Measured, NotMeasured
from est_analysis.subnet.schedule import find_schedule

from .cells import PrintedTable
from .data import DataFolder, Rows
from .est_tables import PAPER
from .published import Published
from .table import Cell, Table, measured

MODULES = {"MHA": "attention", "MLP": "mlp", "Transformer layer": "layer"}
STAGES = {"stage 1": "stage 1", "stage 2": "stage 2", "stage 3 (original)": "full"}
# What is timed, by its row in the paper: part of the model and what of it is active.
TIMED = {
    **{f"GPU time (ms) of {who}{name}": (part, active)
       for name, part in MODULES.items() for who, active in (("", "full"), ("EST ", "stage 2"))},
    **{f"total time (ms) of {name} training step": ("step", active) for name, active in STAGES.items()},
}  # fmt: skip
_FULL_STEP = "total time (ms) of stage 3 (original) training step"
# Quotients that the paper speaks of: row over row.
QUOTIENTS = {
    **{f"speed-up of {name}": (f"GPU time (ms) of {name}", f"GPU time (ms) of EST {name}") for name in MODULES},
    **{f"speed-up of {stage}": (_FULL_STEP, f"total time (ms) of {stage} training step") for stage in list(STAGES)[:2]},
}
PRESETS = {"gpt2": "gpt2", "llama": "tinyllama"}
WHOLE = "speed-up of the whole schedule"


def table8(data: DataFolder) -> Table:
    """GPT-2, 1024 tokens an example."""
    return _table(data, "8", "gpt2", title="Wall time of GPT-2", schedule="gpt2-est")


def table9(data: DataFolder) -> Table:
    """TinyLlama, 2048 tokens an example."""
    return _table(data, "9", "llama", title="Wall time of TinyLlama", schedule="tinyllama-est")


def median_ms(frame: pd.DataFrame, *, part: str, active: str, micro_batch: int, mode: str = "eager") -> Measured:
    """The median over rounds of one time, with the range over rounds as its interval."""
    chosen = frame[
        (frame["part"] == part)
        & (frame["active"] == active)
        & (frame["micro_batch"] == micro_batch)
        & (frame["mode"] == mode)
    ]["milliseconds"]
    if chosen.empty:
        raise NotMeasured(f"not timed at a micro-batch of {micro_batch}")
    bounds = (float(chosen.min()), float(chosen.max()))
    return Measured(effect=float(chosen.median()), interval=bounds, unit="ms", seeds=len(chosen))


def quotient(frame: pd.DataFrame, *, over: str, under: str, micro_batch: int, mode: str = "eager") -> Measured:
    """How many times longer the row `over` takes than the row `under`, by their medians."""
    find = partial(_timed, frame, micro_batch=micro_batch, mode=mode)
    return Measured(effect=find(over) / find(under), interval=None, unit="x", seeds=0)


def whole_schedule(frame: pd.DataFrame, *, schedule: str, micro_batch: int, mode: str = "eager") -> Measured:
    """How many times faster all steps of `schedule` are than as many of the full model, by the medians."""
    find = partial(_timed, frame, micro_batch=micro_batch, mode=mode)
    times = [find(f"total time (ms) of {name} training step") for name in STAGES]
    return Measured(effect=_speed_up(times, schedule), interval=None, unit="x", seeds=0)


def _timed(frame: pd.DataFrame, row: str, *, micro_batch: int, mode: str) -> float:
    part, active = TIMED[row]
    return median_ms(frame, part=part, active=active, micro_batch=micro_batch, mode=mode).effect


def _speed_up(stages: list[float], schedule: str) -> float:
    spans = find_schedule(schedule).spans
    spent = sum(steps * time for (steps, _), time in zip(spans, stages, strict=True))
    return stages[-1] * sum(steps for steps, _ in spans) / spent


def _table(data: DataFolder, table: str, family: str, *, title: str, schedule: str) -> Table:
    rows, published = _of_family(data.find("step-times"), family), data.published
    printed = PrintedTable(published, "EST", table)
    modes = (
        sorted(rows.frame["mode"].unique(), key=["eager", "compiled"].index) if rows.frame is not None else ["eager"]
    )
    cells: dict[tuple[str, str], Cell] = {}
    for mode in modes:
        suffix = "" if mode == "eager" else f", {mode} (ours)"
        for column in published.columns("EST", table):
            at = {"micro_batch": int(column.rpartition(" ")[2]), "mode": mode}
            for row, (check, text) in _asked(published, table, column, schedule).items():
                shown = {} if suffix else printed.at(row, column) if row in TIMED else {"published": text}
                form = ".2f"
                cells[row + suffix, column] = measured(rows, partial(check, **at), **shown, form=form)
    device = "" if rows.frame is None else f" Ours on {', '.join(sorted(rows.frame['device'].unique()))}."
    note = (
        "Times of modules are of their forward pass, of steps of forward, backward and optimizer; the speed-ups are "
        "quotients of the rows above, the paper's of its printed numbers. Published times are of an A100 80GB." + device
    )
    ours = "Ours: medians over rounds with their range."
    notes = (note,) if rows.frame is None else (note, ours)
    ordered = {
        key: cells[key] for key in sorted(cells, key=lambda key: list(dict.fromkeys(r for r, _ in cells)).index(key[0]))
    }
    return Table(title=title, locus=f"{PAPER}, Table {table}", heading="time", cells=ordered, notes=notes)


def _asked(
    published: Published, table: str, column: str, schedule: str
) -> Mapping[str, tuple[Callable[..., Measured], str]]:
    """Every row: what finds ours, and the text of a quotient of printed numbers."""

    def value(row: str) -> float:
        return published.value("EST", table, row, column)

    found: dict[str, tuple[Callable[..., Measured], str]] = {
        row: (partial(median_ms, part=part, active=active), "") for row, (part, active) in TIMED.items()
    }
    for row, (over, under) in QUOTIENTS.items():
        found[row] = (partial(quotient, over=over, under=under), f"{value(over) / value(under):.2f}")
    whole = _speed_up([value(f"total time (ms) of {name} training step") for name in STAGES], schedule)
    return found | {WHOLE: (partial(whole_schedule, schedule=schedule), f"{whole:.2f}")}


def _of_family(rows: Rows, family: str) -> Rows:
    """The times of the paper's own model of `family`, of one device."""
    nothing = Rows(source=rows.source, scale="", frame=None, missing=f"this needs a GPU: {rows.missing}")
    if rows.frame is None:
        return nothing
    chosen = rows.frame[(rows.frame["family"] == family) & (rows.frame["preset"] == PRESETS[family])]
    if chosen.empty:
        return replace(nothing, missing=f"no times of '{PRESETS[family]}' in the file of step times")
    if chosen["device"].nunique() > 1:
        return replace(nothing, missing="the file of step times holds several devices: keep one")
    return Rows(source="benchmarks/est_tables_8_9.py", scale="", frame=chosen)
