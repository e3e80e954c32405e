"""`est audit`: the numbers EST prints beside the same ones recomputed."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Json
from est_analysis.committed import DATA
from est_analysis.errors import InputError

_PUBLISHED = DATA / "published.csv"


def audit(
    published: Annotated[Path, typer.Option(help="File of published values.", show_default=False)] = _PUBLISHED,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_json: Json = False,
) -> None:
    """EST's own numbers: each that can be recomputed from what the paper says, and whether it agrees."""
    from est_analysis.claims.audit import audit as findings_of
    from est_analysis.claims.audit import read_book
    from est_analysis.report.audit_table import markdown as as_markdown

    if markdown and as_json:
        raise InputError("--markdown and --json exclude each other: give one")
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
    elif markdown:
        print(as_markdown(findings))
    else:
        _print_findings(findings)


def _print_findings(findings) -> None:
    from est_analysis.report.audit_table import COLUMNS, agreement, row

    table = Table(title="EST (arXiv 2406.06962) recomputed from what it prints", title_justify="left")
    for heading in COLUMNS:
        numbers = heading in ("printed", "recomputed")
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=heading == "printed")
    for found in findings:
        table.add_row(*row(found, no="[bold red]no[/bold red]"))
    console = Console()
    console.print(table)
    console.print(agreement(findings), highlight=False)
