"""`est claims`: every claim of the papers with its verdict."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from est_analysis.commands.provenance import print_run
from est_analysis.commands.verdicts import STYLES, Line, print_verdicts
from est_analysis.committed import DATA
from est_analysis.errors import InputError, unknown_name


def claims(
    claim: Annotated[
        str,
        typer.Argument(help="The id of a claim, to show all about it, or what those of a group begin with: est.law."),
    ] = "",
    paper: Annotated[str, typer.Option(help="Only those of est or of raptr.")] = "",
    origin: Annotated[
        str, typer.Option(help="Only those that are the paper's own, or were asked by others, or are ours.")
    ] = "",
    verdict: Annotated[
        str, typer.Option(help="Only those that are supported, refuted, inconclusive or untested.")
    ] = "",
    data: Annotated[
        Path, typer.Option(help="Folder of measured rows, named as in paper_figures/data.", show_default=False)
    ] = DATA,
    html: Annotated[Path | None, typer.Option(help="Write a page to browse them offline to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print them as a Markdown table.")] = False,
    run: Annotated[
        str, typer.Option(metavar="RUN_ID", help="Show instead how a committed run was made: spec, data, environment.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """What the papers claim, what was measured, and which of it holds: nothing is run, committed rows are judged."""
    from est_analysis.committed.records import find_run
    from est_analysis.report.claims_page import build_claims_page
    from est_analysis.report.claims_table import chance_note, markdown_table

    if sum((html is not None, markdown, as_json)) > 1:
        raise InputError("--html, --markdown and --json exclude each other: give one")
    if run:
        if claim or paper or origin or verdict or markdown or html is not None:
            raise InputError("--run shows a run, no claims: give only --json or --data with it")
        print_run(find_run(data, run), as_json=as_json)
        return
    names, wanted = _named(claim), _wanted(paper.lower(), origin, verdict)
    everything = _judged_with(names, data)
    chosen = [one for one in everything if one.claim.id in names and wanted(one)]
    if html is not None:
        page = build_claims_page(chosen, html, figures=data.parent)
        print(f"{len(chosen)} claims: {page}")
    elif markdown:
        print(markdown_table(chosen))
    elif as_json:
        print(json.dumps([record(one) for one in chosen], indent=1))
    elif chosen and names[0] == claim:
        _print_one(chosen[0], names[1:])
    else:
        _print_table(chosen, chance_note(everything))


def _named(claim: str) -> list[str]:
    """The ids that begin with `claim` as a group, after its own if it has one; all of them if it is empty.

    Raises:
        InputError: there are none.
    """
    from est_analysis.claims.registry import CLAIMS, find_claim

    group = f"{claim.removesuffix('*').rstrip('.')}." if claim else ""
    members = [name for name in CLAIMS if name.startswith(group)]
    if not members:
        find_claim(claim)
    return [claim, *members] if claim in CLAIMS else members


def _judged_with(names: Sequence[str], data: Path) -> list:
    """The claims called `names`, judged with all others of their recipes, which Holm's correction is over."""
    from est_analysis.claims.evidence import judge_all
    from est_analysis.claims.registry import CLAIMS

    recipes = {CLAIMS[name].recipe for name in names}
    return judge_all(data, [claim for claim in CLAIMS.values() if claim.recipe in recipes])


def _wanted(paper: str, origin: str, verdict: str) -> Callable[[Any], bool]:
    """Whether a judged claim is of that paper, origin and verdict; empty ones do not matter."""
    from est_analysis.report.claims_table import ORIGINS

    known = {"paper": ("est", "raptr"), "origin": tuple(ORIGINS), "verdict": tuple(STYLES)}
    for name, value in {"paper": paper, "origin": origin, "verdict": verdict}.items():
        if value and value not in known[name]:
            raise unknown_name(name, value, known[name])
    return lambda one: (
        paper in ("", one.paper.lower())
        and origin in ("", one.claim.origin)
        and verdict in ("", one.shown.verdict.verdict)
    )


def record(one) -> dict[str, Any]:
    """A judged claim as JSON values: what it says, its foremost outcome, and the outcomes at other scales."""
    claim, shown = one.claim, one.shown
    return {
        "id": claim.id,
        "paper": claim.paper,
        "locus": claim.locus,
        "statement": claim.statement,
        **{name: _outcome(shown)[name] for name in ("verdict", "effect", "interval", "scale", "run_ids")},
        "origin": claim.origin,
        "prediction": claim.prediction,
        "threshold": claim.threshold,
        "known": claim.known,
        **{name: value for name, value in _outcome(shown).items() if name in ("unit", "seeds", "detail")},
        "recipe": claim.recipe,
        "command": one.command,
        "figure": one.figure,
        "notebook": one.notebook,
        "p": shown.p,
        "survives_holm": shown.survives,
        "other_scales": [_outcome(other) for other in one.outcomes[1:]],
    }


def _outcome(outcome) -> dict[str, Any]:
    verdict = outcome.verdict
    return {
        "verdict": verdict.verdict,
        "effect": verdict.effect,
        "interval": None if verdict.interval is None else list(verdict.interval),
        "scale": verdict.scale or None,
        "run_ids": list(outcome.run_ids),
        "unit": verdict.unit,
        "seeds": verdict.seeds,
        "detail": verdict.detail,
        "p": outcome.p,
        "survives_holm": outcome.survives,
    }


def _print_table(chosen: Sequence, note: str) -> None:
    print_verdicts(
        [
            Line(id=one.claim.id, statement=one.claim.statement, verdicts=[each.verdict for each in one.outcomes])
            for one in chosen
        ],
        title="The papers' claims",
    )
    sys.stdout.flush()
    counts = (f"{sum(one.shown.verdict.verdict == name for one in chosen)} {name}" for name in STYLES)
    # A program that reads the claims gets them alone.
    Console(stderr=not Console().is_terminal).print(
        f"{len(chosen)} claims: {', '.join(counts)} (at their largest scale). {note} est claims ID shows one whole.",
        highlight=False,
    )


def _print_one(one, group: Sequence[str]) -> None:
    from est_analysis.report.claims_page import correction_text
    from est_analysis.report.tables import effect_text

    claim = one.claim
    facts = [("claim", claim.id), ("statement", claim.statement), ("where", f"{claim.paper}; {claim.locus}")]
    facts += [("prediction", f"{claim.prediction}: {claim.threshold}")]
    if claim.known:
        facts += [("written", f"when this was known: {claim.known}")]
    for outcome in one.outcomes:
        verdict = outcome.verdict
        facts += [(verdict.scale or "verdict", verdict.verdict)]
        if outcome.tested:
            seeds = f", {verdict.seeds} seeds" if verdict.seeds else ""
            facts += [("measured", effect_text(verdict).strip() + seeds)]
        facts += [("detail", verdict.detail), ("chance", correction_text(outcome))]
        facts += [("runs", ", ".join(outcome.run_ids))]
    some = [run_id for outcome in one.outcomes for run_id in outcome.run_ids]
    facts += [("one run", f"'est claims --run {some[0]}' shows spec, data and environment" if some else "")]
    figure = f"paper_figures/{one.figure}.svg" if one.figure else ""
    notebook = f"notebooks/{one.notebook}.ipynb" if one.notebook else ""
    facts += [("command", one.command), ("figure", figure), ("notebook", notebook)]
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        if value:
            table.add_row(Text(name, style="dim"), Text(value, style=STYLES.get(value, "")))
    console = Console()
    console.print(table)
    if group:
        text = f"see also: {', '.join(group)} ('est claims {claim.id}.' lists them)"
        console.print(text, highlight=False, soft_wrap=not console.is_terminal)
