"""Where a sweep of learning rates goes on, and which it finds the best."""

from dataclasses import replace

import pandas as pd
import pytest

from est_analysis.experiments.language_models import flatness
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, best_rates, beyond, final_losses, finalists, try_rates

NAME = ("gpt2", "est", 1.0)


def _sweep(**losses):
    """A sweep of EST on GPT-2: its losses by rate, in thousandths."""
    rows = [(*NAME, int(name[1:]) / 1000, loss) for name, loss in losses.items()]
    return pd.DataFrame(rows, columns=["family", "method", "budget", "lr", "validation_loss"]).assign(seed=100)


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
    assert beyond(_sweep(**losses)) == ({NAME: following} if following else {})


def test_the_two_best_rates_of_one_seed_are_decided_by_several():
    first = _sweep(r2=3.0, r4=2.0, r8=1.0, r16=0.9, r32=0.95)
    assert beyond(first) == {}
    assert finalists(first) == {NAME: (16e-3, 32e-3)}
    assert best_rates(first) == {NAME: 16e-3}, "by its first seed, for want of others"
    again = [(0.9, 1.2, 32e-3), (1.2, 0.9, 16e-3)]
    for upper, lower, best in again:
        more = [_sweep(r16=lower, r32=upper).assign(seed=seed) for seed in MORE_SEEDS]
        assert best_rates(pd.concat([first, *more])) == {NAME: best}
        assert beyond(pd.concat([first, *more])) == {}, "other seeds do not widen a sweep"


def test_budgets_are_swept_apart():
    short = _sweep(r2=2.0, r4=1.0, r8=3.0).assign(budget=0.5)
    sweep = pd.concat([short, _sweep(r2=3.0, r4=2.0, r8=1.0)])
    assert best_rates(sweep) == {("gpt2", "est", 0.5): 4e-3, NAME: 8e-3}
    assert beyond(sweep) == {NAME: (8e-3, 16e-3)}


def test_contenders_are_told_apart_by_the_columns_that_are_named():
    sweep = _sweep(r2=2.0, r4=1.0, r8=3.0).drop(columns=["family", "budget"]).assign(corpus="hmm")
    more = pd.concat([sweep, sweep.assign(corpus="text", validation_loss=-sweep["validation_loss"])])
    by = ("corpus", "method")
    assert best_rates(more, by=by) == {("hmm", "est"): 4e-3, ("text", "est"): 8e-3}
    assert finalists(more, by=by) == {("hmm", "est"): (4e-3, 2e-3), ("text", "est"): (8e-3, 2e-3)}
    assert beyond(more, by=by) == {("text", "est"): (8e-3, 16e-3)}


def test_a_sweep_of_flatness_runs_the_octaves_first_and_then_the_best_on_more_seeds():
    """Losses are made up: 16e-3 is the best of EST on seed 100 and 8e-3 on the others."""
    scale = replace(flatness.SCALES["report-rates"], variants=("est",))
    rounds = []

    def run(entries):
        rounds.append(sorted((e.spec.settings.lr, e.spec.seed) for e in entries))
        rows = [{**e.labels, "lr": e.spec.settings.lr, "seed": e.spec.seed} for e in entries]
        frame = pd.DataFrame(rows).assign(run_id=range(len(rows)))
        best = frame["seed"].map({100: 16e-3}).fillna(8e-3)
        return frame.assign(metric="validation_loss", step=1, value=(frame["lr"] - best).abs())

    said = []
    rows = try_rates(flatness.entries(scale, corpus="python"), run, say=said.append, by=flatness.SWEPT)
    first = [(lr, 100) for lr in (2e-3, 4e-3, 8e-3)]
    octaves = [*first, (16e-3, 100)], [*first, (16e-3, 100), (32e-3, 100)]
    last = sorted([*octaves[1], *((lr, seed) for lr in (8e-3, 16e-3) for seed in MORE_SEEDS)])
    assert rounds == [first, octaves[0], octaves[1], last]
    assert len(said) == 4
    assert said[-1] == "best learning rate of hmm est: 0.008"
    assert best_rates(final_losses(rows), by=flatness.SWEPT) == {("hmm", "est"): 8e-3}


def test_the_best_is_of_all_rates_that_most_seeds_ran_at():
    """More seeds than the rule asks for: 2e-3 is the third on the first seed and the best of all."""
    seeds = [_sweep(r2=3.0, r4=2.0, r8=2.5), *(_sweep(r2=1.0, r4=2.0, r8=2.5).assign(seed=seed) for seed in MORE_SEEDS)]
    assert best_rates(pd.concat(seeds)) == {NAME: 2e-3}


def test_a_diverged_run_is_no_best_and_ends_the_octaves():
    sweep = _sweep(r2=3.0, r4=2.0, r8=1.0, r16=float("inf"))
    assert beyond(sweep) == {}
    assert best_rates(sweep) == {NAME: 8e-3}
