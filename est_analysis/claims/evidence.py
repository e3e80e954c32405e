"""Which committed file holds the rows of which recipe at which scale, and every claim judged on all that there is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from est_analysis.errors import InputError

from .book import read_book
from .claim import Claim, Verdict, check_frame, judge_one
from .registry import CLAIMS
from .statistics import holm, p_value, runs_read

SCALES = ("exact", "smoke", "quick", "report", "gpu")  # from the smallest; a claim is either exact or has the others
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Source:
    """A committed file: the rows of `recipe` at `scale`, or the book of printed numbers."""

    recipe: str
    scale: str
    file: str


SOURCES = (
    Source(recipe="audit", scale="exact", file="published.csv"),
    Source(recipe="reproduce", scale="quick", file="reproduce_quick.csv"),
    Source(recipe="reproduce", scale="report", file="reproduce_report.csv"),
    Source(recipe="reproduce", scale="gpu", file="reproduce_gpu.csv"),
    Source(recipe="poly-raptr-vs-pld", scale="quick", file="poly_raptr_vs_pld_quick.csv"),
    Source(recipe="poly-raptr-vs-pld", scale="report", file="poly_raptr_vs_pld.csv"),
    Source(recipe="transition-smoothness", scale="quick", file="poly_transitions_quick.csv"),
    Source(recipe="transition-smoothness", scale="report", file="poly_transitions.csv"),
    Source(recipe="stability-vs-depth", scale="quick", file="stability_vs_depth_quick.csv"),
    Source(recipe="stability-vs-depth", scale="report", file="stability_vs_depth.csv"),
    Source(recipe="grid", scale="quick", file="grid_quick.csv"),
    Source(recipe="grid", scale="report", file="grid_report.csv"),
    Source(recipe="est-ablations", scale="quick", file="est_ablations_quick.csv"),
    Source(recipe="est-ablations", scale="report", file="est_ablations_report.csv"),
    Source(recipe="raptr-ablations", scale="quick", file="raptr_ablations_quick.csv"),
    Source(recipe="raptr-ablations", scale="report", file="raptr_ablations_report.csv"),
    Source(recipe="flatness", scale="quick", file="flatness_quick.csv"),
    Source(recipe="flatness", scale="report", file="flatness_report.csv"),
    Source(recipe="first-experiments", scale="quick", file="first_experiments_quick.csv"),
    Source(recipe="sampling-overhead", scale="quick", file="sampling_overhead_quick.csv"),
    Source(recipe="sampling-overhead", scale="report", file="sampling_overhead_report.csv"),
    Source(recipe="sampling-overhead", scale="gpu", file="sampling_overhead_gpu.csv"),
)
# Recipe, scale if the figure is of one, beginning of a claim's id, figure if one shows it; the first that fits.
_FIGURES: tuple[tuple[str, str, str, str | None], ...] = (
    ("reproduce", "", "est.sampling", "est_sampling_penalty"),
    *(
        ("reproduce", "", f"{paper}.{topic}", figure)
        for paper, figure in (("est", "est_figure3"), ("raptr", "raptr_losses"))
        for topic in ("loss", "transition", "stage3", "full-loss")
    ),
    ("poly-raptr-vs-pld", "", "", "raptr_polynomials"),
    ("transition-smoothness", "", "", "raptr_transitions"),
    ("stability-vs-depth", "", "", "raptr_stability"),
    ("grid", "report", "grid.frontier", None),  # the figure is of the shorter runs, which have more budgets
    ("grid", "report", "", "grid_lengths"),
    ("grid", "", "grid.frontier", "grid_frontier"),
    ("grid", "", "", "grid_gaps"),
    ("est-ablations", "", "est.law.normalise-before", None),  # all figures are of the end of training
    ("est-ablations", "report", "est.ablation", None),
    ("est-ablations", "report", "", "est_schedules_longer"),
    ("est-ablations", "", "est.ablation", "est_components"),
    ("est-ablations", "", "", "est_schedules"),
    ("raptr-ablations", "report", "", "raptr_ablations_longer"),
    ("raptr-ablations", "", "", "raptr_ablations"),
    *(
        ("flatness", scale, f"est.flatness.{topic}", figure)
        for scale, figure in (("report", "est_flatness_longer"), ("", "est_flatness"))
        for topic in ("early", "persists")
    ),
    ("flatness", "report", "est.flatness.", "est_flatness_lengths"),
    ("flatness", "", "est.flatness.", "est_flatness_ratios"),
    ("flatness", "", "raptr.flatness.", "est_flatness_ratios"),
    ("flatness", "", "raptr.downstream", "est_downstream"),
    ("flatness", "", "est.downstream.flat", "est_downstream_trace"),
    ("flatness", "", "est.downstream.", "est_downstream"),
    ("first-experiments", "", "est.first.linear", "first_linear"),
    *(
        ("first-experiments", "", f"{paper}.first.{topic}", "first_stacks")
        for paper in ("est", "raptr")
        for topic in ("jump", "worse")
    ),
    ("first-experiments", "", "", "first_gaps"),
)


_NOTEBOOKS_OF_CLAIMS = (  # beginning of a claim's id, notebook that shows it, without its ending; the first that fits
    ("est.sampling", "06_dropout_equivalence"),
    *((start, None) for start in ("est.downstream", "raptr.downstream", "grid.frontier")),
    *((f"raptr.theory.{topic}", "03_simple_to_complex") for topic in ("pld", "growing", "shrinking")),
    ("raptr.theory", "04_stage_transitions"),
)
_NOTEBOOKS = {  # recipe -> notebook of its other claims
    "reproduce": "01_est_in_ten_minutes",
    "poly-raptr-vs-pld": "03_simple_to_complex",
    "transition-smoothness": "04_stage_transitions",
    "stability-vs-depth": "04_stage_transitions",
    "grid": "05_write_your_own_method",
    "flatness": "07_flatness_along_training",
    "est-ablations": "08_schedules",
    "raptr-ablations": "08_schedules",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A claim judged on one file.

    Attributes:
        verdict: as `judge` gives it.
        run_ids: of all runs whose rows the check read.
        p: of Student's t test against the nearest bound of the claim's region; None where no chance is involved.
        adjusted_p: the same after Holm's correction over all claims of the recipe at this scale.
        compared: how many claims that correction is over.
    """

    verdict: Verdict
    run_ids: tuple[str, ...] = ()
    p: float | None = None
    adjusted_p: float | None = None
    compared: int = 0

    @property
    def tested(self) -> bool:
        """Whether there was a measurement."""
        return self.verdict.verdict != "untested"

    @property
    def called(self) -> bool:
        """Whether the claim was called, supported or refuted."""
        return self.verdict.verdict in ("supported", "refuted")

    @property
    def survives(self) -> bool | None:
        """Whether the claim is called after the correction too; None without a p."""
        return None if self.adjusted_p is None else self.adjusted_p < LEVEL


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with all its outcomes: the tested ones first, from the largest scale; others from the smallest.

    At the smallest scale the most is measured, so that what is said there of an untested claim is nearest to the point.
    """

    claim: Claim
    outcomes: tuple[Outcome, ...]

    @property
    def shown(self) -> Outcome:
        """The one to show where there is room for one."""
        return self.outcomes[0]

    @property
    def paper(self) -> str:
        """The paper's short name, such as `EST`."""
        return self.claim.paper.partition(",")[0]

    @property
    def command(self) -> str:
        """What measures it again, at the scale that is shown."""
        return _command(self.claim, self.shown.verdict.scale)

    @property
    def figure(self) -> str | None:
        """The file name, without its ending, of the figure in `paper_figures` that shows what the check measures.

        None where none does.
        """
        for recipe, scale, start, name in _FIGURES:
            of_scale = scale in ("", self.shown.verdict.scale)
            if self.claim.recipe == recipe and of_scale and self.claim.id.startswith(start):
                return name
        return None

    @property
    def notebook(self) -> str | None:
        """The name, without its ending, of the notebook in `notebooks` that shows what the check measures."""
        named = (notebook for start, notebook in _NOTEBOOKS_OF_CLAIMS if self.claim.id.startswith(start))
        return next(named, _NOTEBOOKS.get(self.claim.recipe))


def judge_all(folder: Path, claims: Iterable[Claim] = CLAIMS.values()) -> list[Judged]:
    """Every claim on every scale whose rows are in `folder`.

    Args:
        folder: `paper_figures/data` of the repository, or another one with files of the same names.
        claims: which ones; those of one recipe are corrected for one another.

    Returns:
        One a claim, in their order; `untested`, with the command that measures it, where no file is there.

    Raises:
        InputError: no such folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"no folder '{folder}'; give --data the repository's paper_figures/data")
    claims = list(claims)
    found: dict[str, list[Outcome]] = {claim.id: [] for claim in claims}
    for source in reversed(SOURCES):
        wanted = [claim for claim in claims if claim.recipe == source.recipe]
        path = folder / source.file
        if wanted and path.is_file():
            for outcome in _corrected(_judge(wanted, read_evidence(source, path), source.scale)):
                found[outcome.verdict.claim].append(outcome)
    return [Judged(claim=claim, outcomes=_in_order(found[claim.id]) or (_absent(claim, folder),)) for claim in claims]


def _in_order(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    def place(one: Outcome) -> tuple[bool, int]:
        size = SCALES.index(one.verdict.scale)
        return (not one.tested, -size if one.tested else size)

    return tuple(sorted(outcomes, key=place))


def _absent(claim: Claim, folder: Path) -> Outcome:
    if claim.recipe == "paper-scale":
        return Outcome(verdict=judge_one(claim, None, ""))  # its check says what it needs
    files = " or ".join(source.file for source in SOURCES if source.recipe == claim.recipe)
    detail = f"no {files} in '{folder}': {_command(claim, '')} measures it"
    nothing = {"effect": None, "interval": None, "unit": "", "seeds": 0, "scale": ""}
    return Outcome(verdict=Verdict(claim=claim.id, verdict="untested", detail=detail, **nothing))


def _command(claim: Claim, scale: str) -> str:
    """What measures `claim` at `scale`; at the smallest that is kept if that is empty."""
    kept = (source.scale for source in SOURCES if source.recipe == claim.recipe)
    return claim.command(scale or next(kept, ""))


def read_evidence(source: Source, path: Path) -> Any:
    """What `source` holds: a tidy frame, checked, or the book of printed numbers.

    Raises:
        InputError: it is damaged or of another kind.
    """
    remedy = "restore it with git"
    if source.recipe != "audit":
        remedy += f", or 'est run {source.recipe} --scale {source.scale}' and copy its rows.csv there"
    try:
        return read_book(path) if source.recipe == "audit" else _frame(path)
    except (ValueError, OSError) as error:  # not CSV, not text, not numbers, or not tidy (InputError)
        raise InputError(f"'{path}' cannot be used: {' '.join(str(error).split())}; {remedy}") from error


def _frame(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, keep_default_na=False)
    check_frame(frame)
    numbers = frame[["seed", "step", "value"]].apply(pd.to_numeric)
    if frame[["run_id", "method", "metric"]].eq("").any(axis=None) or numbers.isna().any(axis=None):
        raise ValueError("it has rows that are cut short")
    frame = frame.assign(**numbers)
    _refuse_lost_rows(frame)
    return frame


def _refuse_lost_rows(frame: pd.DataFrame) -> None:
    """Seeds of the same labels have the same metrics until the same steps; where not, the file was cut off."""
    labels = [name for name in frame.columns if name not in ("run_id", "seed", "step", "metric", "value")]
    ends = frame.groupby([*labels, "metric", "run_id", "seed"])["step"].max()
    for _, here in ends.groupby(labels):
        table = here.unstack("metric")
        for metric, steps in table.items():
            if steps.nunique(dropna=False) > 1:
                seed = table.index[steps.fillna(-1).argmin()][table.index.names.index("seed")]
                method = table.index.get_level_values("method")[0]
                raise ValueError(f"rows are lost: seed {seed} of '{method}' has less of {metric} than another seed")


def _judge(claims: Iterable[Claim], evidence: Any, scale: str) -> list[Outcome]:
    outcomes = []
    for claim in claims:
        with runs_read() as run_ids:
            verdict = judge_one(claim, evidence, scale)
        p = None
        if verdict.effect is not None and verdict.interval is not None:
            ratio = verdict.unit == "x"  # its interval is that of the logarithm
            p = p_value(verdict.effect, verdict.interval, claim.region, verdict.seeds, ratio=ratio)
        outcomes.append(Outcome(verdict=verdict, run_ids=tuple(sorted(run_ids)), p=p))
    return outcomes


def _corrected(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of one file with their p values corrected for one another."""
    tested = [one for one in outcomes if one.p is not None]
    adjusted = iter(holm([one.p for one in tested]))
    return [one if one.p is None else replace(one, adjusted_p=next(adjusted), compared=len(tested)) for one in outcomes]
