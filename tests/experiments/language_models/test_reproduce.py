"""Which runs the main recipe makes, and at which rates."""

from dataclasses import replace

import pandas as pd
import pytest

from est_analysis.committed import DATA
from est_analysis.errors import InputError
from est_analysis.experiments.language_models import reproduce, reproduce_scales
from est_analysis.experiments.language_models.reproduce_scales import METHODS, SCALES, specs
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, RATES, best_rates, beyond, finalists
from est_analysis.experiments.study import Request


def test_every_scale_is_a_valid_plan():
    assert {"smoke", "quick", "report"} <= set(SCALES)
    for scale in SCALES.values():
        runs = specs(scale, corpus="python")
        first = 100 if scale.tried else 0  # a sweep has seeds of its own
        count = scale.seeds * max(1, len(scale.tried))
        assert [spec.method for spec in runs] == [method for method in METHODS for _ in range(count)]
        assert sorted({spec.seed for spec in runs}) == list(range(first, first + scale.seeds))
        assert {spec.settings.lr for spec in runs} == set(scale.tried or scale.lr.values())
        assert len(specs(scale, corpus="python", seeds=7)) == 7 * len(runs) // scale.seeds


def test_a_sweep_of_learning_rates_measures_nothing_else(shared, tmp_path, monkeypatch):
    """After one step the loss falls with the rate; the full model's usual rates run on more seeds besides the best."""
    monkeypatch.setitem(SCALES, "rates", replace(SCALES["smoke"], steps=1, tried=RATES))
    monkeypatch.setattr(reproduce_scales, "METHODS", ("full",))
    said = []
    request = Request(
        scale="rates", corpus=str(shared / "text.txt"), seeds=None, runs=tmp_path, workers=1, say=said.append
    )
    frame, _ = reproduce.measure(request)
    first, more = frame[frame["seed"] == 100], frame[frame["seed"] != 100]
    assert set(first["lr"]) == {*RATES, 16e-3, 32e-3}
    assert (set(more["seed"]), set(more["lr"])) == (set(MORE_SEEDS), {*RATES, 16e-3, 32e-3})
    assert not frame["metric"].str.startswith(("hessian", "sampling")).any()
    assert said[-1] == "best learning rate of full: 0.032"


@pytest.mark.parametrize(("scale", "file"), [("quick", "learning_rates.csv"), ("report", "learning_rates_report.csv")])
def test_every_method_has_the_best_rate_of_the_committed_sweep(scale, file):
    sweep = pd.read_csv(DATA / file)
    best = {method: rate for (method,), rate in best_rates(sweep, by=("method",)).items()}
    assert SCALES[scale].lr == best
    assert beyond(sweep, by=("method",)) == {}
    assert set(sweep["steps"]) == {SCALES[scale].steps}
    seeds = sweep.groupby(["method", "lr"])["seed"].agg(set)
    for (method,), rates in finalists(sweep, by=("method",)).items():
        assert all(seeds[method, rate] == {100, *MORE_SEEDS} for rate in rates)


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seeds(seeds):
    with pytest.raises(InputError, match=f"seeds={seeds} must be at least 1"):
        specs(SCALES["smoke"], corpus="python", seeds=seeds)
