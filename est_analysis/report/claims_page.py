"""The claims as one page that works offline: filters, search, and everything about a claim when it is opened."""

import base64
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from est_analysis.claims.evidence import Judged, Outcome
from est_analysis.errors import InputError

from .claims_table import MARKS, ORIGINS, chance_note, origin_note, stands
from .tables import effect_text

# What the figures of claims show, by file name: `est figures --list` has one title for several files.
FIGURE_TITLES = {
    "est_figure3": "loss curves of GPT-2",
    "est_sampling_penalty": "what sampling costs in loss, against theory",
    "est_components": "what sampling each of EST's dimensions costs",
    "est_schedules": "EST's schedules: distance from the full model against what they save",
    "est_schedules_longer": "EST's schedules: distance from the full model against what they save, longer training",
    "est_flatness": "the Hessian's trace along training",
    "est_flatness_longer": "the Hessian's trace along longer training",
    "est_flatness_ratios": "Hessian traces over the full model's, at equal loss",
    "est_flatness_lengths": "Hessian traces over the full model's, at equal loss, at two lengths of training",
    "est_downstream": "downstream proxies, method by method",
    "est_downstream_trace": "downstream proxies against the loss and against the Hessian's trace",
    "raptr_losses": "loss curves of GPT-2 under RaPTr",
    "raptr_ablations": "RaPTr's schedule, scaling and axis",
    "raptr_ablations_longer": "RaPTr's schedule and scaling, longer training",
    "raptr_polynomials": "what is learned of each degree of a polynomial",
    "raptr_transitions": "what a stage transition does to the loss",
    "raptr_stability": "how much a net depends on one layer, by depth",
    "grid_gaps": "methods on four families: distance from the full model",
    "grid_lengths": "methods on four families: distance from the full model at two lengths of training",
    "grid_frontier": "loss against FLOPs at several budgets",
    "first_gaps": "the simplest nets: distance from the full net",
    "first_stacks": "stacks of eight layers: losses across transitions, and distance from the full net",
    "first_linear": "linear nets: balance of hidden units and nuclear norm",
}


def build_claims_page(judged: Iterable[Judged], path: Path, *, figures: Path) -> Path:
    """Writes the page.

    Args:
        judged: the claims, in order.
        path: of the page; its folder is made when it is not there.
        figures: folder of the SVG files that `Judged.figure` names; those it lacks are left out.

    Returns:
        The path.

    Raises:
        InputError: the page cannot be written.
    """
    judged = list(judged)
    page = _template().render(
        judged=judged,
        origins=ORIGINS,
        papers=sorted({one.paper for one in judged}),
        counts={name: sum(one.shown.verdict.verdict == name for one in judged) for name in MARKS},
        figures={name: image for name in _names(judged) if (image := _image(figures / f"{name}.svg"))},
        titles=FIGURE_TITLES,
        late=sum(bool(one.claim.known) for one in judged),
        note=chance_note(judged),
        whose=origin_note(judged),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror}; give --html another file") from error
    return path


def correction_text(outcome: Outcome) -> str:
    """The p value of an outcome and what Holm's correction makes of it, in words; nothing where there is none."""
    if outcome.p is None:
        return ""
    text = (
        f"p = {outcome.p:.2g} against the nearest bound, {outcome.adjusted_p:.2g} after Holm's correction over "
        f"{outcome.compared} claims"
    )
    if not outcome.called:
        return text
    return f"{text}: it {'stands' if outcome.survives else 'does not stand'}"


def _names(judged: Iterable[Judged]) -> list[str]:
    return list(dict.fromkeys(one.figure for one in judged if one.figure))


def _image(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode() if svg.is_file() else ""


def _template():
    templates = Environment(
        loader=PackageLoader("est_analysis.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["effect"] = lambda verdict: effect_text(verdict).strip()
    templates.filters["correction"] = correction_text
    templates.filters["stands"] = stands
    return templates.get_template("claims.html.j2")
