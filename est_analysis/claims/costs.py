"""What the papers say of costs and times beside their savings: of all FLOPs, of a module, of larger micro-batches.

Exact: they follow from schedules, sizes and printed times. Their regions are the papers' printed numbers or directions.
They were added after the other claims, when the registry was checked against the papers' text.
"""

from functools import partial
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

from est_analysis.errors import InputError

from .analytic import exact_claim
from .claim import Claim, Measured, NotMeasured

if TYPE_CHECKING:
    from .book import Book

_MODELS = {"gpt2": "GPT-2", "tinyllama": "TinyLlama"}


def _exact(low: float, high: float, unit: str, detail: str) -> Measured:
    return Measured(effect=(low + high) / 2, interval=(low, high), unit=unit, seeds=0, detail=detail)


def _countings(model: str) -> list[Any]:
    from est_analysis.subnet.cost import countings, find_architecture

    return countings(find_architecture(model))


def _printed(book: "Book", table: str, row: str, column: str) -> Any:
    """A printed number, whose absence is no measurement."""
    try:
        return book.find(table, row, column)
    except InputError as missing:
        raise NotMeasured(str(missing)) from missing


def total_saving(evidence: Any, *, schedule: str, model: str) -> Measured:
    """Share of all matrix-product FLOPs that a schedule saves, the LM head included, over the ways to count."""
    from est_analysis.subnet.cost import schedule_cost
    from est_analysis.subnet.schedule import find_schedule

    costs = [schedule_cost(find_schedule(schedule), sizes) for sizes in _countings(model)]
    saved = [100 * cost.true_saving for cost in costs]
    detail = f"{100 * costs[0].paper_saving:.1f} % of the layers alone; with all, half and no attention scores counted"
    return _exact(min(saved), max(saved), "%", detail)


def room_for_speed_up(evidence: Any, *, schedule: str, model: str, table: str) -> Measured:
    """Speed-up that all FLOPs allow minus the printed one, over the ways to count and the printed one's rounding."""
    from est_analysis.subnet.cost import schedule_cost
    from est_analysis.subnet.schedule import find_schedule

    allowed = [schedule_cost(find_schedule(schedule), sizes).ideal_speedup for sizes in _countings(model)]
    printed = _printed(evidence, table, "EST", "speed-up")
    low, high = min(allowed) - printed.rounded.high, max(allowed) - printed.rounded.low
    detail = f"printed {printed.text}; all FLOPs allow {min(allowed):.3f}x to {max(allowed):.3f}x"
    return _exact(low, high, "x of the full model's speed", detail)


def half_the_heads(evidence: Any, *, model: str) -> Measured:
    """Cost of attention with half of the query heads over that with all, over the ways to count and to sample."""
    shares = []
    for sizes in _countings(model):
        heads, groups = sizes.num_heads, sizes.num_kv_heads
        readings = (None, groups / 2) if sizes.grouped else (None,)
        shares += [sizes.attention_flops(heads / 2, read) / sizes.attention_flops(heads) for read in readings]
    detail = "every head has its own keys and values"
    if len(shares) > 3:
        detail = "heads share keys and values: a half if those of half of the groups are left out, more if all are kept"
    return _exact(min(shares), max(shares), "of the cost of all heads", detail)


def saving_above(evidence: Any, *, schedule: str, other: str, model: str) -> Measured:
    """Layer FLOPs that one schedule saves minus what another does, in percentage points, over the ways to count."""
    from est_analysis.subnet.cost import schedule_cost
    from est_analysis.subnet.schedule import find_schedule

    plans = [find_schedule(name) for name in (schedule, other)]
    saved = [[100 * schedule_cost(plan, sizes).paper_saving for plan in plans] for sizes in _countings(model)]
    gaps = [one - two for one, two in saved]
    detail = f"{saved[0][0]:.1f} % against {min(two for _, two in saved):.1f} to {max(two for _, two in saved):.1f} %"
    return _exact(min(gaps), max(gaps), "percentage points", detail)


def _module_speed_ups(book: "Book", table: str, module: str) -> list[tuple[str, Any]]:
    """(micro-batch, full over EST's GPU time with its rounding) in the order of the table."""
    rows = f"GPU time (ms) of {module}", f"GPU time (ms) of EST {module}"
    columns = [entry.column for entry in book.entries if (entry.table, entry.row) == (table, rows[0])]
    if len(columns) < 2:
        raise NotMeasured(f"no printed times of {module} in Table {table}")
    pairs = [[_printed(book, table, row, column).rounded for row in rows] for column in columns]
    return [(column, full / sampled) for column, (full, sampled) in zip(columns, pairs, strict=True)]


def growth_with_micro_batch(evidence: Any, *, table: str, module: str) -> Measured:
    """Smallest step of the printed GPU speed-up of a module from one micro-batch to the next, with its rounding."""
    found = _module_speed_ups(evidence, table, module)
    steps = [(after.low - before.high, after.high - before.low) for (_, before), (_, after) in pairwise(found)]
    low, high = min(steps)
    each = ", ".join(f"{(one.low + one.high) / 2:.3f} at {column.rpartition(' ')[2]}" for column, one in found)
    return _exact(low, high, "x from one to the next", f"printed times give {each}")


_STEP_TIMES = {"8": ("GPT-2", "gpt2-est"), "9": ("TinyLlama", "tinyllama-est")}


def slowest_step(evidence: Any) -> Measured:
    """The least speed-up of a training step, a schedule's stages together, over the micro-batches of both tables."""
    from est_analysis.subnet.schedule import find_schedule

    from .audit import step_speed_up

    found = {
        f"{model} {entry.column.rpartition(' ')[2]}": step_speed_up(
            evidence, table, entry.column, find_schedule(schedule)
        )
        for table, (model, schedule) in _STEP_TIMES.items()
        for entry in evidence.entries
        if entry.table == table and entry.row.endswith("stage 1 training step")
    }
    if not found:
        raise NotMeasured("no printed step times in Tables 8 and 9")
    least = min(found.values(), key=lambda speed_up: speed_up.low)
    each = ", ".join(f"{name} {(one.low + one.high) / 2:.3f}" for name, one in found.items())
    return _exact(least.low, least.high, "x", f"by micro-batch: {each}")


def _of_model(model: str, schedule: str, printed: float, tables: tuple[str, str]) -> list[Claim]:
    name, main, times = _MODELS[model], *tables
    flops, audit = f"est flops {schedule} --model {model}", "est audit"
    return [
        exact_claim(
            f"est.costs.total-{model}",
            f"Section 4, {main} ('{printed:g} % of training FLOPs'); the counting is eqs. 8-10, without the LM head",
            f"EST saves {printed:g} % of all FLOPs of training {name}, the LM head included.",
            f"the saving of all matrix-product FLOPs rounds to {printed:g} %",
            (printed - 0.05, printed + 0.05),
            partial(total_saving, schedule=schedule, model=model),
            by_hand=flops,
        ),
        exact_claim(
            f"est.costs.speed-up-possible-{model}",
            f"{main} (1.22x)",
            f"{name}'s printed speed-up is no more than its FLOPs allow, the LM head included.",
            "speed-up that all FLOPs allow minus the printed one, above 0",
            (0.0, inf),
            partial(room_for_speed_up, schedule=schedule, model=model, table=main.removeprefix("Table ")),
            by_hand=flops,
        ),
        exact_claim(
            f"est.costs.half-the-heads-{model}",
            "Section 3.2 (the cost of the MHA module is reduced to a fraction p_H)",
            f"With half of the query heads of {name} the attention module costs half.",
            "cost with half of the heads over that with all, between 0.495 and 0.505",
            (0.495, 0.505),
            partial(half_the_heads, model=model),
            by_hand=flops,
        ),
        exact_claim(
            f"est.costs.micro-batch-{model}",
            f"Appendix A.3, {times} (as the batch size increases the speed-up does)",
            f"The GPU speed-up of {name}'s layers grows with the micro-batch.",
            "smallest step of the printed speed-up from one micro-batch to the next, above 0",
            (0.0, inf),
            partial(growth_with_micro_batch, table=times.removeprefix("Table "), module="Transformer layer"),
            by_hand=audit,
        ),
    ]


_CLAIMS = (
    *_of_model("gpt2", "gpt2-est", 26.7, ("Table 2", "Table 8")),
    *_of_model("tinyllama", "tinyllama-est", 25.0, ("Table 4", "Table 9")),
    exact_claim(
        "est.costs.above-msg",
        "Section 4.1, Table 2 (higher acceleration than MSG: 26.7 against 24.4 %)",
        "EST saves more layer FLOPs on GPT-2 than Masked Structural Growth in the stages that EST gave it.",
        "difference of the savings by eqs. 8-10, above 0 percentage points",
        (0.0, inf),
        partial(saving_above, schedule="gpt2-est", other="gpt2-msg", model="gpt2"),
        by_hand="est flops gpt2-msg --model gpt2",
    ),
    exact_claim(
        "est.costs.every-micro-batch",
        "ours: follows from Tables 8, 9, whose steps the paper does not sum up",
        "At every micro-batch that is printed EST trains faster than the full model.",
        "the least speed-up of a step, the stages of the model's schedule together, above 1",
        (1.0, inf),
        slowest_step,
        by_hand="est audit",
    ),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
GROUPS = {"est.costs": "What EST says of costs and times beside its savings."}
