"""`est figures`: every figure and table of the papers, and our own, drawn from committed data."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands.options import Runs
from est_analysis.committed import FIGURES
from est_analysis.errors import InputError, unknown_name

if TYPE_CHECKING:  # they load pandas and matplotlib
    from est_analysis.exhibits.data import DataFolder
    from est_analysis.exhibits.registry import Exhibit
    from est_analysis.experiments.study import Study


def figures(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which ones, such as est-figure3 or est-table2; all unless given.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say what there is instead of drawing it.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the files; paper_figures unless given.", show_default=False)] = (
        FIGURES
    ),
    data: Annotated[
        Path, typer.Option(help="Folder of measured rows; paper_figures/data unless given.", show_default=False)
    ] = FIGURES / "data",
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Run the recipes behind them first, and put their rows into --data.")
    ] = False,
    scale: Annotated[
        str, typer.Option(help="Of the rows: the largest that is there, or quick with --remeasure, unless given.")
    ] = "",
    runs: Runs = Path("runs"),
    workers: Annotated[int, typer.Option(help="Processes at once while measuring; 0: the recipe's own.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of text.")] = False,
) -> None:
    """Draw every figure and table of the papers that our measurements support, or some of them, from committed data."""
    from est_analysis.exhibits.data import DataFolder
    from est_analysis.exhibits.registry import find_exhibits, make

    chosen = find_exhibits(names or [])
    if remeasure and not list_:
        scale = scale or "quick"
        _remeasure(chosen, data, scale, runs=runs, workers=workers)
    folder = DataFolder(data, scale)
    if list_:
        _print_list(chosen, folder, as_json=as_json)
        return
    if not names:
        chosen = [exhibit for exhibit in chosen if _there(exhibit, folder)]
    drawn = {exhibit.name: [str(path) for path in make(exhibit, folder, out)] for exhibit in chosen}
    if as_json:
        print(json.dumps([{"name": name, "files": files} for name, files in drawn.items()], indent=1))
    else:
        print(*(path for files in drawn.values() for path in files), sep="\n")


def _there(exhibit: "Exhibit", folder: "DataFolder") -> bool:
    """Whether all that `exhibit` needs is in `folder`; says what is not, where everything is to be drawn."""
    missing = [source for source in exhibit.needs if not folder.path(source).is_file()]
    for source in missing:
        remedy = folder.remedy(source)
        print(f"{exhibit.name} is left out, no {folder.path(source).name}: {remedy}", file=sys.stderr)
    return not missing


def _remeasure(chosen: Sequence["Exhibit"], data: Path, scale: str, *, runs: Path, workers: int) -> None:
    """Runs every recipe behind `chosen` at `scale`, once each, and writes its rows, thinned, into `data`."""
    from est_analysis.committed.thin import thin
    from est_analysis.exhibits.data import DataFolder, command
    from est_analysis.experiments.runs.store import write_atomically
    from est_analysis.experiments.study import Request

    studies = _studies(chosen, scale)
    data.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    for study in studies:
        path = DataFolder(data, scale).path(study.name)
        line = shlex.join([*shlex.split(command(study.name, scale)), "--runs", str(runs)])
        console.print(f"{line}: its rows, thinned, go to {path}", highlight=False, soft_wrap=True)
        request = Request(
            scale=scale, corpus="python", seeds=None, runs=runs, workers=workers,
            say=lambda text: console.print(text, highlight=False),
        )  # fmt: skip
        frame, _ = study.run(request)
        rows = frame.sort_values(["method", "seed", "run_id", "metric", "step"], kind="stable")
        write_atomically(path, thin(rows).to_csv(index=False))


def _studies(chosen: Sequence["Exhibit"], scale: str) -> list["Study"]:
    """The recipes behind `chosen`, each once.

    Raises:
        InputError: there are none, or one has no such scale.
    """
    from est_analysis.claims.evidence import SCALES
    from est_analysis.exhibits.data import command, is_recipe
    from est_analysis.experiments.studies import find_study

    sources = list(dict.fromkeys(source for exhibit in chosen for source in exhibit.sources))
    studies = [find_study(source) for source in sources if is_recipe(source)]
    if not studies:
        by_hand = " and ".join(f"'{command(source, '')}'" for source in sources)
        names = ", ".join(exhibit.name for exhibit in chosen)
        rest = f"what it shows is measured by {by_hand}" if sources else "it needs no measured rows"
        raise InputError(f"no recipe is behind {names}; {rest}: leave --remeasure away")
    for study in studies:
        known = [name for name in study.scales if name in SCALES]
        if scale not in known:
            raise unknown_name(f"scale of {study.name}", scale, known)
    return studies


def _print_list(chosen: Sequence["Exhibit"], folder: "DataFolder", *, as_json: bool) -> None:
    """What there is, and from which file each is drawn, or what would measure it."""
    records = []
    for exhibit in chosen:
        record = {"name": exhibit.name, "title": exhibit.title, "where": exhibit.locus, "data": [], "missing": []}
        for source in exhibit.sources:
            for path in folder.paths(source):
                if path.is_file():
                    record["data"].append(path.name)
                else:
                    record["missing"].append({"file": path.name, "command": folder.command(source)})
        records.append(record)
    if as_json:
        print(json.dumps(records, indent=1))
        return
    table = Table()
    table.add_column("name", no_wrap=True)
    for heading in ("what", "data"):
        table.add_column(heading, overflow="fold")
    for record in records:
        missing = [f"no {one['file']}: {one['command']}" for one in record["missing"]]
        what = ": ".join(text for text in (record["where"], record["title"]) if text)
        table.add_row(record["name"], what, "\n".join([*record["data"], *missing]))
    console = Console()
    console.print(table)
    console.print(
        f"{len(records)} figures and tables. EST's Figures 1, 5, 6 and 7 are drawings of the method, without data.",
        highlight=False,
    )
