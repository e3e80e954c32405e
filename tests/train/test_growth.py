"""Copied layers, what the optimizer knows of them, and a run that is stopped where it grows."""

import pytest
import torch
from torch import nn

from est_analysis.errors import InputError
from est_analysis.methods import Growth
from est_analysis.models.hf import load_folder
from est_analysis.rng import stream
from est_analysis.train.growth import apply_growth
from est_analysis.train.loop import Stopped, train

OPTIONS = ("copy", "zero", "reset_all")


@pytest.fixture
def grown():
    """Four linear layers of which the first two have trained; the optimizer is a fused AdamW."""
    blocks = nn.ModuleList(nn.utils.skip_init(nn.Linear, 3, 3) for _ in range(4))
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            parameter.normal_(generator=stream(0, name))
    optimizer = torch.optim.AdamW(blocks.parameters(), lr=0.1, fused=True)
    for step in range(3):
        x = torch.randn(5, 3, generator=stream(0, "x", step))
        blocks[1](blocks[0](x)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return blocks, optimizer


def _values(blocks):
    return [[parameter.clone() for parameter in block.parameters()] for block in blocks]


def _states(blocks, optimizer):
    """The state of every parameter of every block as plain values, None where there is none."""
    return [
        [
            {k: v.tolist() for k, v in optimizer.state[p].items()} if p in optimizer.state else None
            for p in b.parameters()
        ]
        for b in blocks
    ]


@pytest.mark.parametrize("option", OPTIONS)
def test_targets_become_their_sources(grown, option):
    blocks, optimizer = grown
    before, identity = _values(blocks), [id(p) for p in blocks.parameters()]
    apply_growth(blocks, optimizer, Growth(copies=((2, 0), (3, 1)), optimizer=option))
    for now, was in zip(_values(blocks), [before[i] for i in (0, 1, 0, 1)], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(now, was, strict=True))
    assert [id(p) for p in blocks.parameters()] == identity, "the optimizer must keep its parameters"
    assert not any(
        a.data_ptr() == b.data_ptr() for a, b in zip(blocks[2].parameters(), blocks[0].parameters(), strict=True)
    )
    assert all(p.grad is None and p.requires_grad for p in blocks.parameters())


def test_copied_state_is_the_sources_and_its_own(grown):
    blocks, optimizer = grown
    before = _states(blocks, optimizer)
    assert before[2] == [None, None]
    apply_growth(blocks, optimizer, Growth(copies=((2, 0), (3, 1))))
    assert _states(blocks, optimizer) == [before[0], before[1], before[0], before[1]]
    optimizer.state[blocks[2].weight]["exp_avg"].add_(1)
    assert _states(blocks, optimizer)[0] == before[0]


def test_zero_makes_targets_new_to_the_optimizer_even_if_they_had_trained(grown):
    blocks, optimizer = grown
    before = _states(blocks, optimizer)
    apply_growth(blocks, optimizer, Growth(copies=((1, 0), (2, 0)), optimizer="zero"))
    assert _states(blocks, optimizer) == [before[0], [None] * 2, [None] * 2, [None] * 2]


def test_reset_all_forgets_everything(grown):
    blocks, optimizer = grown
    apply_growth(blocks, optimizer, Growth(copies=((2, 0),), optimizer="reset_all"))
    assert _states(blocks, optimizer) == [[None] * 2] * 4


def test_a_source_without_state_leaves_its_target_without(grown):
    blocks, optimizer = grown
    apply_growth(blocks, optimizer, Growth(copies=((1, 3),)))
    assert _states(blocks, optimizer)[1] == [None, None]


def test_sources_are_read_before_targets_are_written(grown):
    blocks, optimizer = grown
    values, states = _values(blocks), _states(blocks, optimizer)
    apply_growth(blocks, optimizer, Growth(copies=((0, 1), (1, 0), (2, 1))))
    order = (1, 0, 1, 3)
    assert all(
        torch.equal(a, b)
        for now, i in zip(_values(blocks), order, strict=True)
        for a, b in zip(now, values[i], strict=True)
    )
    assert _states(blocks, optimizer) == [states[i] for i in order]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_copied_layer_trains_on_as_its_source_would(grown, option):
    """The same gradient moves source and copy alike if the copy has the same state, and only then."""
    blocks, optimizer = grown
    apply_growth(blocks, optimizer, Growth(copies=((2, 0), (3, 1)), optimizer=option))
    for i in (0, 2):
        blocks[i].weight.grad = torch.ones(3, 3)
    optimizer.step()
    assert torch.equal(blocks[0].weight, blocks[2].weight) == (option != "zero")


# --- in the loop ------------------------------------------------------------------------------------------------------


def _stacking(option):
    # 4 layers in 12 steps: 2, 3, 4 of them, growing before steps 5 and 9.
    return {"method": "gradual_stacking", "options": {"optimizer": option}}


@pytest.fixture(scope="module")
def unbroken(harness, tmp_path_factory):
    found = {}
    for option in OPTIONS:
        folder = tmp_path_factory.mktemp(option)
        harness.train(folder, **_stacking(option))
        found[option] = harness.state(folder, 12)
    return found


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("at", [4, 5, 8, 9, 10])
@pytest.mark.parametrize("action", ["kill", "SIGTERM"])
def test_a_run_resumed_across_a_growth_equals_an_unbroken_one(harness, tmp_path, unbroken, option, at, action):
    with pytest.raises(harness.Killed if action == "kill" else Stopped):
        harness.train(tmp_path, at=at, action=action, **_stacking(option))
    harness.train(tmp_path, **_stacking(option))
    assert harness.state(tmp_path, 12) == unbroken[option]


def test_the_options_are_different_algorithms(unbroken):
    assert len({unbroken[option]["weights"] for option in OPTIONS}) == 3


def test_growth_comes_after_the_transitions_checkpoint_and_before_the_next_step(harness, tmp_path, monkeypatch):
    job, seen = harness.job(tmp_path, skipped_gradient="none", **_stacking("copy")), []

    def spy(blocks, optimizer, growth):
        checkpoint = load_folder(job.checkpoints.path(job.checkpoints.steps()[-1]))
        assert all(torch.equal(a, b) for a, b in zip(checkpoint.blocks.parameters(), blocks.parameters(), strict=True))
        seen.append((job.checkpoints.steps()[-1], growth.copies))
        apply_growth(blocks, optimizer, growth)

    monkeypatch.setattr("est_analysis.train.loop.apply_growth", spy)
    train(job, harness.quiet)
    assert seen == [(4, ((2, 1),)), (8, ((3, 2),))]
    # Idle layers are part of every saved model, untouched until they grow.
    initial, before = (load_folder(job.checkpoints.path(step)).state_dict() for step in (0, 4))
    idle = [name for name in initial if name.startswith(("blocks.2.", "blocks.3."))]
    assert all(torch.equal(initial[name], before[name]) for name in idle)


def test_a_run_without_growth_before_it_is_told_apart(harness, tmp_path, unbroken, monkeypatch):
    """Planted: a loop that forgets to grow ends elsewhere."""
    monkeypatch.setattr("est_analysis.train.loop.apply_growth", lambda *_: None)
    harness.train(tmp_path, **_stacking("copy"))
    assert harness.state(tmp_path, 12)["weights"] != unbroken["copy"]["weights"]


def test_an_unknown_option_is_refused_before_training(harness, tmp_path):
    with pytest.raises(InputError, match="unknown optimizer 'other'"):
        harness.job(tmp_path, **_stacking("other"))
