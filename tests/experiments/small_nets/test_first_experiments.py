"""The first experiments: costs that are equal, data that is pure, rates that are chosen fairly, masks that are all."""

from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch

from est_analysis.claims import judge
from est_analysis.claims.first_experiments import CLAIMS
from est_analysis.errors import InputError
from est_analysis.experiments.runs.spec import run_id
from est_analysis.experiments.small_nets import first_experiments as study
from est_analysis.experiments.small_nets import linear_factors as linear
from est_analysis.experiments.small_nets.first_contenders import NETS, TASK_NAMES, trainings
from est_analysis.experiments.small_nets.first_runs import first_spec, run_first, try_first
from est_analysis.experiments.small_nets.first_tasks import TASKS, TaskSizes, open_task
from est_analysis.experiments.study import Request
from est_analysis.models.mlp import PlainMLP
from est_analysis.models.mlp_bank import MLPBank
from est_analysis.train.bank import BankJob, train_bank
from est_analysis.train.optim import learning_rate

SMALL = TaskSizes(batch_size=4, held_out=20)


def _spec(net, label, *, task="polynomial", steps=180, seeds=(0, 1)):
    return first_spec(task, net, NETS[net][label], steps=steps, lr=3e-3, seeds=seeds, sizes=SMALL)


def _cost(net, label, steps):
    """Mean share of columns and layers over the steps that the others take, in expectation."""
    method = _spec(net, label, steps=steps).build_method(0)
    rates = [method.expected_rates(step) for step in range(1, method.schedule.total_steps + 1)]
    return sum(one.mlp * one.layers for one in rates) / steps


@pytest.mark.parametrize(
    ("net", "label", "cost"),
    [
        ("mlp", "full", 1),
        ("mlp", "short", 11 / 15),
        ("mlp", "est", 11 / 15),
        ("mlp", "est/unscaled", 11 / 15),
        ("mlp", "est/one-stage", 1 / 2),
        *(("mlp", f"est/{name}", 5 / 8) for name in ("linear", "exponential", "step", "flat")),
        ("stack", "short", 3 / 4),
        *(("stack", label, 3 / 4) for label in ("est", "raptr", "raptr/sqrt_gap", "raptr/linear_gap", "raptr/warm-up")),
        *(("stack", f"raptr/{name}", 5 / 8) for name in ("linear", "exponential", "step")),
    ],
)
def test_what_is_compared_costs_the_same(net, label, cost):
    assert _cost(net, label, 180) == pytest.approx(cost)


def test_the_warm_up_moves_full_steps_and_changes_nothing_else():
    plain, warm = (_spec("stack", label).build_method(0).schedule.spans for label in ("raptr", "raptr/warm-up"))
    assert [steps for steps, rates in warm] == [40, 60, 60, 20]
    assert [rates.layers for _, rates in warm] == [1, 0.5, 0.75, 1]
    lengths = [{}, {}]
    for counted, spans in zip(lengths, (plain, warm), strict=True):
        for steps, rates in spans:
            counted[rates.layers] = counted.get(rates.layers, 0) + steps
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("name", TASK_NAMES)
def test_data_depends_on_seed_and_step_alone(name):
    task = open_task(name, SMALL, (3, 4))
    x, y = task.batch(7)
    task.batch(200)
    again = open_task(name, SMALL, (4, 3)).batch(7)
    assert torch.equal(again[0].flip(0), x)
    assert torch.equal(again[1].flip(0), y)
    assert not torch.equal(task.batch(8)[0], x)
    assert not torch.equal(task.held_out[0][0], task.held_out[0][1])


def test_a_polynomial_has_variance_one():
    task = open_task("polynomial", replace(SMALL, held_out=20_000), (0,))
    # Kurtosis of a polynomial of degree 4 is below 81: a relative error of the variance below 9/sqrt(20000).
    assert task.held_out[1].var().item() == pytest.approx(1.0, abs=0.2)
    assert task.measure(lambda x: torch.zeros(x.shape[:2]))["validation_loss"][0] == pytest.approx(1.0, abs=0.2)


def test_a_bank_of_mlps_trains_as_its_nets_would_alone(tmp_path):
    spec = replace(_spec("mlp", "est", task="digits", steps=15), seeds=(0, 1))
    task, method = open_task("digits", SMALL, (0, 1)), spec.build_method(1)
    bank = MLPBank([spec.build_net(seed) for seed in (0, 1)])
    methods = [spec.build_method(seed) for seed in (0, 1)]
    job = BankJob(folder=tmp_path, bank=bank, methods=methods, batch=task.batch, measure=task.measure,
                  held_out=task.held_out, settings=spec.settings)  # fmt: skip
    train_bank(job)
    net: PlainMLP = spec.build_net(1)
    optimizer = torch.optim.AdamW(net.parameters(), betas=spec.settings.betas, weight_decay=0.0)
    for step in range(1, 16):
        optimizer.param_groups[0]["lr"] = learning_rate(step, spec.settings)
        x, y = task.batch(step)
        optimizer.zero_grad(set_to_none=False)
        torch.nn.functional.cross_entropy(net(x[1], method.mask(step)), y[1]).backward()
        optimizer.step()
    for name, value in bank.state_of(1).items():  # float32, 15 steps; Adam enlarges rounding of tiny gradients
        torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-2, atol=1e-4)


def test_a_finished_bank_is_not_repeated(tmp_path):
    spec = _spec("stack/no-residual", "raptr", steps=15)
    folder = run_first(spec, tmp_path)
    written = (folder / "rows.csv").stat().st_mtime_ns
    assert run_first(spec, tmp_path) == folder
    assert (folder / "rows.csv").stat().st_mtime_ns == written


def test_the_best_rate_is_that_of_the_least_mean_final_loss(monkeypatch):
    scale = replace(study.SCALES["quick"], rates=(1.0, 2.0, 3.0), rate_seeds=(100, 101))
    ours, theirs = trainings()[:2]
    monkeypatch.setattr(study, "trainings", lambda: [ours, theirs])
    finals = {(ours, 1.0): (0.5, 0.1), (ours, 2.0): (0.2, 0.2)}  # at 3.0 it diverges
    finals |= {(theirs, 1.0): (0.1, 0.1), (theirs, 2.0): (0.2, 0.2), (theirs, 3.0): (0.3, 0.3)}

    def run(specs):
        rows = []
        for (one, lr), losses in finals.items():
            spec = scale.spec(one, lr, scale.rate_seeds)
            assert spec in specs
            for seed, loss in zip((100, 101), losses, strict=True):
                name = run_id(spec, data_hash="")
                rows += [(name, seed, 10, "validation_loss", -5.0), (name, seed, 720, "validation_loss", loss)]
        return pd.DataFrame(rows, columns=["run_id", "seed", "step", "metric", "value"])

    assert study.best_rates(scale, run) == {ours: 2.0, theirs: 1.0}


def test_a_rate_that_is_too_high_gives_nothing(tmp_path):
    spec = _spec("stack/no-norm", "full", steps=30)
    assert try_first(replace(spec, settings=replace(spec.settings, lr=1e9)), tmp_path) is None
    assert try_first(spec, tmp_path) == run_first(spec, tmp_path)


@pytest.mark.parametrize("changes", [{"net": "cnn"}, {"task": "mnist"}, {"seeds": ()}, {"seeds": (1, 1)}])
def test_bad_specs_are_refused(changes):
    with pytest.raises(InputError, match=r"no net|distinct"):
        replace(_spec("mlp", "est"), **changes)
    with pytest.raises(InputError, match="digits"):
        open_task("digit", SMALL, (0,))
    assert set(TASKS) == set(TASK_NAMES)


@pytest.mark.parametrize("law", linear.LAWS)
def test_all_masks_are_all_of_the_law_that_is_drawn(law):
    settings = linear.LinearSettings(units=4, steps=4000, seeds=1)
    masks = linear.all_masks(4, law)
    assert sum(chance for chance, _ in masks) == pytest.approx(1.0)
    drawn = linear._drawn(settings, law, 0)
    counts = {tuple(gates.tolist()): (drawn == gates).all(1).double().mean().item() for _, gates in masks}
    assert sum(counts.values()) == pytest.approx(1.0)  # nothing else is drawn
    for chance, gates in masks:  # 5 standard errors of a share of 4000 draws
        assert counts[tuple(gates.tolist())] == pytest.approx(chance, abs=5 * (chance / 4000) ** 0.5)


def test_a_linear_net_follows_the_gradient_of_its_loss():
    settings = linear.LinearSettings(units=4, steps=1, seeds=2, lr=1e-3)
    start, after = (linear.train_factors(replace(settings, lr=lr), "fixed_size") for lr in (0.0, 1e-3))
    left, right = start.left.clone().requires_grad_(), start.right.clone().requires_grad_()
    gates = torch.stack([linear._drawn(settings, "fixed_size", seed)[0] for seed in (0, 1)])
    linear.Factors(target=start.target, left=left, right=right).loss(gates).sum().backward()
    torch.testing.assert_close(after.left, start.left - 1e-3 * left.grad)
    torch.testing.assert_close(after.right, start.right - 1e-3 * right.grad)


def test_too_many_units_to_enumerate_are_refused():
    for units in (3, 18):
        with pytest.raises(InputError, match=f"units={units}"):
            linear.LinearSettings(units=units)


def test_the_smallest_scale_is_judged(tmp_path, monkeypatch):
    few = list(product(("polynomial",), ("mlp",), ("full", "est", "short")))
    monkeypatch.setattr(study, "trainings", lambda: few)
    request = Request(scale="smoke", corpus="python", seeds=1, runs=tmp_path, workers=1, say=lambda line: None)
    frame, facts = study.STUDY.run(request)
    verdicts = {one.claim: one for one in judge(CLAIMS.values(), frame, "smoke")}
    assert {one.verdict for one in verdicts.values()} == {"inconclusive", "untested"}  # one seed has no interval
    assert verdicts["est.first.mlp-flops.polynomial"].effect is not None
    assert verdicts["est.first.linear-penalty"].effect < 1e-10
    assert facts["seeds"] == [0]
    assert set(frame["task"]) == {"polynomial", "linear"}
