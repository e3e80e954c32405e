"""`est methods`: every training method there is, its card, its options, and what it costs on a model."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from est_analysis.commands.options import Family, Json
from est_analysis.commands.sizes import find_sizes
from est_analysis.errors import InputError


def methods(
    model: Annotated[str, typer.Option(help="gpt2, tinyllama, bert-base, ... or one of our presets.")] = "",
    family: Family = "",
    seq_len: Annotated[int, typer.Option(help="Tokens a sequence; the model's own unless given.")] = 0,
    attention: Annotated[str, typer.Option(help="full counts all attention scores, causal half of them.")] = "full",
    as_json: Json = False,
) -> None:
    """Every method: what it does, where it comes from, its options, and what it saves on a model."""
    from est_analysis.methods import METHODS

    sizes = find_sizes(model, family, seq_len=seq_len, attention=attention, head_sampling="within_groups")
    records = {name: _record(name, sizes.architecture) for name in METHODS}
    if as_json:
        print(json.dumps({**asdict(sizes), "methods": records}, indent=1))
    else:
        _print_methods(sizes.label, records)


def _record(name: str, architecture) -> dict[str, Any]:
    from est_analysis.methods import METHODS, method_options
    from est_analysis.methods.card import method_card
    from est_analysis.methods.cost import default_cost

    record = {
        **asdict(method_card(METHODS[name])),
        "options": method_options(name),
        "default_schedule": METHODS[name].default_schedule,
        "cost": None,
        "refused": None,
    }
    try:
        _, cost = default_cost(name, architecture)
    except InputError as error:  # not every schedule fits every depth
        return {**record, "refused": str(error)}
    savings = {"paper_saving": 100 * cost.paper_saving, "true_saving": 100 * cost.true_saving}
    return {**record, "cost": {**savings, "ideal_speedup": cost.ideal_speedup}}


def _print_methods(label: str, records: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"Training methods, and what they save on {label}", title_justify="left", show_lines=True)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does", ratio=1)
    for heading in ("layers", "all", "allows"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, record in records.items():
        cost = record["cost"]
        costs = ("", "", "")
        if cost:
            costs = (f"{cost['paper_saving']:.1f} %", f"{cost['true_saving']:.1f} %", f"{cost['ideal_speedup']:.3f}x")
        table.add_row(name, _description(record), *costs)
    console = Console()
    console.print(table)
    console.print(
        "Saved of the FLOPs of the layers, as the papers count, and of all with the LM head; allowed is the speed-up "
        "if time followed all FLOPs. Expectations at the default schedule and options, of the law and not of draws.",
        highlight=False,
    )


def _description(record: dict[str, Any]) -> Text:
    options = ", ".join(f"{option}={default}" for option, default in record["options"].items())
    text = Text(record["summary"])
    text.append(f"\nSource: {record['source']}.\nSchedule: {record['default_schedule']}", style="dim")
    if options:
        text.append(f"\nOptions: {options}", style="dim")
    if record["refused"]:
        text.append(f"\nDoes not fit: {record['refused']}.")
    return text
