"""`est flops`: what a schedule costs, in the paper's convention and in the true one."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Family, Json
from est_analysis.commands.sizes import Sizes, find_sizes
from est_analysis.errors import unknown_name


def flops(
    schedule: Annotated[
        str,
        typer.Argument(help="A schedule ('list' shows them), a method, or END:HEADS,MLP,LAYERS;... of your own."),
    ],
    model: Annotated[str, typer.Option(help="gpt2, tinyllama, bert-base, ... or one of our presets.")] = "",
    family: Family = "",
    seq_len: Annotated[int, typer.Option(help="Tokens a sequence; the model's own unless given.")] = 0,
    attention: Annotated[str, typer.Option(help="full counts all attention scores, causal half of them.")] = "full",
    head_sampling: Annotated[
        str, typer.Option(help="within_groups keeps shared keys and values, whole_groups samples them.")
    ] = "within_groups",
    as_json: Json = False,
) -> None:
    """Cost of a schedule, or of a method with its own: what the paper counts (layers only), and what a clock sees."""
    from est_analysis.methods import METHODS
    from est_analysis.methods.cost import default_cost
    from est_analysis.subnet.cost import schedule_cost
    from est_analysis.subnet.schedule import SCHEDULES, find_schedule

    if schedule == "list":
        _print_schedules(as_json=as_json)
        return
    if schedule not in SCHEDULES and schedule not in METHODS and ":" not in schedule:
        raise unknown_name("schedule or method", schedule, {*SCHEDULES, *METHODS})
    method = schedule if schedule in METHODS else ""
    schedule = METHODS[method].default_schedule if method else schedule
    sizes = find_sizes(
        model, family, suited=_suited(schedule), seq_len=seq_len, attention=attention, head_sampling=head_sampling
    )
    if method:
        plan, cost = default_cost(method, sizes.architecture)
    else:
        plan = find_schedule(schedule)
        cost = schedule_cost(plan, sizes.architecture)
    record = {"method": method, **_record(plan, sizes, cost)}
    if as_json:
        print(json.dumps(record, indent=1))
    else:
        _print_cost(plan, sizes.label, record)


def _suited(schedule: str) -> str:
    """The model a schedule was published for. UL2-1.6B's widths could not be read; BERT-large has its 24 layers."""
    prefixes = {"tinyllama": "tinyllama", "bert": "bert-base", "ul2": "bert-large"}
    return next((model for prefix, model in prefixes.items() if schedule.startswith(prefix)), "gpt2")


def _record(plan, sizes: Sizes, cost) -> dict[str, Any]:
    def saved(value: float, full: float) -> float:
        return 100 * (1 - value / full)

    stages = [
        {
            "steps": stage.steps,
            "rates": asdict(stage.rates),
            "paper_saving": saved(stage.paper, cost.full.paper),
            "true_saving": saved(stage.true, cost.full.true),
            "ideal_speedup": cost.full.true / stage.true,
        }
        for stage in cost.stages
    ]
    return {
        "schedule": plan.name,
        "source": plan.source,
        "model": sizes.model,
        "family": sizes.family,
        "architecture": asdict(sizes.architecture),
        "stages": stages,
        "total_steps": cost.total_steps,
        "paper_saving": 100 * cost.paper_saving,
        "true_saving": 100 * cost.true_saving,
        "ideal_speedup": cost.ideal_speedup,
        "paper_speedup": 1 / (1 - cost.paper_saving),
        "head_share": 100 * sizes.architecture.head_flops / cost.full.true,
    }


def _print_cost(plan, label: str, record: dict[str, Any]) -> None:
    sizes = record["architecture"]
    what = f"{record['method']}, with {plan.name}," if record["method"] else plan.name
    table = Table(title=f"{what} on {label}", title_justify="left")
    for heading in ("stage", "share of steps", "p_H", "p_M", "p_L", "paper saves", "truly saves", "ideal speed-up"):
        table.add_column(heading, justify="right")
    total = record["total_steps"]
    for number, stage in enumerate(record["stages"], start=1):
        rates = [f"{stage['rates'][axis]:.3g}" for axis in ("heads", "mlp", "layers")]
        savings = [f"{stage['paper_saving']:.1f} %", f"{stage['true_saving']:.1f} %", f"{stage['ideal_speedup']:.3f}x"]
        table.add_row(str(number), f"{100 * stage['steps'] / total:.1f} %", *rates, *savings)
    table.add_section()
    totals = [f"{record['paper_saving']:.1f} %", f"{record['true_saving']:.1f} %", f"{record['ideal_speedup']:.3f}x"]
    trained = sum(stage["steps"] for stage in record["stages"]) / total
    table.add_row("total", f"{100 * trained:.3g} %", "", "", "", *totals)
    console = Console()
    console.print(table)
    console.print(f"Schedule: {plan.source}.", highlight=False)
    console.print(
        f"The paper counts layers only ({record['paper_speedup']:.2f}x if time followed). Truly: attention scores "
        f"({sizes['attention']}) at {sizes['seq_len']} tokens and the LM head ({record['head_share']:.1f} % of the "
        f"full model, vocabulary {sizes['vocab_size']}) are counted too.",
        highlight=False,
    )


def _print_schedules(*, as_json: bool) -> None:
    from est_analysis.subnet.schedule import SCHEDULES

    if as_json:
        print(
            json.dumps(
                {
                    name: {
                        "source": plan.source,
                        "spans": [{"steps": steps, "rates": asdict(rates)} for steps, rates in plan.spans],
                    }
                    for name, plan in SCHEDULES.items()
                },
                indent=1,
            )
        )
        return
    table = Table()
    for heading in ("schedule", "stages as (heads, MLP, layers) and share of steps", "source"):
        table.add_column(heading)
    for name, plan in SCHEDULES.items():
        stages = [f"({r.heads:.3g}, {r.mlp:.3g}, {r.layers:.3g}) {s / plan.total_steps:.0%}" for s, r in plan.spans]
        table.add_row(name, "  ".join(stages), plan.source)
    Console().print(table)
