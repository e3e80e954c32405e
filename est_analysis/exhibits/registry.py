"""Every figure and table by the name that `est figures` knows it by."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from est_analysis.errors import InputError, unknown_name
from est_analysis.plots.style import save

from . import est_scores, est_tables, figures, raptr_tables, step_times
from .data import DataFolder
from .table import Table, save_table

_EST, _RAPTR = "EST, arXiv 2406.06962", "RaPTr, arXiv 2402.05913"


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A figure, a few that belong together, or a table.

    Attributes:
        name: on the command line; its files are called so, with underscores, as far as they are not several.
        title: what it shows.
        locus: where in a paper; empty for our own.
        needs: the sources without which there is nothing to draw.
        uses: those that fill cells of a table where they are there.
        draw: folder of data -> figures, and tables that belong to them, by their file names; or the table.
    """

    name: str
    title: str
    locus: str = ""
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    draw: Callable[[DataFolder], figures.Figures | Table]

    @property
    def sources(self) -> tuple[str, ...]:
        """All that it reads of measured data."""
        return (*self.needs, *self.uses)


def _table(name: str, title: str, locus: str, draw: Callable[[DataFolder], Table], *uses: str) -> Exhibit:
    return Exhibit(name=name, title=title, locus=locus, uses=uses, draw=draw)


def _figure(
    name: str, title: str, draw: Callable[[DataFolder], figures.Figures], *needs: str, locus: str = ""
) -> Exhibit:
    return Exhibit(name=name, title=title, locus=locus, needs=needs, draw=draw)


_ALL = (
    _figure(
        "est-figure2", "loss around stage transitions", figures.est_figure2, "reproduce", locus=f"{_EST}, Figure 2"
    ),
    _figure("est-figure3", "loss curves of GPT-2", figures.est_figure3, "reproduce", locus=f"{_EST}, Figure 3"),
    _figure("est-figure4", "loss curves of Llama", figures.est_figure4, "grid", locus=f"{_EST}, Figure 4"),
    _table("est-table1", "what a schedule saves", f"{_EST}, Table 1", est_tables.table1),
    _table("est-table2", "main results on GPT-2", f"{_EST}, Table 2", est_tables.table2, "grid", "reproduce"),
    _table("est-table3", "schedules of EST", f"{_EST}, Table 3", est_tables.table3, "est-ablations", "grid"),
    _table("est-table4", "main results on TinyLlama", f"{_EST}, Table 4", est_tables.table4, "grid"),
    _table("est-table5", "trace of the loss Hessian", f"{_EST}, Table 5", est_tables.table5, "reproduce", "flatness"),
    _table("est-table6", "GLUE scores", f"{_EST}, Table 6", est_scores.table6, "flatness"),
    _table("est-table7", "GPT4All scores", f"{_EST}, Table 7", est_scores.table7, "flatness"),
    _table("est-table8", "wall time of GPT-2", f"{_EST}, Table 8", step_times.table8, "step-times"),
    _table("est-table9", "wall time of TinyLlama", f"{_EST}, Table 9", step_times.table9, "step-times"),
    _figure(
        "raptr-polynomials",
        "what is learned of each degree of a polynomial",
        figures.raptr_polynomials,
        "poly-raptr-vs-pld",
        locus=f"{_RAPTR}, polynomial experiment",
    ),
    _figure(
        "raptr-transitions",
        "what a stage transition does to the loss",
        figures.raptr_transitions,
        "transition-smoothness",
        locus=f"{_RAPTR}, {raptr_tables.THEORY}",
    ),
    _figure(
        "raptr-stability",
        "how much a net depends on one layer, by depth",
        figures.raptr_stability,
        "stability-vs-depth",
        locus=f"{_RAPTR}, {raptr_tables.THEORY}",
    ),
    _table(
        "raptr-exponents",
        "how the gap of a transition falls with depth",
        f"{_RAPTR}, {raptr_tables.THEORY}",
        raptr_tables.exponents,
        "stability-vs-depth",
    ),
    _table("raptr-bert", "RaPTr on BERT", f"{_RAPTR}, {raptr_tables.BERT}", raptr_tables.bert, "grid"),
    _table("raptr-ul2", "RaPTr on UL2", f"{_RAPTR}, {raptr_tables.UL2}", raptr_tables.ul2, "grid"),
    _figure(
        "est-sampling-penalty",
        "what sampling costs in loss, against theory",
        figures.est_sampling_penalty,
        "reproduce",
        locus=f"{_EST}, section 5.1",
    ),
    _figure("est-ablations", "EST's dimensions, schedules and sampling law", figures.est_ablations, "est-ablations"),
    _figure("raptr-losses", "loss curves of GPT-2 under RaPTr", figures.raptr_losses, "reproduce"),
    _figure("raptr-ablations", "RaPTr's schedule, scaling and axis", figures.raptr_ablations, "raptr-ablations"),
    _figure("est-flatness", "the Hessian's trace along training", figures.est_flatness, "flatness"),
    _figure("est-downstream", "downstream proxies, and the trace at equal loss", figures.est_downstream, "flatness"),
    _figure("first-experiments", "EST and RaPTr on the simplest nets", figures.first_experiments, "first-experiments"),
    _figure("grid", "methods on four families at about equal cost", figures.grid, "grid"),
    _figure("learning-rates", "learning rates of 'reproduce'", figures.learning_rates, "learning-rates"),
    _figure(
        "learning-rates-longer",
        "learning rates of 'reproduce' for four times the steps",
        figures.learning_rates_longer,
        "learning-rates-longer",
    ),
    _figure("grid-rates", "learning rates of 'grid'", figures.grid_rates, "grid-rates"),
    _figure("longer-pair", "EST and the full model, 6,000 steps", figures.longer_pair, "longer-pair"),
)
EXHIBITS: dict[str, Exhibit] = {exhibit.name: exhibit for exhibit in _ALL}


def _save(drawn: Figure | Table, out: Path, name: str) -> tuple[Path, Path]:
    return save_table(drawn, out, name) if isinstance(drawn, Table) else save(drawn, out, name)


def find_exhibits(names: Iterable[str]) -> list[Exhibit]:
    """The exhibits called `names`, all of them if there are none.

    Raises:
        InputError: no such exhibit; the message suggests the nearest and lists them all.
    """
    for name in (names := list(names)):
        if name not in EXHIBITS:
            raise unknown_name("figure or table", name, EXHIBITS)
    return [EXHIBITS[name] for name in dict.fromkeys(names)] or list(EXHIBITS.values())


def make(exhibit: Exhibit, data: DataFolder, out: Path) -> list[Path]:
    """Draws `exhibit` from `data` into `out`: PNG and SVG of figures, CSV and Markdown of a table.

    Raises:
        InputError: a file that it needs is not there, or holds other rows; or `out` cannot be written.
    """
    try:
        drawn = exhibit.draw(data)
        named = {exhibit.name.replace("-", "_"): drawn} if isinstance(drawn, Table) else drawn
        return [path for name, one in named.items() for path in _save(one, out, name)]
    except InputError:
        raise
    except ValueError as error:  # the rows are of another recipe or too few
        raise InputError(f"{exhibit.name} cannot be drawn from '{data.folder}': {error}") from error
    except OSError as error:
        raise InputError(f"cannot write {exhibit.name} into '{out}': {error.strerror}; give another --out") from error
