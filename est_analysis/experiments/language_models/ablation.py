"""An ablation: contenders on the grid's GPT-2 that change one thing each, at their own best learning rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from est_analysis.experiments.language_models import grid
from est_analysis.experiments.language_models.contenders import Contender
from est_analysis.experiments.language_models.grid import GridScale
from est_analysis.experiments.runs.side_by_side import Entry
from est_analysis.experiments.study import Request, Study


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Contenders and how they are run.

    Attributes:
        name: of the recipe.
        description: one sentence.
        contenders: by label; those that the grid has too are the grid's own runs.
        rates: best learning rate of each, from the sweep at scale `rates`.
        costs: of the scales that it has, in words.
        longer_rates: of those that are run for four times the steps too, at scale `report`; from the sweep at scale
            `report-rates`, or from the grid's.
    """

    name: str
    description: str
    contenders: Mapping[str, Contender]
    rates: Mapping[str, float]
    costs: Mapping[str, str]
    longer_rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def scales(self) -> dict[str, GridScale]:
        """The grid's, on GPT-2 alone and at one budget; rates that the grid has swept are not swept again."""
        swept = tuple(label for label in self.longer_rates if label not in grid.LONGER["gpt2"])
        contenders = {"report-rates": swept, "report": tuple(self.longer_rates)}
        return {
            name: replace(
                grid.SCALES[name],
                families=("gpt2",),
                budgets=(),
                contenders={"gpt2": contenders.get(name, tuple(self.contenders))},
                best={1.0: {"gpt2": self.longer_rates if name == "report" else self.rates}},
                cost=cost,
            )
            for name, cost in self.costs.items()
        }

    @property
    def study(self) -> Study:
        """The recipe."""
        costs = {name: scale.cost for name, scale in self.scales.items()}
        return Study(name=self.name, description=self.description, version=1, scales=costs, measure=self.measure)

    def entries(self, scale: GridScale, *, corpus: str) -> list[Entry]:
        """Every run of `scale`."""
        return grid.entries(scale, corpus=corpus, contenders=self.contenders)

    def measure(self, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The rows of every run, with their learning rate as a column, and what a report should know of them."""
        scale = grid.seeded(self.scales[request.scale], request.seeds)
        runs = self.entries(scale, corpus=request.corpus)
        frame, facts = grid.measure_entries(runs, request, name=self.name, sweep=bool(scale.rates))
        facts["contenders"] = grid.notes(self.contenders, frame)
        return frame.drop(columns=["family", "budget"]), facts
