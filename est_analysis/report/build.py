"""A report of one set of runs: a self-contained page, the same as Markdown, the rows, the verdicts and the figures."""

import base64
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from est_analysis import plots
from est_analysis.claims import CLAIMS, Claim, Verdict, check_frame, judge
from est_analysis.errors import InputError

from .layouts import SWEEP, Illustration, find_layout
from .rates import sweep_losses
from .tables import claims_frame, effect_text


def build_report(frame: pd.DataFrame, context: Mapping[str, Any], folder: Path | str) -> Path:
    """Writes the report of `frame` into `folder`: what was not measured is left out, and named.

    Everything is written beside the place first and moved when it is complete, `report.html` last, so that a crash
    leaves the previous report or none.

    Args:
        frame: tidy rows (columns run_id, method, schedule, seed, step, metric, value).
        context: how the runs were made. `scale` is needed; `recipe`, `recipe_version`, `corpus`, `num_parameters`,
            `tokens_per_run`, `tokens_per_parameter`, `seeds`, `environment` (a mapping), `contenders` (method -> what
            it is there for), `wall_seconds` and `command` are shown when given.
        folder: where to; made when it is not there. Files of the same names are replaced.

    Returns:
        The path of `report.html`. Beside it lie `report.md`, `rows.csv`, `claims.csv` and `figures/`; of a sweep of
        learning rates also `rates.csv`, one row a run, in the form that `est figures` reads.

    Raises:
        InputError: the frame is empty or not tidy, the context has no scale, or the folder cannot be written.
    """
    check_frame(frame)
    if frame.empty:
        raise InputError("the frame has 0 rows: run an experiment first, then report on it")
    if "scale" not in context:
        raise InputError("the report's context has no 'scale': give the scale of the runs, such as 'quick'")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
            _write(frame, context, Path(unfinished))
            _move(Path(unfinished), folder)
    except OSError as error:
        raise InputError(f"cannot write a report into '{folder}': {error.strerror}; give another folder") from error
    return folder / "report.html"


def check_folder(folder: Path) -> None:
    """Whether a report could be written into `folder`, asked before what it is of is measured.

    Raises:
        InputError: a part of the path is a file, or may not be written in.
    """
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # a name too long, or a folder above that may not be looked into
        raise InputError(f"cannot write a report into '{folder}' ({error.strerror}); give another folder") from error
    if not place.is_dir() or not os.access(place, os.W_OK):
        what = "may not be written" if place.is_dir() else "is a file"
        raise InputError(f"cannot write a report into '{folder}': '{place}' {what}; give another folder")


def judged(frame: pd.DataFrame, recipe: str | None, scale: str) -> tuple[list[Claim], list[Verdict]]:
    """The claims that a report of `frame` judges, and their verdicts; a sweep of learning rates judges none.

    Args:
        frame: tidy rows.
        recipe: whose claims; all of them for None.
        scale: of the runs.
    """
    judges = find_layout(recipe, scale).judges
    claims = [claim for claim in CLAIMS.values() if judges and recipe in (None, claim.recipe)]
    return claims, judge(claims, frame, scale)


def _write(frame: pd.DataFrame, context: Mapping[str, Any], folder: Path) -> None:
    recipe = context.get("recipe")
    layout = find_layout(recipe, context["scale"])
    claims, verdicts = judged(frame, recipe, context["scale"])
    page = {
        "headline": layout.headline(frame, verdicts, context["scale"]),
        "heading": layout.heading,
        "methods": layout.table(frame),
        "note": layout.note,
        "contenders": {plots.method_style(name).label: why for name, why in context.get("contenders", {}).items()},
        "figures": _draw(layout.illustrations, frame, folder / "figures"),
        "claims": list(zip(claims, verdicts, strict=True)),
        "caveat": caveat(context),
        "facts": _facts(context),
        "environment": dict(context.get("environment") or {}),
        "runs": frame[["method", "schedule", "seed", "run_id"]].drop_duplicates().sort_values(["method", "seed"]),
        "context": context,
    }
    rows = frame.sort_values(["method", "seed", "run_id", "metric", "step"], kind="stable")
    rows.to_csv(folder / "rows.csv", index=False)
    claims_frame(claims, verdicts).to_csv(folder / "claims.csv", index=False)
    if layout is SWEEP:
        sweep_losses(frame).to_csv(folder / "rates.csv", index=False)
    for name in ("report.md", "report.html"):
        (folder / name).write_text(_templates().get_template(f"{name}.j2").render(page), encoding="utf-8")


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("est_analysis.report", package_path=""),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["effect"] = effect_text
    # A bar would end a Markdown table's cell.
    templates.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return templates


def _draw(illustrations: Iterable[Illustration], frame: pd.DataFrame, folder: Path) -> list[dict[str, str]]:
    """Draws and saves what the frame has rows for; a figure without rows carries the reason instead of an image."""
    drawn = []
    for number, one in enumerate(illustrations, start=1):
        figure = {
            "number": number,
            "name": one.name,
            "title": one.title,
            "caption": one.caption,
            "missing": "",
            "image": "",
        }
        try:
            _, svg = plots.save(one.draw(frame), folder, one.name)
            # As an image rather than inline markup: identifiers of two figures cannot clash, and it stays one file.
            figure["image"] = "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
        except ValueError as reason:
            figure["missing"] = str(reason)
        drawn.append(figure)
    return drawn


def _move(source: Path, target: Path) -> None:
    """Moves the finished files into place, the page that a reader opens last."""
    files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: path.name == "report.html")
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)


def caveat(context: Mapping[str, Any]) -> str:
    """How far the runs are from the papers', in plain words."""
    return find_layout(context.get("recipe"), context.get("scale", "")).caveat(context)


def _facts(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of how the runs were made, as labels and text."""
    shown = {
        "command": ("command", str),
        "recipe": ("recipe", str),
        "recipe_version": ("recipe version", str),
        "scale": ("scale", str),
        "corpus": ("corpus", str),
        "num_parameters": ("parameters", "{:,}".format),
        "tokens_per_run": ("tokens a run", "{:,}".format),
        "tokens_per_parameter": ("tokens a parameter", "{:.4g}".format),
        "seeds": ("seeds", lambda seeds: ", ".join(map(str, seeds))),
        "wall_seconds": ("wall-clock time", lambda seconds: f"{seconds:,.0f} s"),
    }
    return [(label, show(context[key])) for key, (label, show) in shown.items() if context.get(key) is not None]
