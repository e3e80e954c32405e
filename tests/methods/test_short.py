"""The full model on as many steps as a schedule's layer FLOPs pay for."""

import json

import pandas as pd
import pytest

from est_analysis.experiments.runs.run import run
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.methods import build_method
from est_analysis.methods.cost import default_cost, method_cost
from est_analysis.models.hf import load_folder
from est_analysis.subnet.cost import find_architecture, schedule_cost
from est_analysis.subnet.schedule import SCHEDULES, find_schedule
from est_analysis.train.settings import Execution, Settings

GPT2 = find_architecture("gpt2")


def _build(schedule=None, *, steps=150, architecture=GPT2):
    return build_method("short", shape=architecture.stack, total_steps=steps, seed=0, schedule=schedule)


@pytest.mark.parametrize(
    ("schedule", "steps", "trained"),
    [
        (None, 150, 110),  # 20 / 4 + 50 / 2 + 80
        (None, 30, 22),
        ("full", 30, 30),
        ("gpt2-one-stage", 30, 15),
        ("bert-raptr-6-8-10-12", 100, 75),
        ("table1", 100, 58),  # (1/4 + 1/2 + 1) / 3 = 58.3 %
        ("1:0.01,0.01,0.01", 2, 1),  # never none
    ],
)
def test_steps_by_hand(schedule, steps, trained):
    method = _build(schedule, steps=steps)
    assert method.steps_to_train(GPT2) == trained
    assert all(method.mask(step) is None for step in range(1, steps))
    assert (method.course.transitions, method.course.total_steps) == ((), steps)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("model", ["gpt2", "tinyllama"])
def test_it_costs_what_the_schedule_does_to_half_a_step(schedule, model):
    architecture, total = find_architecture(model), 10_000
    method = _build(schedule, steps=total, architecture=architecture)
    saving = schedule_cost(find_schedule(schedule).rescaled(total), architecture).paper_saving
    cost = method_cost(method, architecture)
    assert cost.total_steps == total
    assert abs(cost.paper_saving - saving) <= 0.5 / total + 1e-12
    assert cost.true_saving == pytest.approx(cost.paper_saving, rel=1e-12, abs=1e-15)


def test_the_default_costs_what_est_does():
    schedule, cost = default_cost("short", GPT2)
    assert schedule.name == "gpt2-est"
    assert cost.paper_saving == pytest.approx(4 / 15, rel=1e-12)
    assert [(stage.steps, stage.rates.full) for stage in cost.stages] == [(110_000, True)]
    assert cost.left_out == 40_000


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(shared, monkeypatch):
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(shared / "cache"))

    def make(method, **settings):
        steps = Settings(**{"steps": 15, "warmup": 5, "log_every": 1, "eval_every": 6, "save_every": 4} | settings)
        return TrainSpec(
            method=method,
            corpus=str(shared / "text.txt"),
            batch_size=2,
            seq_len=16,
            validation_tokens=64,
            settings=steps,
        )

    return make


def _rows(folder):
    rows = pd.read_csv(folder / "rows.csv")
    return {metric: part.set_index("step")["value"] for metric, part in rows.groupby("metric")}


def test_a_run_is_the_full_models_of_fewer_steps(spec, tmp_path):
    """15 steps with 5 of warm-up become 11 with 3, in every bit of the weights."""
    quiet = Execution(threads=1, progress=False)
    short = run(spec("short", rewarm=2), quiet, out=tmp_path / "short")
    full = run(spec("full", steps=11, warmup=3, rewarm=2), quiet, out=tmp_path / "full")
    assert short.steps == full.steps == 11
    assert short.checkpoint.name == "step000011"
    assert json.loads((short.folder / "finished.json").read_text())["steps"] == 11
    names = ("model.safetensors", "config.json")
    assert all((short.checkpoint / name).read_bytes() == (full.checkpoint / name).read_bytes() for name in names)
    ours, theirs = _rows(short.folder), _rows(full.folder)
    assert ours.keys() == theirs.keys()
    for metric in ours.keys() - {"step_seconds"}:
        pd.testing.assert_series_equal(ours[metric], theirs[metric])
    # Decayed to the end: the last of 8 steps after the warm-up has an eighth of the peak.
    assert ours["learning_rate"][11] == pytest.approx(spec("short").settings.lr / 8)
    assert set(ours["stage"]) == {0}
    assert list(ours["validation_loss"].index) == [0, 6, 11]
    assert load_folder(short.checkpoint).config.num_layers == 6
    assert run(spec("short", rewarm=2), quiet, out=tmp_path / "short").cached


@pytest.mark.parametrize(("method", "staged"), [("raptr", True), ("pld", False), ("stochastic_depth", False)])
def test_the_rate_is_warmed_up_again_only_where_a_stage_begins(spec, tmp_path, method, staged):
    """The schedule of a method without stages measures its cost and no more."""
    quiet = Execution(threads=1, progress=False)
    rates = [
        _rows(run(spec(method, rewarm=rewarm, log_every=1), quiet, out=tmp_path / str(rewarm)).folder)["learning_rate"]
        for rewarm in (0, 2)
    ]
    assert rates[0].equals(rates[1]) != staged


def test_flops_of_layers_are_ests(spec, tmp_path):
    quiet = Execution(threads=1, progress=False)
    spent = []
    for method in ("short", "est"):
        folder = run(spec(method), quiet, out=tmp_path / method).folder
        spent.append(_rows(folder)["layer_flops"].iloc[-1])
    assert spent[0] == pytest.approx(spent[1], rel=1e-12)
