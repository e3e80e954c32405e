"""Ablations at scale `report`: four times the steps, the grid's own runs, and rates from a sweep of that length."""

from pathlib import Path

import pandas as pd
import pytest

from est_analysis.experiments.language_models import est_ablations, grid, raptr_ablations
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, best_rates, beyond, finalists

DATA = Path(__file__).parents[3] / "paper_figures" / "data"
ON_THE_GRID = {
    "est-ablations": {"full", "short", "est"},
    "raptr-ablations": {"full", "short", "raptr", "gradual_stacking"},
}
SWEEPS = {
    "est-ablations": "ablation_rates_report.csv",
    "raptr-ablations": "raptr_ablation_rates_report.csv",
}
every = pytest.mark.parametrize(
    "ablation", [est_ablations.ABLATION, raptr_ablations.ABLATION], ids=lambda ablation: ablation.name
)


@every
def test_it_is_four_times_as_long_and_has_the_grids_own_runs(ablation):
    report, sweep, quick = (ablation.scales[scale] for scale in ("report", "report-rates", "quick"))
    assert set(ablation.longer_rates) < set(ablation.contenders)
    longer, shorter = (ablation.entries(scale, corpus="python") for scale in (report, quick))
    assert {entry.spec.settings.steps for entry in longer} == {4 * e.spec.settings.steps for e in shorter}
    on_grid = {(e.labels["method"], e.spec.seed): e.spec for e in grid.entries(grid.SCALES["report"], corpus="python")
               if (e.labels["family"], e.labels["budget"]) == ("gpt2", 1)}  # fmt: skip
    shared = [entry for entry in longer if entry.labels["method"] in grid.LONGER["gpt2"]]
    assert {entry.labels["method"] for entry in shared} == ON_THE_GRID[ablation.name]
    assert all(repr(entry.spec) == repr(on_grid[entry.labels["method"], entry.spec.seed]) for entry in shared)
    swept = {entry.labels["method"] for entry in ablation.entries(sweep, corpus="python")}
    assert swept == set(ablation.longer_rates) - ON_THE_GRID[ablation.name], "the grid's sweep has those"


@every
def test_rates_are_those_of_its_own_sweep(ablation):
    sweep = pd.read_csv(DATA / SWEEPS[ablation.name]).assign(family="gpt2", budget=1.0)
    assert beyond(sweep) == {}
    found = {label: rate for (_, label, _), rate in best_rates(sweep).items()}
    on_grid = {label: grid.BEST_RATE_LONGER["gpt2"][label] for label in ON_THE_GRID[ablation.name]}
    assert found | on_grid == ablation.longer_rates
    for (_, label, _), rates in finalists(sweep).items():
        runs = sweep[sweep["method"] == label]
        assert all(set(runs.loc[runs["lr"] == rate, "seed"]) == {100, *MORE_SEEDS} for rate in rates)
    assert not set(sweep["seed"]) & set(ablation.scales["report"].seeds)
