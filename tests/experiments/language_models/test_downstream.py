"""The proxies of a run's checkpoints, beside its rows."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from est_analysis.downstream.proxies import SMOKE
from est_analysis.errors import InputError
from est_analysis.experiments.language_models import downstream
from est_analysis.experiments.language_models.downstream import METRICS, DownstreamSettings, measure_downstream
from est_analysis.experiments.language_models.flatness import SCALES, entries
from est_analysis.experiments.runs.run import run
from est_analysis.experiments.runs.store import collect

SETTINGS = DownstreamSettings(sizes=SMOKE, steps=(0, 2, 4))


@pytest.fixture(scope="module")
def measured(spec, quiet, tmp_path_factory):
    spec = replace(spec, settings=replace(spec.settings, keep_every=2))
    result = run(spec, quiet, root=tmp_path_factory.mktemp("runs"))
    measure_downstream(SETTINGS, spec, result)
    return spec, result


def test_first_and_last_checkpoint_have_all_proxies_and_others_some(measured):
    _, result = measured
    rows = pd.read_csv(result.folder / "downstream.csv")
    plain = rows[~rows["metric"].str.endswith(("_stderr", "_chance"))]
    for step in (0, 4):
        assert set(plain.loc[plain["step"] == step, "metric"]) == set(METRICS.values())
    assert set(plain.loc[plain["step"] == 2, "metric"]) == {METRICS[task] for task in SETTINGS.along}
    assert rows["value"].between(0, 1).all()
    assert not rows.duplicated(["step", "metric"]).any()
    assert set(METRICS.values()) <= set(collect([result.folder])["metric"])


def test_nothing_is_measured_twice_but_other_settings_are(measured, monkeypatch):
    spec, result = measured
    note = json.loads((result.folder / "downstream.json").read_text())
    assert note["settings"]["sizes"]["words"] == SMOKE.words
    monkeypatch.setattr(downstream, "load", lambda folder: pytest.fail("measured again"))
    measure_downstream(SETTINGS, spec, result)
    with pytest.raises(pytest.fail.Exception):
        measure_downstream(replace(SETTINGS, steps=()), spec, result)


def test_a_checkpoint_that_was_not_kept_is_named(measured):
    spec, result = measured
    with pytest.raises(InputError, match="kept no checkpoint of step 3; give it another keep_every"):
        measure_downstream(replace(SETTINGS, steps=(3,)), spec, result)


def test_flatness_measures_models_of_python_source_only_and_late_checkpoints():
    def steps(corpus):
        return {
            (entry.labels["corpus"], entry.labels["method"]): one.args[0].steps
            for entry in entries(SCALES["quick"], corpus=corpus)
            for one in entry.after
            if getattr(one, "func", None) is measure_downstream
        }

    found = steps("python")
    assert found["text", "est"] == (0, 240, 280, 360, 480, 600)
    assert found["text", "full"] == (0, 240, 280, 360, 480, 600)
    assert found["text", "full/half"] == (300,)
    assert {language for language, _ in found} == {"text"}
    assert ("text", "est/constant-lr") not in found
    assert steps("other.txt") == {}
