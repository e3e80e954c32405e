"""A bank trains as its nets would one by one, charges what ran, and survives being stopped."""

import errno
import os
import signal
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from est_analysis.errors import Diverged, InputError
from est_analysis.methods import build_method
from est_analysis.models.bank import ResidualNetBank
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream
from est_analysis.train import bank as module
from est_analysis.train.bank import BankJob, train_bank
from est_analysis.train.loop import Stopped
from est_analysis.train.optim import learning_rate
from est_analysis.train.settings import Settings

SEEDS, STEPS, LAYERS, HIDDEN = (0, 1, 2), 24, 12, 6
SETTINGS = Settings(steps=STEPS, lr=0.01, warmup=2, weight_decay=0.0, clip=0.0, log_every=5, eval_every=8, save_every=4)


def _net(seed):
    return ResidualNet(num_inputs=4, hidden=HIDDEN, num_layers=LAYERS).initialise(seed).double()


def _batch(step, seeds=SEEDS):
    x = torch.stack([torch.randn(9, 4, generator=stream(seed, "x", step), dtype=torch.float64) for seed in seeds])
    return x, x.prod(2)


def _method(name, seed):
    return build_method(name, shape=_net(0).shape, total_steps=STEPS, seed=seed)


def _job(folder, name, **changes):
    fields = {
        "folder": folder,
        "bank": ResidualNetBank([_net(seed) for seed in SEEDS]),
        "methods": [_method(name, seed) for seed in SEEDS],
        "batch": _batch,
        "measure": lambda nets: {"spread": nets(_batch(0)[0]).std(1).tolist()},
        "held_out": _batch(0),
        "settings": SETTINGS,
        "tail": 3,
    }
    return BankJob(**(fields | changes))


def _alone(name, seed):
    """The same training with a plain net, autograd and torch's own AdamW."""
    net, method = _net(seed), _method(name, seed)
    optimizer = torch.optim.AdamW(net.parameters(), betas=SETTINGS.betas, weight_decay=0.0)
    for step in range(1, STEPS + 4):
        optimizer.param_groups[0]["lr"] = learning_rate(min(step, STEPS), SETTINGS)
        growth = method.growth(step) if step <= STEPS else None
        for target, source in growth.copies if growth else ():
            for to, what in zip(net.blocks[target].parameters(), net.blocks[source].parameters(), strict=True):
                to.data.copy_(what.data)
                optimizer.state[to] = {k: v.clone() for k, v in optimizer.state[what].items()}
        x, y = _batch(step, (seed,))
        optimizer.zero_grad(set_to_none=False)
        net.loss(x[0], y[0], method.mask(step) if step <= STEPS else None).backward()
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        optimizer.step()
    return net


@pytest.mark.parametrize("name", ["full", "est", "raptr", "raptr_reversed", "pld", "stochastic_depth"])
def test_a_bank_trains_as_its_nets_would_alone(tmp_path, name):
    job = _job(tmp_path, name)
    train_bank(job)
    for index, seed in enumerate(SEEDS):
        alone = _alone(name, seed).state_dict()
        for key, value in job.bank.state_of(index).items():
            # Adam divides by the root of squared gradients: rounding of 1e-16 grows where those are tiny.
            torch.testing.assert_close(value, alone[key], rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


def test_a_bank_that_grows_trains_as_its_nets_would_alone(tmp_path):
    job = _job(tmp_path, "gradual_stacking")
    train_bank(job)
    alone = _alone("gradual_stacking", SEEDS[1]).state_dict()
    # 12 layers are not a multiple of a source's own depth here, so a wrong source would show.
    for key, value in job.bank.state_of(1).items():
        torch.testing.assert_close(value, alone[key], rtol=1e-7, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", ["raptr", "gradual_stacking"])
def test_stopped_and_resumed_is_never_stopped(tmp_path, name):
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    whole = _job(tmp_path / "whole", name)
    rows = train_bank(whole)

    def interrupted(step):
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return _batch(step)

    with pytest.raises(Stopped, match="stopped at step 13"):
        train_bank(_job(tmp_path / "parts", name, batch=interrupted))
    resumed = _job(tmp_path / "parts", name)
    assert train_bank(resumed) == rows
    for key, value in whole.bank.state_dict().items():
        assert torch.equal(value, resumed.bank.state_dict()[key]), key


def test_rows_charge_what_ran(tmp_path):
    def value(rows, metric, seed):
        return [v for s, _, m, v in rows if (s, m) == (seed, metric)]

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    full, raptr = train_bank(_job(tmp_path / "a", "full")), train_bank(_job(tmp_path / "b", "raptr"))
    layer = 3 * 9 * 2 * 2 * HIDDEN * HIDDEN  # forward and backward; 9 samples; two products of 2 operations each
    assert value(full, "layer_flops", 0)[-1] == STEPS * LAYERS * layer
    for seed in SEEDS:
        method = _method("raptr", seed)
        depth = [LAYERS if method.mask(s) is None else len(method.mask(s).active_layers) for s in range(1, STEPS + 1)]
        assert value(raptr, "layer_flops", seed)[-1] == sum(depth) * layer
    steps = {step for _, step, metric, _ in raptr if metric == "subnet_loss_after"}
    assert steps == set(_method("raptr", 0).schedule.transitions)
    assert {step for _, step, metric, _ in raptr if metric.startswith("tail_")} == {STEPS + 1, STEPS + 3}


def test_losses_at_transitions_are_of_one_stage_however_short_it_is(tmp_path):
    """Of stages of fewer steps than masks are drawn: only those of the transition's side count."""
    (tmp_path / "a").mkdir()
    job = _job(tmp_path / "a", "raptr")
    course, used = job.methods[0].schedule, []
    assert min(end - begin for begin, end in pairwise((0, *course.transitions))) < module._TRANSITION_MASKS
    trainer = module._BankTrainer(job)
    trainer.job = SimpleNamespace(
        methods=[SimpleNamespace(schedule=course, mask=used.append)],
        held_out=job.held_out,
        bank=SimpleNamespace(num_nets=1, join=lambda masks: None, losses=lambda *args: torch.zeros(1)),
    )
    for end in course.transitions:
        for at, first in ((end, end - 7), (end + 1, end + 1)):
            used.clear()
            trainer._measure_subnets("before", at, range(max(1, first), first + 8))
            assert used
            assert {course.stage_at(step) for step in used} == {course.stage_at(at)}


def test_what_it_cannot_do_is_refused(tmp_path):
    with pytest.raises(InputError, match="1 methods for 3 nets"):
        _job(tmp_path, "full", methods=[_method("full", 0)])
    with pytest.raises(InputError, match="without clipping"):
        _job(tmp_path, "full", settings=Settings(steps=STEPS))
    for changed in ({"rewarm": 2}, {"skipped_gradient": "none"}):
        with pytest.raises(InputError, match="knows no rewarm, and gives bypassed layers a zero gradient"):
            _job(tmp_path, "full", settings=replace(SETTINGS, **changed))
    (tmp_path / "state.pt").write_text("no state")
    with pytest.raises(InputError, match="is damaged"):
        train_bank(_job(tmp_path, "full"))


def test_a_state_is_on_disk_before_it_replaces_the_last(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("est_analysis.train.bank.sync", fail)
    with pytest.raises(InputError, match=r"could not write .*state\.pt \(.*Input/output error"):
        train_bank(_job(tmp_path, "full"))
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_it(tmp_path):
    broken = _job(tmp_path, "full", batch=lambda step: (_batch(step)[0] * float("nan"), _batch(step)[1]))
    with pytest.raises(Diverged, match="seed 0 is nan at step 5"):
        train_bank(broken)
