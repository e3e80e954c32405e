"""How `est claims --run` shows a run."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from est_analysis.committed.records import NOT_KEPT, RunRecord


def print_run(run: RunRecord, *, as_json: bool) -> None:
    """Print how `run` was made, as a list of facts or as JSON."""
    if as_json:
        print(json.dumps(vars(run), indent=1))
        return
    facts = {"run": run.run_id, "kind": run.kind, **_flat(run.spec), "data": run.data_hash or "as the spec says"}
    facts |= _flat({"environment": run.environment or NOT_KEPT})
    facts["checked"] = "this spec on this data has this run_id"
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    Console().print(table)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{name}.")
        else:
            found[above + name] = value if isinstance(value, str) and value else json.dumps(value)
    return found
