"""Polynomial runs: pure data, paired across methods, cached by content; and the recipes made of them."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from est_analysis.claims import judge
from est_analysis.claims.registry import CLAIMS
from est_analysis.errors import InputError
from est_analysis.experiments.runs.spec import run_id
from est_analysis.experiments.small_nets import polynomial_recipes as recipes
from est_analysis.experiments.small_nets.polynomials import PolynomialData, PolynomialSpec, run_polynomials
from est_analysis.train.settings import Settings

SETTINGS = Settings(steps=24, lr=0.01, weight_decay=0.0, clip=0.0, log_every=6, eval_every=12, save_every=12)
SIZES = {"dimension": 5, "max_degree": 2, "terms": 2, "hidden": 6, "num_layers": 12, "batch_size": 8, "points": 64}


def _spec(**changes):
    return PolynomialSpec(**({"method": "raptr", "seeds": (3, 4), "settings": SETTINGS} | SIZES | changes))


def test_data_depends_on_seed_and_step_alone():
    data = PolynomialData(_spec())
    x, y = data.batch(7)
    data.batch(200)
    again = PolynomialData(_spec(method="pld", seeds=(4, 3))).batch(7)
    assert torch.equal(again[0].flip(0), x)
    assert torch.equal(again[1].flip(0), y)
    assert not torch.equal(data.batch(8)[0], x)
    assert x.abs().eq(1).all()
    assert y[0].tolist() == pytest.approx(data.polynomials[0](x[0]).tolist())


def test_methods_of_one_seed_share_polynomial_and_initialisation():
    one, other = _spec(method="raptr"), _spec(method="full")
    assert one.polynomial(3).supports == other.polynomial(3).supports
    for a, b in zip(one.net(3).parameters(), other.net(3).parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.polynomial(3).supports != one.polynomial(4).supports


def test_a_finished_run_is_not_repeated_and_grouping_changes_rounding_alone(tmp_path):
    together = run_polynomials(_spec(), root=tmp_path)
    written = (together / "rows.csv").stat().st_mtime_ns
    assert run_polynomials(_spec(), root=tmp_path) == together
    assert (together / "rows.csv").stat().st_mtime_ns == written
    alone = pd.read_csv(run_polynomials(_spec(seeds=(4,)), root=tmp_path) / "rows.csv")
    rows = pd.read_csv(together / "rows.csv").query("seed == 4").reset_index(drop=True)
    assert rows.drop(columns=["run_id", "value"]).equals(alone.drop(columns=["run_id", "value"]))
    assert rows["value"].tolist() == pytest.approx(alone["value"].tolist(), rel=1e-3, abs=1e-4)  # float32, 24 steps


def test_every_field_is_in_the_name():
    names = {run_id(spec, data_hash="") for spec in (_spec(), _spec(tail=1), _spec(residual=False), _spec(seeds=(3,)))}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_degree": 6}, "6"),
        ({"terms": 11}, "11"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"tail": -1}, "tail=-1"),
        ({"seeds": ()}, "distinct and at least one"),
        ({"seeds": (1, 1)}, "distinct and at least one"),
        ({"residual": False, "output_scale": "sqrt_gap"}, "nets without residuals have none"),
        ({"method": "staged"}, "staged does more than mask"),
        ({"num_layers": 2}, "cannot be met|too few|depth"),
        ({"method": "plt"}, "pld"),
        ({"schedule": "1:1,1,0.5; 2:1,1,0.25"}, "may only grow"),
    ],
)
def test_bad_specs_say_what_to_do(changes, message):
    with pytest.raises(InputError, match=message):
        _spec(**changes)


def test_recipes_pair_methods_and_match_budgets():
    scale = replace(recipes._QUICK, steps=400)
    specs = recipes.method_specs(scale, seeds=6)
    assert {spec.method for spec in specs} == set(recipes.RAPTR_VS_PLD)
    assert all(sorted(s for spec in specs if spec.method == m for s in spec.seeds) == list(range(6)) for m in
               recipes.RAPTR_VS_PLD)  # fmt: skip
    depths = {}
    for spec in specs:
        for seed in spec.seeds:
            method = spec.build_method(seed)
            masks = [method.mask(step) for step in range(1, 401)]
            mean = sum(12 if mask is None else len(mask.active_layers) for mask in masks) / 400
            depths.setdefault(spec.method, []).append(mean)
    for method, found in depths.items():
        # Six seeds, 400 steps, at most 1.6 layers of spread a step: a standard error of 0.03 layers.
        assert sum(found) / len(found) == pytest.approx(12 if method == "full" else 9, abs=0.12), method


def test_transitions_cover_architectures_and_scalings():
    labels = {recipes.label(spec) for spec in recipes.transition_specs(recipes._QUICK, seeds=1)}
    assert {"raptr", "est/no-residual", "pld/no-norm", "gradual_stacking/no-residual/no-norm"} <= labels
    assert {"raptr/sqrt_gap", "raptr/linear_gap", "raptr/inv_p"} <= labels
    assert len(labels) == 19


@pytest.mark.parametrize("study", recipes.STUDIES, ids=lambda study: study.name)
def test_every_claim_of_a_recipe_can_be_judged(study, tmp_path):
    from est_analysis.experiments.study import Request

    lines = []
    request = Request(scale="smoke", corpus="python", seeds=1, runs=tmp_path, workers=2, say=lines.append)
    frame, facts = study.run(request)
    claims = [claim for claim in CLAIMS.values() if claim.recipe == study.name]
    assert len(claims) >= 5
    verdicts = judge(claims, frame, "smoke")
    assert {verdict.verdict for verdict in verdicts} <= {"inconclusive", "untested"}  # one seed has no interval
    assert sum(verdict.effect is not None for verdict in verdicts) >= 2
    assert facts["seeds"] == [0]
    assert "2 at once" in lines[0]
    with pytest.raises(InputError, match="smoke"):
        study.run(replace(request, scale="smok"))
