"""`est run` and `est reproduce`: a recipe from nothing to a report with verdicts."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Corpus, Json, Runs
from est_analysis.errors import InputError


def run_recipe(
    recipe: Annotated[str, typer.Argument(help="Which result to reproduce, such as 'reproduce'.")],
    scale: Annotated[str, typer.Option(help="smoke, quick, report or gpu.")] = "quick",
    seeds: Annotated[int | None, typer.Option(help="How many seeds; the scale's own unless given.")] = None,
    corpus: Corpus = "python",
    workers: Annotated[int, typer.Option(help="Processes at once; 0: two on a CPU, one on a GPU.")] = 0,
    runs: Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="Folder of the report; reports/RECIPE-SCALE unless given.")] = None,
    as_json: Json = False,
) -> None:
    """Reproduce a result: train what it needs, measure, judge the claims, write a report."""
    folder = out or Path("reports") / f"{recipe}-{scale}"
    command = f"est run {recipe} --scale {scale}" + (f" --seeds {seeds}" if seeds else "")
    _reproduce(
        recipe, scale, seeds=seeds, corpus=corpus, workers=workers, runs=runs, out=folder, command=command,
        as_json=as_json,
    )  # fmt: skip


def reproduce(
    corpus: Corpus = "python",
    scale: Annotated[str, typer.Option(help="smoke, quick, report or gpu.")] = "quick",
    seeds: Annotated[int | None, typer.Option(help="How many seeds; the scale's own unless given.")] = None,
    workers: Annotated[int, typer.Option(help="Processes at once; 0: two on a CPU, one on a GPU.")] = 0,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("reports/reproduce"),
    as_json: Json = False,
) -> None:
    """Baseline, EST and RaPTr on real text, side by side: report.html, figures, tables and verdicts."""
    _reproduce(
        "reproduce", scale, seeds=seeds, corpus=corpus, workers=workers, runs=runs, out=out, command="est reproduce",
        as_json=as_json,
    )  # fmt: skip


def _reproduce(
    name: str, scale: str, *, seeds: int | None, corpus: str, workers: int, runs: Path, out: Path, command: str,
    as_json: bool,
) -> None:  # fmt: skip
    from est_analysis.experiments.store import environment
    from est_analysis.experiments.studies import find_study
    from est_analysis.experiments.study import Request
    from est_analysis.report.build import build_report

    study, console = find_study(name), Console(stderr=True, quiet=as_json)
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds={seeds} must be at least 1")
    start = time.monotonic()
    request = Request(
        scale=scale, corpus=corpus, seeds=seeds, runs=runs, workers=workers,
        say=lambda line: console.print(line, highlight=False),
    )  # fmt: skip
    frame, facts = study.run(request)
    context = {
        "scale": scale,
        "recipe": study.name,
        "recipe_version": study.version,
        **facts,
        "environment": environment(),
        "wall_seconds": time.monotonic() - start,
        "command": command,
    }
    page = build_report(frame, context, out)
    _print_verdicts(page, context, as_json=as_json)


def _print_verdicts(page: Path, context: dict, *, as_json: bool) -> None:
    import pandas as pd

    claims = pd.read_csv(page.parent / "claims.csv").fillna({"unit": "", "detail": ""})
    if as_json:
        verdicts = json.loads(claims.to_json(orient="records"))
        print(json.dumps({"report": str(page), **context, "claims": verdicts}, indent=1))
        return
    table = Table()
    table.add_column("claim", overflow="fold")
    for heading in ("verdict", "measured", "95 % interval"):
        table.add_column(heading, overflow="fold")
    for row in claims.itertuples():
        interval = "" if pd.isna(row.low) else f"{row.low:.4g} to {row.high:.4g}"
        measured = "" if pd.isna(row.effect) else f"{row.effect:.4g} {row.unit}".strip()
        table.add_row(row.id, row.verdict, measured, interval)
    console = Console()
    console.print(table)
    console.print(f"{context['wall_seconds']:.0f} s. Report: {page}", highlight=False, soft_wrap=True)
