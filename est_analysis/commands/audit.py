"""`est audit`: the numbers EST prints beside the same ones recomputed."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Json
from est_analysis.committed import DATA

_PUBLISHED = DATA / "published.csv"


def audit(
    published: Annotated[Path, typer.Option(help="File of published values.", show_default=False)] = _PUBLISHED,
    as_json: Json = False,
) -> None:
    """EST's own numbers: each that can be recomputed from what the paper says, and whether it agrees."""
    from est_analysis.claims.audit import audit as findings_of
    from est_analysis.claims.audit import read_book

    findings = findings_of(read_book(published))
    if as_json:
        records = [
            {
                "locus": found.locus,
                "row": found.row,
                "column": found.column,
                "printed": found.printed.text,
                "recomputed": {"low": found.recomputed.low, "high": found.recomputed.high},
                "agrees": found.agrees,
                "how": found.how,
            }
            for found in findings
        ]
        print(json.dumps({"paper": "EST", "numbers": records}, indent=1))
    else:
        _print_findings(findings)


def _print_findings(findings) -> None:
    table = Table(title="EST (arXiv 2406.06962) recomputed from what it prints", title_justify="left")
    for heading in ("where", "what", "of"):
        table.add_column(heading)
    table.add_column("printed", justify="right", no_wrap=True)
    table.add_column("recomputed", justify="right")
    table.add_column("agrees")
    table.add_column("from")
    for found in findings:
        ends = dict.fromkeys(found.printed.written_like_it(end) for end in vars(found.recomputed).values())
        agrees = "yes" if found.agrees else "[bold red]no[/bold red]"
        row = (found.locus, found.column, found.row, found.printed.text, " to ".join(ends), agrees, found.how)
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(
        f"{sum(found.agrees for found in findings)} of {len(findings)} agree: some number that rounds to the printed "
        "one is within what the paper's own settings and rounded numbers allow.",
        highlight=False,
    )
