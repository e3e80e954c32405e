"""Flatness along training: which runs there are, and what is measured of their checkpoints."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from est_analysis.any_checkpoint.text import TextSource
from est_analysis.any_checkpoint.trace import TraceSettings, prepare
from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate
from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.data.synthetic import parse
from est_analysis.errors import InputError
from est_analysis.experiments.language_models import flatness, grid
from est_analysis.experiments.language_models.along_training import (
    CurvatureSettings,
    measure_best_loss,
    measure_curvature,
    parameter_kind,
)
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, best_rates, beyond, finalists
from est_analysis.experiments.runs.run import num_parameters, prepare_data, run
from est_analysis.experiments.runs.side_by_side import run_all
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.subnet.schedule import find_schedule
from est_analysis.train.settings import Settings

QUICK, SMOKE = flatness.SCALES["quick"], flatness.SCALES["smoke"]
DATA = Path(__file__).parents[3] / "paper_figures" / "data"
GROUPS = ("tokens", "positions", "norms", "attention", "mlp")
AT = CurvatureSettings(fifteenths=(5, 15), max_pairs=8, micro_batches=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared, quiet):
    """An EST run of 15 steps that kept all checkpoints, and its rows of curvature."""
    settings = Settings(steps=15, log_every=5, eval_every=1, save_every=15, keep_every=1)
    spec = TrainSpec(corpus=str(shared / "text.txt"), batch_size=4, seq_len=16, validation_tokens=64, settings=settings)
    result = run(spec, quiet, root=tmp_path_factory.mktemp("runs"))
    measure_curvature(AT, spec, result)
    return spec, result


def rows_of(result, name="curvature"):
    rows = pd.read_csv(result.folder / f"{name}.csv")
    assert not rows.duplicated(["step", "metric"]).any()
    return rows.pivot(index="step", columns="metric", values="value")


@pytest.mark.parametrize("name", ["hessian_trace", "fisher_trace", "scale_invariant"])
def test_groups_sum_to_the_whole(finished, name):
    rows = rows_of(finished[1])
    assert rows.index.tolist() == [5, 15]
    assert rows[[f"{name}_{group}" for group in GROUPS]].sum(axis=1).to_numpy() == pytest.approx(rows[name].to_numpy())
    assert set(rows.columns[rows.columns.str.fullmatch(rf"{name}_(?!stderr)\w+(?<!_stderr)")]) == {
        f"{name}_{group}" for group in GROUPS
    }


def test_every_parameter_is_in_its_group(finished):
    model = load(locate(finished[1].checkpoint)).model
    norms = dict.fromkeys(GROUPS, 0.0)
    for name, parameter in model.named_parameters():
        norms[parameter_kind(name)] += parameter.double().square().sum().item()
    last = rows_of(finished[1]).loc[15]
    for group, square in norms.items():
        assert last[f"weight_norm_{group}"] == pytest.approx(math.sqrt(square))
    assert last["weight_norm"] == pytest.approx(math.sqrt(sum(norms.values())))


def test_top_eigenvalue_bounds_every_quotient_and_is_of_the_end_only(finished):
    """|v' H v| <= |lambda| |v|^2, with the Hessian of the same batch by finite differences of gradients."""
    spec, result = finished
    rows = rows_of(result)
    assert np.isnan(rows.loc[5, "top_eigenvalue"])
    text = TextSource(corpora=(spec.corpus,))
    prepared = prepare(
        load(locate(result.checkpoint)), TraceSettings(text=text, engine="hvp", seq_len=16, micro_batch=4, probes=1)
    )
    objective, batch = prepared.objective, prepared.inputs[0]
    assert isinstance(objective, LanguageModelObjective)

    def gradient(at):
        leaves = {name: value.double().requires_grad_() for name, value in at.items()}
        return torch.autograd.grad(objective.loss(leaves, batch), list(leaves.values()), materialize_grads=True)

    here = gradient(objective.parameters)
    size = torch.stack([part.norm() for part in here]).norm()
    step = 1e-4
    moved = {
        name: value.double() + step * part / size
        for (name, value), part in zip(objective.parameters.items(), here, strict=True)
    }
    product = [(there - part) / step for there, part in zip(gradient(moved), here, strict=True)]
    quotient = sum((part / size * times).sum() for part, times in zip(here, product, strict=True)).item()
    top = rows.loc[15, "top_eigenvalue"]
    assert (
        0 < quotient <= 1.02 * top
    )  # along the gradient curvature is high: the bound is a test of the operator's size
    assert quotient > 0.02 * top


def test_measured_once_and_again_if_asked_otherwise(finished, monkeypatch):
    spec, result = finished
    before = (result.folder / "curvature.csv").read_text()
    monkeypatch.setattr(
        "est_analysis.experiments.language_models.along_training.load", partial(pytest.fail, "measured again")
    )
    measure_curvature(AT, spec, result)
    assert (result.folder / "curvature.csv").read_text() == before
    assert json.loads((result.folder / "curvature.json").read_text())["settings"]["fifteenths"] == [5, 15]
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        measure_curvature(replace(AT, max_pairs=9), spec, result)


def test_a_checkpoint_that_was_not_kept_is_refused(finished):
    spec, result = finished
    with pytest.raises(InputError, match=r"kept no checkpoint of step 30; give it another keep_every"):
        measure_curvature(AT, spec, replace(result, steps=30))


def test_settings_are_checked():
    with pytest.raises(InputError, match=r"fifteenths=\(0,\) must be numbers from 1 to 15"):
        CurvatureSettings(fifteenths=(0,))


def test_the_best_loss_is_the_filters_on_the_windows_of_validation(tmp_path, quiet):
    settings = Settings(steps=1, log_every=1, eval_every=1, save_every=1)
    spec = TrainSpec(
        method="full", corpus="hmm:3,8,0,20000", batch_size=4, seq_len=8, validation_tokens=9999, settings=settings
    )
    result = run(spec, quiet, root=tmp_path)
    measure_best_loss(spec, result)
    found = rows_of(result, "best_loss").loc[1, "best_loss"]
    language = parse(spec.corpus)
    text = language.symbols(np.asarray(prepare_data(spec).validation)[:-1])  # without the separator
    windows = [text[start : start + 9] for start in range(0, len(text) - 8, 8)]  # all there are, of 9,999 tokens asked
    losses = [[-math.log(p) for p in _predicted(language.model, window)[1:]] for window in windows]
    assert found == pytest.approx(np.mean(losses))


def _predicted(model, symbols):
    """The forward filter, written out."""
    belief, found = model.stationary, []
    for symbol in symbols:
        joint = belief * model.emission[:, symbol]
        found.append(joint.sum())
        belief = joint / joint.sum() @ model.transition
    return found


# Which runs -----------------------------------------------------------------------------------------------------------


def rates_of(runs):
    """Learning rates by language and contender."""
    return {(e.labels["corpus"], e.labels["method"]): e.spec.settings.lr for e in runs}


def curvature_of(entry):
    """Its settings of curvature, or None where nothing is measured."""
    return next((one.args[0] for one in entry.after if getattr(one, "func", None) is measure_curvature), None)


def test_every_variant_runs_on_its_languages_and_no_run_twice():
    runs = flatness.entries(QUICK, corpus="python")
    assert len({repr(entry.spec) for entry in runs}) == len(runs)
    labels = {name: {e.labels["method"] for e in runs if e.labels["corpus"] == name} for name in QUICK.languages}
    everywhere = {label for label, variant in flatness.VARIANTS.items() if "hmm" in variant.languages}
    assert labels["text"] == flatness.VARIANTS.keys()
    rates = flatness.SCALES["quick"].languages["hmm"].rates
    same = {"full/est-rate", "full/est-rate-half"} if rates["full"] == rates["est"] else set()
    assert labels["hmm"] == everywhere - same
    assert all({e.spec.seed for e in runs if e.labels["method"] == label} == {0, 1, 2} for label in labels["text"])


def test_checkpoints_are_kept_and_losses_evaluated_where_curvature_is_measured():
    """And EST's transitions are among these steps."""
    for entry in flatness.entries(QUICK, corpus="python"):
        settings = entry.spec.settings
        assert settings.steps % flatness.FIFTEENTHS == 0
        curvature = curvature_of(entry)
        for step in curvature.steps(settings.steps) if curvature else ():
            assert step % settings.keep_every == step % settings.eval_every == 0
    assert set(find_schedule("gpt2-est").rescaled(600).transitions) <= set(QUICK.curvature.steps(600))


def test_what_changes_one_thing_keeps_the_rate():
    lr = rates_of(flatness.entries(QUICK, corpus="python"))
    for language in QUICK.languages:
        for label in ("est/decayed-embeddings", "est/unscaled", "full/est-rate"):
            assert lr.get((language, label), lr[language, "est"]) == lr[language, "est"]
        assert lr[language, "full/half"] == lr[language, "full"]
        assert lr.get((language, "full/est-rate-half"), lr[language, "full/half"]) == lr[language, "est"]
    assert lr["text", "full/constant-lr"] == lr["text", "est/constant-lr"] == lr["text", "est"]
    assert all(lr["text", label] == grid.BEST_RATE["gpt2"][label] for label in ("full", "est", "raptr"))


@pytest.mark.parametrize(("scale", "file"), [("quick", "flatness_rates.csv"), ("report", "flatness_rates_report.csv")])
def test_every_rate_is_the_best_of_the_sweep(scale, file):
    sweep, by, scale = pd.read_csv(DATA / file), flatness.SWEPT, flatness.SCALES[scale]
    best = best_rates(sweep, by=by)
    assert {name: scale.languages[name[0]].rates[name[1]] for name in best} == best
    assert {name for name in best if name[0] == "hmm"} == {("hmm", label) for label in scale.languages["hmm"].rates}
    assert ("text", "dropout") in best or "dropout" not in scale.languages["text"].rates
    assert beyond(sweep, by=by) == {}
    seeds = sweep.groupby([*by, "lr"])["seed"].agg(set)
    for name, tried in finalists(sweep, by=by).items():
        assert all(seeds[(*name, rate)] == {100, *MORE_SEEDS} for rate in tried)
    assert set(sweep["steps"]) == {scale.steps}


def test_the_longer_training_has_what_the_claims_on_equal_loss_read_and_nothing_else():
    runs = flatness.entries(flatness.SCALES["report"], corpus="python")
    lr = rates_of(runs)
    for language in ("text", "hmm"):
        assert lr[language, "full/half"] == lr[language, "full"]
        assert lr[language, "full/est-rate-half"] == lr[language, "est"]
    assert lr["text", "est"] == grid.BEST_RATE_LONGER["gpt2"]["est"]
    assert {e.spec.seed for e in runs} == set(range(5))
    assert all(len(e.after) == (1 if e.labels["corpus"] == "text" else 2) for e in runs)  # curvature; the least loss


def test_the_sweep_tries_each_rate_and_measures_nothing():
    runs = flatness.entries(flatness.SCALES["rates"], corpus="python")
    assert {e.labels["method"] for e in runs} == {"full", "est", "dropout", "raptr"}
    assert len(runs) == 4 * 3 * 2
    assert all(e.after == () and e.spec.seed == 100 for e in runs)


def test_a_short_study_in_this_process(tmp_path):
    """Labels, languages and what is measured of which run."""
    runs = flatness.entries(SMOKE, corpus="hmm:4,16,1,20000", variants=("est", "full/half", "est/constant-lr"))
    steps = {e.labels["method"]: curvature_of(e) and curvature_of(e).steps(e.spec.settings.steps) for e in runs}
    assert steps == {"est": [28, 60], "full/half": [30], "est/constant-lr": None}
    frame = run_all(runs, root=tmp_path, workers=0)
    assert not frame.duplicated(["run_id", "seed", "step", "metric"]).any()
    found = frame.groupby("metric")[["corpus", "method"]].apply(lambda rows: set(map(tuple, rows.to_numpy())))
    measured = {("text", "est"), ("hmm", "est"), ("text", "full/half"), ("hmm", "full/half")}
    assert found["hessian_trace"] == found["fisher_trace"] == found["top_eigenvalue"] == measured
    assert found["best_loss"] == {("hmm", "est"), ("hmm", "full/half")}
    assert found["validation_loss"] == measured | {("text", "est/constant-lr")}
    assert num_parameters(runs[0].spec) > 1000
