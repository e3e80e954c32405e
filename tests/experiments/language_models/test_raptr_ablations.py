"""RaPTr's ablations: what each saves, the grid's own runs, and rates from the sweep."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.experiments.language_models import grid
from est_analysis.experiments.language_models.raptr_ablations import ABLATION, BEST_RATE, CONTENDERS
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, RATES, best_rates, beyond
from est_analysis.methods.cost import method_cost

DATA = Path(__file__).parents[3] / "paper_figures" / "data"
QUICK = ABLATION.scales["quick"]


ONCE = {entry.labels["method"]: entry for entry in ABLATION.entries(replace(QUICK, seeds=(0,)), corpus="python")}


@pytest.mark.parametrize("entry", ONCE.values(), ids=ONCE.keys())
def test_all_save_a_quarter_but_after_a_warm_up(entry):
    config = entry.spec.model_config(vocab_size=256)
    saving = 100 * method_cost(entry.spec.build_method(config), entry.spec.architecture(config)).paper_saving
    expected = {"full": 0.0, "short": 26.7, "raptr/warm-up": 17.5}.get(entry.labels["method"], 25.0)
    assert saving == pytest.approx(expected, abs=0.05)


def test_what_the_grid_has_are_its_own_runs():
    on_grid = {(e.labels["method"], e.spec.seed): e.spec for e in grid.entries(grid.SCALES["quick"], corpus="python")
               if (e.labels["family"], e.labels["budget"]) == ("gpt2", 1)}  # fmt: skip
    ours = {(e.labels["method"], e.spec.seed): e.spec for e in ABLATION.entries(QUICK, corpus="python")}
    shared = on_grid.keys() & ours.keys()
    assert {label for label, _ in shared} == {"full", "short", "raptr", "stochastic_depth", "gradual_stacking"}
    assert all(repr(ours[key]) == repr(on_grid[key]) for key in shared)
    assert len({repr(spec) for spec in ours.values()}) == len(ours) == 3 * len(CONTENDERS)


def test_every_contender_has_a_learning_rate_of_the_sweep():
    sweep = pd.read_csv(DATA / "raptr_ablation_rates.csv")
    assert set(sweep["method"]) == set(CONTENDERS)
    assert all(set(RATES) <= set(rates) for _, rates in sweep.groupby("method")["lr"])
    sweep = sweep.assign(family="gpt2", budget=1.0)
    assert beyond(sweep) == {}
    assert {label: rate for (_, label, _), rate in best_rates(sweep).items()} == BEST_RATE
    assert set(sweep["seed"]) <= {*ABLATION.scales["rates"].seeds, *MORE_SEEDS}
    assert not set(sweep["seed"]) & set(QUICK.seeds)
