"""Learning rates of the grid: the committed sweep, and where a sweep goes on."""

from pathlib import Path

import pandas as pd
import pytest

from est_analysis.experiments.contenders import CONTENDERS
from est_analysis.experiments.grid import SCALES
from est_analysis.experiments.grid_rates import (
    BEST_RATE,
    BEST_RATE_LONGER,
    LIMITS,
    MORE_SEEDS,
    RATES,
    best_rate,
    best_rates,
    beyond,
    finalists,
)

DATA = Path(__file__).parents[2] / "paper_figures" / "data"


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(DATA / "grid_rates.csv")


def _sweep(**losses):
    """A sweep of EST on GPT-2: its losses by rate, in thousandths."""
    rows = [("gpt2", "est", int(name[1:]) / 1000, loss) for name, loss in losses.items()]
    return pd.DataFrame(rows, columns=["family", "method", "lr", "validation_loss"]).assign(seed=100)


@pytest.mark.parametrize(
    ("losses", "following"),
    [
        ({"r2": 3.0, "r4": 2.0, "r8": 3.0}, None),
        ({"r2": 1.0, "r4": 2.0, "r8": 3.0}, (2e-3, 1e-3)),
        ({"r2": 3.0, "r4": 2.0, "r8": 1.0}, (8e-3, 16e-3)),
        ({"r2": 3.0, "r4": 2.0, "r8": 1.0, "r16": 0.9}, (16e-3, 32e-3)),
        ({"r2": 3.0, "r4": 2.0, "r8": 1.0, "r16": 0.9, "r32": 0.8}, None),  # the limit
        ({"r1": 0.9, "r2": 1.0, "r4": 2.0, "r8": 3.0}, (1e-3, 0.5e-3)),
        ({"r1": 1.1, "r2": 1.0, "r4": 2.0, "r8": 3.0}, None),
        ({"r2": 3.0, "r4": 2.0, "r8": float("nan")}, None),  # a run that diverged is no best
    ],
)
def test_a_sweep_goes_on_where_its_best_is_at_an_end(losses, following):
    assert beyond(_sweep(**losses)) == ({("gpt2", "est"): following} if following else {})


def test_a_rate_beyond_the_usual_ones_has_to_hold_on_more_seeds():
    name, first = ("gpt2", "est"), _sweep(r2=3.0, r4=2.0, r8=1.0, r16=0.9, r32=0.95)
    assert beyond(first) == {}
    assert finalists(first) == {name: (8e-3, 16e-3)}
    assert finalists(_sweep(r2=3.0, r4=2.0, r8=3.0)) == {name: (4e-3,)}
    holds, fails = (
        pd.concat([first, *(_sweep(r8=1.0, r16=loss).assign(seed=seed) for seed in MORE_SEEDS)]) for loss in (0.9, 1.2)
    )
    assert (best_rates(holds), best_rates(fails)) == ({name: 16e-3}, {name: 8e-3})
    assert beyond(fails) == {}, "other seeds do not widen a sweep"


def test_every_contender_has_the_best_rate_of_the_committed_sweep(committed):
    assert best_rates(committed) == {
        (family, label): rate for family, rates in BEST_RATE.items() for label, rate in rates.items()
    }
    assert set(BEST_RATE) == set(SCALES["quick"].families) == set(SCALES["rates"].families)
    assert all(set(rates) == set(CONTENDERS) for rates in BEST_RATE.values())


def test_the_committed_sweep_tried_all_rates_and_what_follows(committed):
    last = finalists(committed)
    for name, runs in committed.groupby(["family", "method"]):
        assert set(RATES) <= set(runs["lr"])
        assert runs["lr"].between(*LIMITS).all()
        for _, seeds in runs.groupby("lr")["seed"]:
            assert seeds.is_unique
        again = {rate for rate, seed in zip(runs["lr"], runs["seed"], strict=True) if seed in MORE_SEEDS}
        assert again == (set(last[name]) if len(last[name]) > 1 else set())
    assert beyond(committed) == {}
    assert set(committed["seed"]) == {*SCALES["rates"].seeds, *MORE_SEEDS}
    assert not set(committed["seed"]) & set(SCALES["quick"].seeds)


def test_what_longer_training_may_allow_was_swept_again():
    sweep = pd.read_csv(DATA / "grid_rates_report.csv")
    first = sweep[sweep["seed"] == 100]
    assert all(sorted(rates) == sorted(RATES) for _, rates in first.groupby("method")["lr"])
    runs = sweep.groupby(["method", "lr"])["validation_loss"].agg(["mean", "size"])
    best = {
        label: rates.loc[rates["size"] == rates["size"].max(), "mean"].idxmin()[1]
        for label, rates in runs.groupby("method")
    }
    assert BEST_RATE_LONGER["gpt2"] == BEST_RATE["gpt2"] | best
    report = SCALES["report"]
    assert (report.best, report.steps) == (BEST_RATE_LONGER, sweep["steps"].max())
    low = {label for label, rate in BEST_RATE["gpt2"].items() if rate < max(RATES)}
    assert set(report.contenders) == set(CONTENDERS) - (low - set(best)), (
        "no rate of the shorter training is taken over"
    )


def test_what_was_not_swept_has_a_neighbours_rate():
    assert best_rate("t5", "mine") == BEST_RATE["t5"]["full"]
    assert best_rate("mine", "est") == BEST_RATE["gpt2"]["est"]
    assert best_rate("mine", "mine") == BEST_RATE["gpt2"]["full"]
