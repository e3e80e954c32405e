"""The folder of committed data: which file holds the rows of which source, and what makes it when it is not there."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from est_analysis.claims.evidence import SCALES, SOURCES, Source, read_evidence
from est_analysis.errors import InputError, unknown_name

from .published import Published, read_published


@dataclass(frozen=True, kw_only=True)
class OtherFile:
    """A committed file that is not the rows of a recipe at one of the scales of claims."""

    file: str
    command: str
    written: str = ""  # by the command, beside its report; empty for `file` itself


_MEASURED = [scale for scale in SCALES if scale != "exact"]
# Recipes whose larger scales train longer, but fewer contenders.
LENGTHS = ("grid", "est-ablations", "raptr-ablations", "flatness")
# All other sources are recipes (`est run`).
OTHER_FILES: dict[str, OtherFile] = {
    "learning-rates": OtherFile(
        file="learning_rates.csv", command="est run reproduce --scale rates", written="rates.csv"
    ),
    "learning-rates-longer": OtherFile(
        file="learning_rates_report.csv", command="est run reproduce --scale report-rates", written="rates.csv"
    ),
    "grid-rates": OtherFile(file="grid_rates.csv", command="est run grid --scale rates", written="rates.csv"),
    "longer-pair": OtherFile(
        file="longer_pair.csv",
        command="est train --corpus python --preset tiny --seed 0 --steps 6000 --lr 2e-3 --method METHOD",
    ),
    "step-times": OtherFile(
        file="est_step_times.csv",
        command="python benchmarks/est_tables_8_9.py --device cuda --out paper_figures/data/est_step_times.csv",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a source holds.

    Attributes:
        source: the recipe or other file, in words.
        scale: of the runs; empty for other files.
        frame: its rows; None where the file is not there.
        missing: then, what makes it.
    """

    source: str
    scale: str
    frame: pd.DataFrame | None
    missing: str = ""

    @property
    def label(self) -> str:
        """What they are, such as `grid, quick scale, 3 seeds`."""
        parts = [self.source, *([f"{self.scale} scale"] if self.scale else [])]
        if self.frame is not None and "seed" in self.frame:
            count = self.frame["seed"].nunique()
            parts.append(f"{count} seed{'' if count == 1 else 's'}")
        return ", ".join(parts)


class DataFolder:
    """A folder such as `paper_figures/data`.

    Args:
        folder: where the files are.
        scale: of the recipes' rows; of each the largest that is there and has what is asked for unless given.

    Raises:
        InputError: no such folder or scale.
    """

    def __init__(self, folder: Path, scale: str = "") -> None:
        if not folder.is_dir():
            raise InputError(f"no folder '{folder}'; give --data the repository's paper_figures/data")
        if scale and scale not in _MEASURED:
            raise unknown_name("scale", scale, _MEASURED)
        self.folder, self.scale = folder, scale

    @property
    def published(self) -> Published:
        """What the papers print."""
        return read_published(self.folder)

    def path(self, source: str) -> Path:
        """The file of `source`; of the scale to draw, there or not."""
        if source in OTHER_FILES:
            return self.folder / OTHER_FILES[source].file
        return self.folder / rows_file(source, self._scale(source))

    def paths(self, source: str) -> list[Path]:
        """All files that are drawn from: of `LENGTHS` those of every scale."""
        if source not in LENGTHS:
            return [self.path(source)]
        return [self.folder / rows_file(source, scale) for scale in self.scales(source)]

    def lengths(self, recipe: str) -> list[pd.DataFrame]:
        """The rows of one of `LENGTHS` at every scale that is there, the shortest training, which has the most, first.

        Raises:
            InputError: there is none, or a file is damaged.
        """
        found = [self.find(recipe, scale).frame for scale in reversed(self.scales(recipe))]
        return [frame for frame in found if frame is not None] or [self.rows(recipe)]

    def command(self, source: str) -> str:
        """What to type to measure `source`."""
        return command(source, self._scale(source))

    def find(self, source: str, scale: str = "") -> Rows:
        """The rows of `source`, without a frame where its file is not there.

        Args:
            source: a recipe or other file.
            scale: of the recipe, one of `scales`; the largest unless given.

        Raises:
            InputError: the file is damaged.
        """
        scale = scale or self._scale(source)
        path = self.folder / rows_file(source, scale) if is_recipe(source) else self.path(source)
        if not path.is_file():
            return Rows(source=source, scale=scale, frame=None, missing=f"'{self.command(source)}' measures it")
        if is_recipe(source):
            frame = read_evidence(Source(recipe=source, scale=scale, file=path.name), path)
        else:
            frame = _read_other(path, self.remedy(source))
        return Rows(source=source, scale=scale, frame=frame)

    def rows(self, source: str) -> pd.DataFrame:
        """The rows of `source`; a missing file is an `InputError` that names the command which makes it."""
        found = self.find(source)
        if found.frame is None:
            raise InputError(f"no measured rows at '{self.path(source)}': {self.remedy(source)}")
        return found.frame

    def remedy(self, source: str) -> str:
        """What makes the file of `source`, in words."""
        made = f"'{self.command(source)}' makes them"
        if source in OTHER_FILES and OTHER_FILES[source].written:
            made += f", as {OTHER_FILES[source].written} beside its report"
        return f"{made}, and 'est figures --remeasure' does so and puts them there" if is_recipe(source) else made

    def _scale(self, source: str) -> str:
        if not is_recipe(source):
            return ""
        return self.scales(source)[0]

    def scales(self, recipe: str) -> list[str]:
        """The scales to draw, the largest first: that of this folder, else those that are there, else the smallest."""
        known = _by_size(recipe)
        there = [scale for scale in known if (self.folder / rows_file(recipe, scale)).is_file()]
        return ([self.scale] if self.scale else there) or known[-1:] or ["quick"]


def _read_other(path: Path, remedy: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise InputError(f"'{path}' cannot be used: {' '.join(str(error).split())}; {remedy}") from error
    if frame.empty or frame.isna().any(axis=None):
        raise InputError(f"'{path}' cannot be used: it has rows that are cut short; {remedy}")
    return frame


def _by_size(recipe: str) -> list[str]:
    """The scales whose rows of `recipe` are committed, or may be, the largest first."""
    return sorted((source.scale for source in SOURCES if source.recipe == recipe), key=SCALES.index, reverse=True)


def rows_file(recipe: str, scale: str) -> str:
    """The name of the file with the rows of `recipe` at `scale`: that of the claims' evidence if it is there.

    >>> rows_file("transition-smoothness", "report"), rows_file("grid", "smoke")
    ('poly_transitions.csv', 'grid_smoke.csv')
    """
    known = (source.file for source in SOURCES if (source.recipe, source.scale) == (recipe, scale))
    return next(known, f"{recipe.replace('-', '_')}_{scale}.csv")


def command(source: str, scale: str) -> str:
    """What to type to measure `source`."""
    return f"est run {source} --scale {scale}" if is_recipe(source) else OTHER_FILES[source].command


def is_recipe(source: str) -> bool:
    """Whether `est run` measures `source`."""
    return source not in OTHER_FILES
