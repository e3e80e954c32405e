"""A report of one set of runs: a self-contained page, the same as Markdown, the rows, the verdicts and the figures."""

import base64
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.claims import CLAIMS, check_frame, judge
from est_analysis.errors import InputError

from .tables import claims_table, effect_text, headline, methods_table

# GPT-2 in the EST paper: 150k steps of 512 sequences of 1024 tokens, for 124.4M parameters.
_PAPER_TOKENS_PER_PARAMETER = 78.6e9 / 124.4e6


@dataclass(frozen=True, kw_only=True)
class Illustration:
    """A figure of the report: its file name, its caption, and what draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[pd.DataFrame], Figure]


ILLUSTRATIONS = (
    Illustration(
        name="loss_curves",
        title="Loss against step",
        caption="Thin lines are runs, bold lines means over seeds, vertical lines stage transitions; only the "
        "subnetwork's loss can jump there, since a transition changes no weight; the inset is the end of training.",
        draw=plots.loss_curves,
    ),
    Illustration(
        name="loss_against_flops",
        title="Loss against FLOPs",
        caption="The same validation losses against the operations spent: a curve below another reaches a loss for "
        "less, and how much less depends on whether attention and LM head are counted.",
        draw=plots.loss_against_flops,
    ),
    Illustration(
        name="step_time_by_stage",
        title="Step time by stage",
        caption="A measured mark (median over windows, bars the quartiles) above its diamond is time that the smaller "
        "subnetwork should have saved and did not.",
        draw=plots.step_time_by_stage,
    ),
    Illustration(
        name="final_traces",
        title="Curvature at the end",
        caption="The trace of the loss Hessian of every finished model with the estimate's standard error; the short "
        "lines are means over seeds, and lower is flatter.",
        draw=plots.final_traces,
    ),
)


def build_report(frame: pd.DataFrame, context: Mapping[str, Any], folder: Path | str) -> Path:
    """Writes the report of `frame` into `folder`: what was not measured is left out, and named.

    Everything is written beside the place first and moved when it is complete, `report.html` last, so that a crash
    leaves the previous report or none.

    Args:
        frame: tidy rows (columns run_id, method, schedule, seed, step, metric, value).
        context: how the runs were made. `scale` is needed; `recipe`, `recipe_version`, `corpus`, `num_parameters`,
            `tokens_per_run`, `tokens_per_parameter`, `seeds`, `environment` (a mapping), `wall_seconds` and `command`
            are shown when given.
        folder: where to; made when it is not there. Files of the same names are replaced.

    Returns:
        The path of `report.html`. Beside it lie `report.md`, `rows.csv`, `claims.csv` and `figures/`.

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


def _write(frame: pd.DataFrame, context: Mapping[str, Any], folder: Path) -> None:
    verdicts = judge(CLAIMS.values(), frame, context["scale"])
    page = {
        "headline": headline(frame, verdicts, context["scale"]),
        "methods": methods_table(frame),
        "figures": _draw(frame, folder / "figures"),
        "claims": list(zip(CLAIMS.values(), verdicts, strict=True)),
        "caveat": caveat(context),
        "facts": _facts(context),
        "environment": dict(context.get("environment") or {}),
        "runs": frame[["method", "schedule", "seed", "run_id"]].drop_duplicates().sort_values(["method", "seed"]),
        "context": context,
    }
    rows = frame.sort_values(["method", "seed", "run_id", "metric", "step"], kind="stable")
    rows.to_csv(folder / "rows.csv", index=False)
    claims_table(CLAIMS.values(), verdicts).to_csv(folder / "claims.csv", index=False)
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


def _draw(frame: pd.DataFrame, folder: Path) -> list[dict[str, str]]:
    """Draws and saves what the frame has rows for; a figure without rows carries the reason instead of an image."""
    drawn = []
    for number, one in enumerate(ILLUSTRATIONS, start=1):
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
    ratio, parameters = context.get("tokens_per_parameter"), context.get("num_parameters")
    trained = "an unrecorded number of" if ratio is None else f"{ratio:.3g}"
    size = "small models" if parameters is None else f"a model of {parameters:,} parameters"
    seeds = len(context.get("seeds") or ())
    repeats = f"{seeds} seed{'' if seeds == 1 else 's'} a method" if seeds else "few seeds"
    return (
        f"These runs trained {size} on {trained} tokens a parameter; EST's GPT-2 saw about "
        f"{_PAPER_TOKENS_PER_PARAMETER:.0f} (78.6B tokens for 124M parameters). With {repeats} the intervals are wide. "
        "A verdict here is about this scale: it neither confirms nor contradicts what a paper found at its own."
    )


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
