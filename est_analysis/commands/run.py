"""`est run` and `est reproduce`: a recipe from nothing to a report with verdicts."""

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Corpus, Json, Runs, Seeds, Workers
from est_analysis.commands.verdicts import Line, print_verdicts

if TYPE_CHECKING:
    import pandas as pd

# As in `experiments.studies`, which loads torch: too slow for --help.
_RECIPES = (
    "reproduce, grid, est-ablations, raptr-ablations, flatness, poly-raptr-vs-pld, transition-smoothness, "
    "stability-vs-depth, first-experiments or sampling-overhead"
)
_SCALES = "smoke (seconds), quick (minutes to an hour), and what else it has of report, rates, report-rates and gpu"


def run_recipe(
    recipe: Annotated[str, typer.Argument(help=f"Which result to reproduce: {_RECIPES}. 'list' describes them.")],
    scale: Annotated[
        str, typer.Option(help=f"One of the recipe's own: {_SCALES}; 'est run list' shows them and what each costs.")
    ] = "quick",
    seeds: Seeds = None,
    corpus: Corpus = "python",
    workers: Workers = 0,
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; reports/RECIPE-SCALE unless given (reports/reproduce).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Reproduce a result: train what it needs, measure, judge the claims, write a report."""
    if recipe == "list":
        _print_recipes(as_json=as_json)
        return
    folder = out or _folder(recipe, scale)
    command = _command(f"est run {recipe}", scale, seeds, corpus)
    _reproduce(
        recipe, scale, seeds=seeds, corpus=corpus, workers=workers, runs=runs, out=folder, command=command,
        as_json=as_json,
    )  # fmt: skip


def _folder(recipe: str, scale: str) -> Path:
    """Where the report goes; that of the main job has the shortest name."""
    return Path("reports") / ("reproduce" if (recipe, scale) == ("reproduce", "quick") else f"{recipe}-{scale}")


def _command(start: str, scale: str, seeds: int | None, corpus: str) -> str:
    """What to type for the same numbers again."""
    given = [f"--scale {scale}" * (scale != "quick"), f"--seeds {seeds}" * bool(seeds)]
    return " ".join([start, *filter(None, [*given, f"--corpus {shlex.quote(corpus)}" * (corpus != "python")])])


def reproduce(
    corpus: Corpus = "python",
    scale: Annotated[str, typer.Option(help="smoke, rates, quick, report-rates, report or gpu.")] = "quick",
    seeds: Seeds = None,
    workers: Workers = 0,
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; reports/reproduce, and -SCALE but for quick.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Baseline, EST and RaPTr on real text, side by side: report.html, figures, tables and verdicts."""
    folder = out or _folder("reproduce", scale)
    command = _command("est reproduce", scale, seeds, corpus)
    _reproduce(
        "reproduce", scale, seeds=seeds, corpus=corpus, workers=workers, runs=runs, out=folder, command=command,
        as_json=as_json,
    )  # fmt: skip


def _reproduce(
    name: str, scale: str, *, seeds: int | None, corpus: str, workers: int, runs: Path, out: Path, command: str,
    as_json: bool,
) -> None:  # fmt: skip
    from est_analysis.experiments.runs.store import environment
    from est_analysis.experiments.studies import find_study
    from est_analysis.experiments.study import Request
    from est_analysis.report.build import build_report, check_folder, judged
    from est_analysis.report.layouts import SWEEP, find_layout
    from est_analysis.report.tables import claims_frame

    study, console = find_study(name), Console(stderr=True, quiet=as_json)
    check_folder(out)
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
    swept = _swept(frame) if find_layout(study.name, scale) is SWEEP else {}
    claims, verdicts = judged(frame, study.name, scale)
    if as_json:
        table = json.loads(claims_frame(claims, verdicts).to_json(orient="records"))
        print(json.dumps({"report": str(page), **context, **swept, "claims": table}, indent=1))
        return
    pairs = zip(claims, verdicts, strict=True)
    print_verdicts([Line(id=claim.id, statement=claim.statement, verdicts=[verdict]) for claim, verdict in pairs])
    Console().print(f"{context['wall_seconds']:.0f} s. Report: {page}", highlight=False, soft_wrap=True)


def _swept(frame: "pd.DataFrame") -> dict[str, Any]:
    """What a sweep of learning rates found, as JSON values."""
    from est_analysis.experiments.runs.rate_sweep import best_rates
    from est_analysis.report.rates import sweep_keys, sweep_losses

    losses = sweep_losses(frame)
    keys = sweep_keys(losses)
    best = [dict(zip(keys, name, strict=True)) | {"lr": rate} for name, rate in best_rates(losses, by=keys).items()]
    return {"best_rates": best, "rates": json.loads(losses.to_json(orient="records"))}


def _print_recipes(*, as_json: bool) -> None:
    from est_analysis.experiments.studies import STUDIES

    if as_json:
        described = {name: {"description": one.description, "scales": {**one.scales}} for name, one in STUDIES.items()}
        print(json.dumps(described, indent=1))
        return
    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it measures, and its scales")
    for name, study in STUDIES.items():
        costs = "\n".join(f"--scale {scale}: {cost}" for scale, cost in study.scales.items())
        table.add_row(name, f"{study.description}\n{costs}")
    Console().print(table)
