"""Stopped anywhere, by anything, and resumed: the same bits as never stopped."""

import os
import shutil
import signal
from contextlib import suppress

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.methods import METHODS
from est_analysis.models.hf import load_folder
from est_analysis.train.loop import Stopped

# 12 steps, rows every 4, validation every 7, checkpoints every 5; gpt2-est changes after 2 and 6, raptr and its
# controls after 3, 6 and 9, stacking grows after 4 and 8.
POINTS = {
    "full": {"first": 1, "mid-window": 3, "before a save": 5, "after a save": 6, "last": 12},
    "est": {"before a transition": 2, "after it": 3, "mid-window": 5, "mid-interval": 9, "last": 12},
    "raptr": {"before a transition": 3, "after it": 4, "mid-window": 6, "mid-interval": 8, "last": 12},
    "raptr_reversed": {"before a transition": 6, "after it": 7},
    "stochastic_depth": {"mid-interval": 8},
    "layer_dropout": {"mid-interval": 8},
    "short": {"mid-interval": 6},  # it ends after 8
    "pld": {"after the full step": 2, "mid-interval": 8},
    "gradual_stacking": {"before growth": 4, "at growth": 5, "between growths": 7, "at the last growth": 9},
    "msg": {"before growth": 2, "at growth": 3, "at the next": 4, "before the last": 6, "at the last": 7},
    "progressive_stacking": {"before growth": 2, "at growth": 3, "at the last growth": 5},
}
CASES = [
    pytest.param(method, point, action, id=f"{method}-{name}-{action}")
    for method in METHODS
    for name, point in POINTS.get(method, {"mid-interval": 8}).items()
    for action in ("kill", "SIGTERM")
]


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".writing"]


@pytest.fixture(scope="module")
def unbroken(harness, tmp_path_factory):
    """What a run of each method leaves when nothing stops it."""
    found = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp(method)
        job = harness.train(folder, method=method)
        found[method] = harness.state(folder, job.settings.steps)
    return found


@pytest.mark.parametrize(("method", "point", "action"), CASES)
def test_interrupted_once(harness, tmp_path, unbroken, method, point, action):
    if action == "kill":
        with pytest.raises(harness.Killed):
            harness.train(tmp_path, method=method, at=point, action=action)
    elif point == 12:  # asked for in the last step, a stop changes nothing
        harness.train(tmp_path, method=method, at=point, action=action)
    else:
        with pytest.raises(Stopped, match=rf"stopped at step {point} of \d+; everything is saved in .*resume"):
            harness.train(tmp_path, method=method, at=point, action=action)
        assert harness.job(tmp_path, method=method).checkpoints.resumable()[-1] == point
    job = harness.train(tmp_path, method=method)
    assert harness.state(tmp_path, job.settings.steps) == unbroken[method]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("method", METHODS)
def test_stopped_after_every_step(harness, tmp_path, unbroken, method):
    last = harness.job(tmp_path, method=method).settings.steps
    for step in range(1, last):
        with pytest.raises(Stopped):
            harness.train(tmp_path, method=method, at=step, action="SIGINT")
    harness.train(tmp_path, method=method)
    assert harness.state(tmp_path, last) == unbroken[method]


def test_resumed_with_masks_drawn_inline(harness, tmp_path, unbroken):
    from dataclasses import replace

    with pytest.raises(harness.Killed):
        harness.train(tmp_path, at=8)
    harness.train(tmp_path, replace(harness.quiet, masks_ahead=0))
    assert harness.state(tmp_path, 12) == unbroken["est"]


def test_finished_but_not_declared_so(harness, tmp_path, unbroken):
    """Killed between the last checkpoint and the note that the run is finished: there is nothing left to do."""
    harness.train(tmp_path)
    harness.train(tmp_path)
    assert harness.state(tmp_path, 12) == unbroken["est"]


def test_a_second_signal_stops_at_once(harness, tmp_path, unbroken):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    job = harness.job(tmp_path, at=8)
    job.batches._action = twice
    from est_analysis.train.loop import train

    with pytest.raises(KeyboardInterrupt):
        train(job, harness.quiet)
    assert job.checkpoints.resumable()[-1] == 6
    harness.train(tmp_path)
    assert harness.state(tmp_path, 12) == unbroken["est"]


def test_signal_handlers_are_given_back(harness, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    harness.train(tmp_path / "whole", steps=4)
    with suppress(harness.Killed):
        harness.train(tmp_path / "killed", steps=4, at=2)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class DyingDisk:
    """From file operation number `at` on, every one that changes the disk fails, as if the process were no more."""

    NAMES = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")

    def __init__(self, monkeypatch, killed, at):
        self.count, self.at = 0, at
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._dying(getattr(os, name), killed))

    def _dying(self, operation, killed):
        def wrapper(*args, **kwargs):
            self.count += 1
            if self.count >= self.at:
                raise killed
            return operation(*args, **kwargs)

        return wrapper


SHORT = {"method": "est", "steps": 4, "log_every": 2, "eval_every": 3, "save_every": 1}


@pytest.fixture(scope="module")
def short(harness, tmp_path_factory):
    """The unbroken short run, and how many file operations it takes."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        disk = DyingDisk(patch, harness.Killed, at=10**9)
        harness.train(folder, **SHORT)
    return harness.state(folder, 4), disk.count


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_file_operation(harness, tmp_path, short, part):
    expected, count = short
    assert count > 40, "the operations are not being watched"
    for at in range(1 + part, count + 1, 4):
        folder = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            DyingDisk(patch, harness.Killed, at)
            with pytest.raises(harness.Killed):
                harness.train(folder, **SHORT)
        checkpoints = harness.job(folder, **SHORT).checkpoints
        for step in checkpoints.steps():
            load_folder(checkpoints.path(step))  # whatever has its final name is complete
        harness.train(folder, **SHORT)
        assert harness.state(folder, 4) == expected, f"killed at file operation {at}"
        assert leftovers(folder) == [], f"killed at file operation {at}"


@pytest.mark.parametrize("name", [".writing-step000007", ".writing-step000005", ".removing-step000003"])
def test_half_written_folders_are_ignored_and_cleaned_up(harness, tmp_path, unbroken, name):
    with pytest.raises(harness.Killed):
        harness.train(tmp_path, at=8)
    left = tmp_path / "checkpoints" / name
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (left / "trainer.pt").write_bytes(b"half")
    checkpoints = harness.job(tmp_path).checkpoints
    assert not {3, 7} & set(checkpoints.steps())
    harness.train(tmp_path)
    assert harness.state(tmp_path, 12) == unbroken["est"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "torn",
    [
        "est-test,0,8,train_loss,3.2",
        "est-test,0,8,tra",
        "est-te",
        "est-test,0,12",
        "est-test,0,8,train_loss,3.25\nest-test,0,8,lea",
    ],
)
def test_rows_after_the_checkpoint_and_a_torn_last_line_are_dropped(harness, tmp_path, unbroken, torn):
    with pytest.raises(harness.Killed):
        harness.train(tmp_path, at=8)
    with (tmp_path / "rows.csv").open("a") as file:
        file.write(torn)
    harness.train(tmp_path)
    assert harness.rows(tmp_path) == unbroken["est"]["rows"]


DAMAGE = {
    "weights cut": ("model.safetensors", lambda data: data[: len(data) // 2]),
    "weights empty": ("model.safetensors", lambda data: b""),
    "weights gone": ("model.safetensors", None),
    "weights garbage": ("model.safetensors", lambda data: b"garbage" * 100),
    "state cut": ("trainer.pt", lambda data: data[: len(data) // 2]),
    "state cut by a byte": ("trainer.pt", lambda data: data[:-1]),
    "state empty": ("trainer.pt", lambda data: b""),
    "state garbage": ("trainer.pt", lambda data: b"garbage" * 100),
    "config cut": ("config.json", lambda data: data[:40]),
    "config gone": ("config.json", None),
}


@pytest.fixture(scope="module")
def killed(harness, tmp_path_factory):
    """A run killed in step 8, with checkpoints of 5 and 6 to resume from."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(harness.Killed):
        harness.train(folder, at=8)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_with_what_to_do(harness, tmp_path, killed, unbroken, damage):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    newest = run / "checkpoints" / "step000006"
    name, change = DAMAGE[damage]
    if change:
        (newest / name).write_bytes(change((newest / name).read_bytes()))
    else:
        (newest / name).unlink()
    with pytest.raises(InputError) as caught:
        harness.train(run)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {newest} is damaged (")
    assert message.endswith("delete it to resume from step 5")
    assert "\n" not in message
    shutil.rmtree(newest)
    harness.train(run)  # as the message says
    assert harness.state(run, 12) == unbroken["est"]


@pytest.mark.parametrize("state", [{"optimizer": 3}, {"optimizer": {}, "done": {}}, []])
def test_a_state_of_something_else(harness, tmp_path, killed, state):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    torch.save(state, run / "checkpoints" / "step000006" / "trainer.pt")
    with pytest.raises(InputError, match=r"step000006 is damaged \(.*\); delete it to resume from step 5$"):
        harness.train(run)


@pytest.mark.parametrize(
    "change",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data.replace(b"_loss", b"\n\xff", 1)],
    ids=["empty", "cut", "not text"],
)
def test_rows_that_were_lost_are_missed(harness, tmp_path, killed, change):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    rows = run / "rows.csv"
    rows.write_bytes(change(rows.read_bytes()))
    with pytest.raises(InputError, match=r"rows\.csv has \d+ of the \d+ rows up to step 6; bring the file back, or"):
        harness.train(run)
    rows.unlink()
    with pytest.raises(InputError, match="has 0 of the"):
        harness.train(run)


def test_a_damaged_only_checkpoint(harness, tmp_path):
    with pytest.raises(harness.Killed):
        harness.train(tmp_path, at=1)
    (tmp_path / "checkpoints" / "step000000" / "trainer.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"step000000 is damaged .*; delete the run to start again$"):
        harness.train(tmp_path)


def test_only_what_may_be_needed_is_kept(harness, tmp_path):
    """Weights of steps 0, 2 and 6 (transitions) and 12 stay; the newest two can be resumed from."""
    job = harness.train(tmp_path, save_every=1)
    assert job.checkpoints.steps() == [0, 2, 6, 11, 12]
    assert job.checkpoints.resumable() == [11, 12]
    for step in (0, 2, 6):
        load_folder(job.checkpoints.path(step))
    with pytest.raises(harness.Killed):
        harness.train(tmp_path / "other", save_every=1, at=9)
    assert harness.job(tmp_path / "other").checkpoints.steps() == [0, 2, 6, 7, 8]
    assert harness.job(tmp_path / "other").checkpoints.resumable() == [7, 8]


def test_final_weights_are_those_of_the_model_in_memory(harness, tmp_path):
    job = harness.train(tmp_path)
    for name, saved in load_folder(job.checkpoints.path(12)).state_dict().items():
        assert torch.equal(saved, job.model.state_dict()[name])
