"""An ablation: contenders on the grid's GPT-2 that change one thing each, at their own best learning rates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
        cost: of the quick scale, in words.
    """

    name: str
    description: str
    contenders: Mapping[str, Contender]
    rates: Mapping[str, float]
    cost: str

    @property
    def scales(self) -> dict[str, GridScale]:
        """The grid's, on GPT-2 alone and at one budget."""
        costs = {
            "smoke": "a minute or two; shows that the code runs, nothing else",
            "rates": "the learning-rate sweep: three runs a contender or more",
            "quick": self.cost,
        }
        return {
            name: replace(grid.SCALES[name], families=("gpt2",), budgets=(), cost=cost) for name, cost in costs.items()
        }

    @property
    def study(self) -> Study:
        """The recipe."""
        costs = {name: scale.cost for name, scale in self.scales.items()}
        return Study(name=self.name, description=self.description, version=1, scales=costs, measure=self.measure)

    def entries(self, scale: GridScale, *, corpus: str, contenders: Iterable[str] = ()) -> list[Entry]:
        """Every run of `contenders`, by their labels, at `scale`; of all unless given."""
        chosen = {label: self.contenders[label] for label in contenders or self.contenders}
        return grid.entries(scale, corpus=corpus, contenders=chosen, rates={"gpt2": self.rates})

    def measure(self, request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The rows of every run, with their learning rate as a column, and what a report should know of them."""
        scale = grid.seeded(self.scales[request.scale], request.seeds)
        runs = self.entries(scale, corpus=request.corpus)
        frame, facts = grid.measure_entries(runs, request, name=self.name, sweep=bool(scale.rates))
        facts["contenders"] = grid.notes(self.contenders, frame)
        return frame.drop(columns=["family", "budget"]), facts
