"""The ablations: the stages they say, the savings of the papers, the grid's own runs, and rates from the sweep."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.claims.est_ablations import TABLE_3
from est_analysis.experiments.language_models import grid
from est_analysis.experiments.language_models.est_ablations import (
    ABLATION,
    BEST_RATE,
    BEST_RATE_LONGER,
    COMPONENTS,
    CONTENDERS,
)
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, RATES, best_rates, beyond
from est_analysis.experiments.study import Request
from est_analysis.methods.cost import method_cost
from est_analysis.subnet.cost import find_architecture, schedule_cost
from est_analysis.subnet.schedule import find_schedule

DATA = Path(__file__).parents[3] / "paper_figures" / "data"
QUICK = ABLATION.scales["quick"]


def _schedule(label):
    return find_schedule(CONTENDERS[label].schedule or "gpt2-est")


def _rates(label, step):
    """(heads, MLP, layers) at a step of 150, by the spans and not by the code that trains."""
    start = 0
    for steps, rates in _schedule(label).rescaled(150).spans:
        start += steps
        if step <= start:
            return rates.heads, rates.mlp, rates.layers
    raise AssertionError(step)


@pytest.mark.parametrize(
    ("label", "sampled"),
    [(f"est/only-{name}", {place}) for place, name in enumerate(("heads", "mlp", "layers"))]
    + [("est/heads-layers", {0, 2}), ("est/mlp-layers", {1, 2}), ("est/two-stage-b", {0, 1}), ("est", {0, 1, 2})],
)
def test_a_component_is_ests_schedule_with_the_other_rates_at_one(label, sampled):
    assert label in COMPONENTS or label in ("est", "est/two-stage-b")
    for step in range(1, 151):
        expected = tuple(rate if place in sampled else 1 for place, rate in enumerate(_rates("est", step)))
        assert _rates(label, step) == expected


@pytest.mark.parametrize(
    ("label", "saving"),
    [
        ("est/one-stage", 50.0),
        ("est/two-stage-a", 16.7),
        ("est/two-stage-b", 23.3),
        ("est/two-stage-c", 30.0),
        ("est/three-stage", 26.7),
        ("est", 26.7),
        ("est/linear", 26.7),
        ("est/exponential", 26.7),
        ("est/two-stage", 26.7),
        ("est/half-as-long", 13.3),
        ("est/twice-as-long", 53.3),
    ],
)
def test_savings_are_the_papers_or_what_was_meant(label, saving):
    assert 100 * schedule_cost(_schedule(label), find_architecture("gpt2")).paper_saving == pytest.approx(
        saving, abs=0.05
    )


def test_other_lengths_keep_ests_rates_and_multiply_its_stages():
    """But the last stage, which has what is left."""
    first, second, _ = _schedule("est").rescaled(150).spans
    for label, factor in (("est/half-as-long", 0.5), ("est/twice-as-long", 2)):
        spans = _schedule(label).rescaled(150).spans
        assert [(steps / factor, rates) for steps, rates in spans[:2]] == [first, second]


def test_the_control_spends_what_one_stage_does():
    found = {}
    both = replace(QUICK, seeds=(0,), contenders={"gpt2": ("short/half", "est/one-stage")})
    for entry in ABLATION.entries(both, corpus="python"):
        architecture = entry.spec.architecture(entry.spec.model_config(vocab_size=256))
        method = entry.spec.build_method(entry.spec.model_config(vocab_size=256))
        found[entry.labels["method"]] = method_cost(method, architecture).paper_saving
    assert found["short/half"] == pytest.approx(found["est/one-stage"])


def test_what_the_grid_has_are_its_own_runs():
    on_grid = {(e.labels["method"], e.spec.seed): e.spec for e in grid.entries(grid.SCALES["quick"], corpus="python")
               if (e.labels["family"], e.labels["budget"]) == ("gpt2", 1)}  # fmt: skip
    ours = {(e.labels["method"], e.spec.seed): e.spec for e in ABLATION.entries(QUICK, corpus="python")}
    shared = on_grid.keys() & ours.keys()
    assert {label for label, _ in shared} == {"full", "short", "est", "est/two-stage", "est/constant"}
    assert all(repr(ours[key]) == repr(on_grid[key]) for key in shared)
    assert len({repr(spec) for spec in ours.values()}) == len(ours) == 3 * len(CONTENDERS)


def test_every_contender_has_a_learning_rate_of_the_sweep():
    sweep = pd.read_csv(DATA / "ablation_rates.csv")
    tried = sweep.groupby("method")["lr"].agg(set)
    assert set(tried.index) == set(CONTENDERS)
    assert all(set(RATES) <= rates for rates in tried)
    sweep = sweep.assign(family="gpt2", budget=1.0)
    assert beyond(sweep) == {}
    assert {label: rate for (_, label, _), rate in best_rates(sweep).items()} == BEST_RATE
    assert set(sweep["seed"]) <= {*ABLATION.scales["rates"].seeds, *MORE_SEEDS}
    assert not set(sweep["seed"]) & set(QUICK.seeds)


def test_longer_training_has_table_3():
    assert set(TABLE_3) < set(BEST_RATE_LONGER) < set(CONTENDERS)


def test_a_few_run(shared, tmp_path):
    """Both that take a piece of sampling away, beside the baseline."""
    chosen = ("full", "est", "est/bernoulli", "est/unscaled")
    request = Request(
        scale="smoke", corpus=str(shared / "text.txt"), seeds=None, runs=tmp_path, workers=2, say=lambda line: None
    )
    few = replace(ABLATION, contenders={label: CONTENDERS[label] for label in chosen})
    frame, facts = few.measure(request)
    assert facts["seeds"] == [0]
    assert facts["contenders"] == {label: CONTENDERS[label].note for label in chosen}
    assert set(frame["method"]) == set(chosen)
    assert not {"family", "budget"} & set(frame.columns)
    end = frame[frame["step"] == few.scales["smoke"].steps].set_index(["method", "metric"])["value"]
    assert end["est", "layer_flops"] == end["est/unscaled", "layer_flops"] < end["full", "layer_flops"]
    losses = {end[label, "validation_loss"] for label in chosen}
    assert len(losses) == len(chosen), "an option that changes nothing would give the same loss"
