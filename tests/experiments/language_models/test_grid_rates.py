"""Learning rates of the grid: the committed sweeps."""

from pathlib import Path

import pandas as pd
import pytest

from est_analysis.experiments.language_models.contenders import CONTENDERS
from est_analysis.experiments.language_models.grid import SCALES
from est_analysis.experiments.language_models.grid_rates import (
    BEST_RATE,
    BEST_RATE_AT,
    BEST_RATE_LONGER,
    LONGER,
    best_rate,
)
from est_analysis.experiments.runs.rate_sweep import LIMITS, MORE_SEEDS, RATES, best_rates, beyond, finalists

DATA = Path(__file__).parents[3] / "paper_figures" / "data"


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(DATA / "grid_rates.csv")


def test_every_contender_has_the_best_rate_of_the_committed_sweep(committed):
    found = {
        (family, label, budget): rate
        for budget, families in {1.0: BEST_RATE, **BEST_RATE_AT}.items()
        for family, rates in families.items()
        for label, rate in rates.items()
    }
    assert best_rates(committed) == found
    assert set(BEST_RATE) == set(SCALES["quick"].families) == set(SCALES["rates"].families)
    assert all(set(rates) == set(CONTENDERS) for rates in BEST_RATE.values())
    assert set(BEST_RATE_AT) == set(SCALES["quick"].budgets) == set(SCALES["rates"].budgets)
    assert all(set(families["gpt2"]) == set(SCALES["quick"].frontier) for families in BEST_RATE_AT.values())


def test_the_committed_sweep_tried_all_rates_and_what_follows(committed):
    last = finalists(committed)
    for name, runs in committed.groupby(["family", "method", "budget"]):
        assert set(RATES) <= set(runs["lr"])
        assert runs["lr"].between(*LIMITS).all()
        for _, seeds in runs.groupby("lr")["seed"]:
            assert seeds.is_unique
        seeds = runs.groupby("lr")["seed"].agg(set)
        assert all(seeds[rate] == {100, *MORE_SEEDS} for rate in last[name])
    assert beyond(committed) == {}
    assert set(committed["seed"]) == {*SCALES["rates"].seeds, *MORE_SEEDS}
    assert not set(committed["seed"]) & set(SCALES["quick"].seeds)


def test_longer_training_has_a_sweep_of_its_own():
    sweep, report = pd.read_csv(DATA / "grid_rates_report.csv"), SCALES["report"]
    kept = {("gpt2", label): BEST_RATE["gpt2"][label] for label in ("msg", "staged")}
    found = {(family, label): rate for (family, label, _), rate in best_rates(sweep).items()} | kept
    committed = {(family, label): rate for family, rates in BEST_RATE_LONGER.items() for label, rate in rates.items()}
    assert found == committed
    assert min(kept.values()) >= found["gpt2", "full"]
    assert beyond(sweep) == {}
    assert (report.best[1.0], report.steps) == (BEST_RATE_LONGER, sweep["steps"].max())
    assert report.best[0.5] == BEST_RATE_AT[2.0], "as many steps as twice those of the shorter training"
    for scale in (report, SCALES["report-rates"]):
        assert scale.contenders == LONGER
    assert (report.families, SCALES["report-rates"].families) == (tuple(BEST_RATE_LONGER), tuple(LONGER))
    assert all(set(rates) == set(LONGER[family]) for family, rates in BEST_RATE_LONGER.items())
    for name, rates in finalists(sweep).items():
        runs = sweep[(sweep["family"] == name[0]) & (sweep["method"] == name[1])]
        assert all(set(runs.loc[runs["lr"] == rate, "seed"]) == {100, *MORE_SEEDS} for rate in rates)


def test_what_was_not_swept_has_a_neighbours_rate():
    assert best_rate("t5", "mine") == BEST_RATE["t5"]["full"]
    assert best_rate("mine", "est") == BEST_RATE["gpt2"]["est"]
    assert best_rate("mine", "mine") == BEST_RATE["gpt2"]["full"]
