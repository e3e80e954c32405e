"""Real processes, really killed: whatever happens to them, the run ends with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

STEPS = "--steps 60 --batch 4 --seq-len 32 --threads 1 --log-every 5 --eval-every 20 --save-every 10"


def outcome(folder):
    """What a finished run leaves, times left out."""
    final = folder / "checkpoints" / "step000060"
    state = torch.load(final / "trainer.pt", weights_only=True)
    moments = state["optimizer"]["state"]
    return {
        "rows": [line for line in (folder / "rows.csv").read_text().splitlines() if ",step_seconds," not in line],
        "weights": (final / "model.safetensors").read_bytes(),
        "moments": [value.numpy().tobytes() for index in sorted(moments) for value in moments[index].values()],
        "done": state["done"],
        "finished": (folder / "finished.json").read_text(),
        "files": {path.name for path in folder.rglob("*") if path.name.startswith(".") and path.name != ".lock"},
    }


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)


def alive(group):
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def command(shared):
    return ["train", "--corpus", shared / "text.txt", *STEPS.split(), "--out", "out"]


@pytest.fixture(scope="module")
def unbroken(fork, command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert fork.wait(fork.start(folder, *command)) == 0
    return outcome(folder / "out")


def test_killed_several_times(fork, command, unbroken, tmp_path):
    """Each time at an arbitrary moment after it has got a little further."""
    rows, draw, kills = tmp_path / "out" / "rows.csv", random.Random(0), 0
    for _ in range(3):
        before = rows.read_bytes() if rows.exists() else b""
        process = fork.start(tmp_path, *command)
        until(lambda before=before: rows.exists() and rows.read_bytes() not in (b"", before))
        time.sleep(draw.uniform(0, 0.03))
        os.kill(process, signal.SIGKILL)
        kills += fork.wait(process) == -9
    assert kills == 3, "it had finished before"
    assert not (tmp_path / "out" / "finished.json").exists()
    assert fork.wait(fork.start(tmp_path, *command)) == 0
    assert outcome(tmp_path / "out") == unbroken


@pytest.mark.parametrize("saved", [0, 2])
def test_killed_while_writing_a_checkpoint(fork, command, unbroken, tmp_path, saved):
    checkpoints = tmp_path / "out" / "checkpoints"
    process = fork.start(tmp_path, *command)
    until(lambda: len(list(checkpoints.glob("step*"))) >= saved)
    until(lambda: any(checkpoints.glob(".writing-step*")))
    os.kill(process, signal.SIGKILL)
    assert fork.wait(process) == -9
    assert fork.wait(fork.start(tmp_path, *command)) == 0
    assert outcome(tmp_path / "out") == unbroken


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(fork, command, unbroken, tmp_path, number):
    process = fork.start(tmp_path, *command)
    until(lambda: (tmp_path / "out" / "checkpoints" / "step000008").exists())  # the first transition
    os.kill(process, number)
    assert fork.wait(process) == 2
    errors = (tmp_path / "stderr.txt").read_text().splitlines()
    assert [line for line in errors if "  step " not in line] == errors[-1:]  # progress, then one line
    step = errors[-1].removeprefix("est: stopped at step ").partition(" ")[0]
    assert errors[-1] == (
        f"est: stopped at step {step} of 60; everything is saved in out, run the same command to resume"
    )
    assert (tmp_path / "out" / "checkpoints" / f"step{int(step):06d}" / "trainer.pt").exists()
    assert (tmp_path / "stdout.txt").read_text() == ""
    assert fork.wait(fork.start(tmp_path, *command)) == 0
    assert f"resumed from step {step}" in (tmp_path / "stderr.txt").read_text()
    assert outcome(tmp_path / "out") == unbroken


def test_two_at_once(fork, command, tmp_path):
    """The second is turned away and leaves the first alone."""
    (tmp_path / "second").mkdir()
    first = fork.start(tmp_path, *command)
    until(lambda: (tmp_path / "out" / "rows.csv").exists())
    second = fork.start(tmp_path / "second", *command[:-1], tmp_path / "out")
    assert fork.wait(second) == 2
    errors = (tmp_path / "second" / "stderr.txt").read_text()
    assert errors == f"est: another process is working in {tmp_path / 'out'}; wait for it or give another folder\n"
    os.kill(first, signal.SIGKILL)
    assert fork.wait(first) == -9


def test_ctrl_c_stops_a_whole_recipe(shared, tmp_path):
    """The terminal tells every process: two runs save what they have, the third is never begun."""
    command = [sys.executable, "-m", "est_analysis", "reproduce", "--seeds", "1", "--corpus", shared / "text.txt"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        runs = tmp_path / "runs"
        trained = "train_loss"  # of both: three processes have to load torch first, on whatever else is busy
        until(lambda: len([path for path in runs.glob("*/rows.csv") if trained in path.read_text()]) == 2, seconds=180)
        os.killpg(process.pid, signal.SIGINT)
        lines = process.communicate(timeout=60)[1].splitlines()
    finally:
        process.kill()
    assert process.returncode == 2
    assert lines[-1].startswith("est: stopped; finished and unfinished runs are saved in runs, run the same command")
    assert not any("Traceback" in line for line in lines)
    assert sorted(path.name.partition("-")[0] for path in runs.iterdir()) == ["est", "full"]
    for run in runs.iterdir():
        saved = [int(path.name.removeprefix("step")) for path in (run / "checkpoints").glob("step*")]
        assert max(saved) > 0
    until(lambda: not alive(process.pid), seconds=20)
