"""`est run` and `est reproduce`: a recipe from nothing to a report with verdicts."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Corpus, Json, Runs


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
    name: str, scale_name: str, *, seeds: int | None, corpus: str, workers: int, runs: Path, out: Path, command: str,
    as_json: bool,
) -> None:  # fmt: skip
    from est_analysis.experiments.recipes import find_recipe
    from est_analysis.experiments.run import num_parameters
    from est_analysis.experiments.store import environment
    from est_analysis.experiments.sweep import Sweep, run_all
    from est_analysis.report.build import build_report

    recipe = find_recipe(name)
    scale = recipe.scale(scale_name)
    specs = recipe.specs(scale, corpus=corpus, seeds=seeds)
    workers = workers or (1 if scale.device.startswith("cuda") else 2)
    start = time.monotonic()
    size = num_parameters(specs[0])  # tokenizes: a bad corpus is refused before anything is announced
    if not as_json:
        Console(stderr=True).print(
            f"{recipe.name}, {scale_name} scale: {len(specs)} runs of {scale.steps} steps, {workers} at once "
            f"({scale.cost})",
            highlight=False,
        )
    frame = run_all(Sweep(specs=specs, scale=scale, root=runs, workers=workers))
    tokens = scale.steps * scale.batch_size * scale.seq_len
    context = {
        "scale": scale_name,
        "recipe": recipe.name,
        "recipe_version": recipe.version,
        "corpus": corpus,
        "num_parameters": size,
        "tokens_per_run": tokens,
        "tokens_per_parameter": tokens / size,
        "seeds": sorted({spec.seed for spec in specs}),
        "environment": environment(),
        "wall_seconds": time.monotonic() - start,
        "command": command,
    }
    page = build_report(frame, context, out)
    _print_verdicts(page, context, as_json=as_json)


def _print_verdicts(page: Path, context: dict, *, as_json: bool) -> None:
    import pandas as pd

    claims = pd.read_csv(page.parent / "claims.csv")
    if as_json:
        verdicts = json.loads(claims.to_json(orient="records"))
        print(json.dumps({"report": str(page), **context, "claims": verdicts}, indent=1))
        return
    table = Table()
    table.add_column("claim", overflow="fold", min_width=24)
    for heading in ("verdict", "measured", "95 % interval"):
        table.add_column(heading)
    for row in claims.itertuples():
        interval = "" if pd.isna(row.low) else f"{row.low:.4g} to {row.high:.4g}"
        measured = "" if pd.isna(row.effect) else f"{row.effect:.4g} {row.unit}"
        table.add_row(row.id, row.verdict, measured, interval)
    console = Console()
    console.print(table)
    console.print(f"{context['wall_seconds']:.0f} s. Report: {page}", highlight=False, soft_wrap=True)
