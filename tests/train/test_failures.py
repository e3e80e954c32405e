"""What goes wrong outside our hands: losses that explode, disks that fill up."""

import errno
import os
import resource
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.train.distributed import ranks_from_environment
from est_analysis.train.loop import train


@pytest.fixture(scope="module")
def unbroken(harness, tmp_path_factory):
    """What a run with the given settings leaves when nothing goes wrong; made once each."""

    @cache
    def make(**settings):
        folder = tmp_path_factory.mktemp("unbroken")
        harness.train(folder, **settings)
        return harness.state(folder, 12)

    return make


def spoil(job, at):
    """Make every weight NaN just before step `at`."""

    def action():
        with torch.no_grad():
            for parameter in job.model.parameters():
                parameter.fill_(float("nan"))

    job.batches._action, job.batches._at = action, at
    return job


@pytest.mark.parametrize(
    ("at", "good"),
    # Checkpoints at 0, 2, 5, 6, 10. The weights that step 6 left gave the bad loss of step 7, so 6 is not called good.
    [(8, 6), (7, 5), (4, 2), (3, 0), (12, 10)],
)
@pytest.mark.parametrize("log_every", [1, 100])
def test_the_step_of_a_bad_loss_and_the_last_good_checkpoint(harness, tmp_path, unbroken, at, good, log_every):
    settings = {"log_every": log_every, "eval_every": 100}
    job = spoil(harness.job(tmp_path, at=at, **settings), at)
    with pytest.raises(InputError) as caught:
        train(job, harness.quiet)
    expected = job.checkpoints.path(good)
    assert str(caught.value) == f"the loss is nan at step {at}; last good checkpoint: {expected}; lower lr=0.01 or clip"
    assert job.checkpoints.steps()[-1] < at, "weights known to be bad were saved"
    harness.train(tmp_path, **settings)
    assert harness.state(tmp_path, 12) == unbroken(**settings)


def test_no_good_checkpoint(harness, tmp_path):
    job = spoil(harness.job(tmp_path, at=1), 1)
    with pytest.raises(InputError, match=r"^the loss is nan at step 1; lower lr"):
        train(job, harness.quiet)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_rate_far_too_high(harness, tmp_path, clip):
    with pytest.raises(
        InputError, match=r"^the loss is (nan|inf) at step 2; last good .*step000000; lower lr=1e\+30 or clip$"
    ):
        harness.train(tmp_path, method="full", lr=1e30, clip=clip)
    job = harness.job(tmp_path, method="full")
    assert job.checkpoints.resumable() == [0]


def test_validation_stops_before_bad_weights_are_saved(harness, tmp_path):
    with pytest.raises(InputError, match=r"^the validation loss is (nan|inf) at step 1; last good .*step000000; lower"):
        harness.train(tmp_path, method="full", lr=1e30, eval_every=1, save_every=1)
    assert harness.job(tmp_path).checkpoints.steps() == [0]


@contextmanager
def files_up_to(size):
    """Writing any file beyond `size` bytes fails, in Python, torch and Rust alike: the nearest thing to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def sizes(harness, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    harness.train(folder)
    return {path.name: path.stat().st_size for path in (folder / "checkpoints" / "step000012").iterdir()}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "trainer.pt"])
def test_the_disk_fills_up_in_a_checkpoint(harness, tmp_path, unbroken, sizes, name):
    assert sizes["config.json"] < sizes["model.safetensors"] < sizes["trainer.pt"]
    no_rows_then = {"log_every": 100, "eval_every": 100}
    job = harness.job(tmp_path, at=8, **no_rows_then)
    with ExitStack() as stack:
        job.batches._action = lambda: stack.enter_context(files_up_to(sizes[name] // 2))
        with pytest.raises(InputError) as caught:
            train(job, harness.quiet)
    message = str(caught.value)
    checkpoints = job.checkpoints
    assert message.startswith(f"could not write the checkpoint of step 10 to {checkpoints.folder} (")
    assert f"last good checkpoint: {checkpoints.path(6)}; free some space" in message
    assert "\n" not in message
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "step000000", "step000002", "step000005", "step000006",
    ]  # fmt: skip
    harness.train(tmp_path, **no_rows_then)
    assert harness.state(tmp_path, 12) == unbroken(**no_rows_then)


def test_the_disk_fills_up_in_the_rows(harness, tmp_path, unbroken):
    job, rows = harness.job(tmp_path, at=8, log_every=1), tmp_path / "rows.csv"
    with ExitStack() as stack:
        # Room for a part of the next line only.
        job.batches._action = lambda: stack.enter_context(files_up_to(rows.stat().st_size + 10))
        with pytest.raises(InputError, match=r"^could not write rows to .*rows\.csv \(.*\); free some space and run"):
            train(job, harness.quiet)
    assert not rows.read_text().endswith("\n"), "no line was torn, so the test shows little"
    harness.train(tmp_path, log_every=1)
    assert harness.state(tmp_path, 12) == unbroken(log_every=1)


def test_the_disk_is_full_when_a_run_is_resumed(harness, tmp_path):
    with pytest.raises(harness.Killed):
        harness.train(tmp_path, at=8)
    before = (tmp_path / "rows.csv").read_text()
    with files_up_to(10), pytest.raises(InputError, match="could not write rows"):
        harness.train(tmp_path)
    assert (tmp_path / "rows.csv").read_text() == before


def test_rows_that_cannot_be_forced_to_disk(harness, tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"could not write rows to .* \(No space left on device\)"):
        harness.train(tmp_path)


@pytest.mark.parametrize(
    ("target", "error", "reason"),
    [
        ("save_folder", OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        ("torch.save", OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file data/0"), "the disk is full or not wri"),
        ("sync", OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_every_way_to_fail_is_one_line(harness, tmp_path, monkeypatch, target, error, reason):
    def fail(*_, **__):
        raise error

    harness_job = harness.job(tmp_path, at=3)
    harness_job.batches._action = lambda: monkeypatch.setattr(f"est_analysis.train.checkpoint.{target}", fail)
    with pytest.raises(InputError) as caught:
        train(harness_job, harness.quiet)
    assert f"step 5 to {tmp_path / 'checkpoints'} ({reason}" in str(caught.value)
    assert harness_job.checkpoints.steps() == [0, 2]


def test_an_error_of_ours_is_not_mistaken_for_a_full_disk(harness, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("expected scalar type")

    monkeypatch.setattr("est_analysis.train.checkpoint.torch.save", fail)
    with pytest.raises(RuntimeError, match=r"^expected scalar type$"):
        harness.train(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("call", ["unlink", "rename"])
def test_old_checkpoints_that_cannot_be_deleted_stop_nothing(harness, tmp_path, monkeypatch, call):
    def fail(self, *arguments, **named):
        if self.name.startswith(("step", "trainer.pt")):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, *arguments, **named)

    real = getattr(Path, call)
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, fail)
        job = harness.train(tmp_path)
    assert len(job.checkpoints.resumable()) > 2
    job.checkpoints.save(13, job.model, {})
    assert job.checkpoints.resumable() == [12, 13]


def test_state_saved_on_a_gpu_is_read_on_the_cpu(harness, tmp_path, monkeypatch):
    job = harness.train(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        job.checkpoints.save(13, job.model, {"moment": torch.ones(2)})
    moment = job.checkpoints.load(13, job.model)["moment"]
    assert (moment.device.type, moment.tolist()) == ("cpu", [1, 1])


def test_memory_that_runs_out_is_no_damage(harness, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    job = harness.train(tmp_path)
    monkeypatch.setattr("est_analysis.train.checkpoint.torch.load", fail)
    with pytest.raises(torch.OutOfMemoryError):
        job.checkpoints.load(12, job.model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "warp"}, "unknown device 'warp'; use cpu, cuda or cuda:NUMBER"),
        ({"tracker": "wand"}, "unknown logger 'wand': did you mean 'wandb'?"),
        ({"threads": -1}, "threads=-1 and masks_ahead=8 must be at least 0"),
        ({"masks_ahead": -2}, "threads=0 and masks_ahead=-2 must be at least 0"),
    ],
)
def test_execution_is_checked(fields, message):
    from est_analysis.train.settings import Execution

    with pytest.raises(InputError) as caught:
        Execution(**fields)
    assert str(caught.value).startswith(message)


def test_a_card_that_is_not_there(monkeypatch):
    from est_analysis.train.settings import Execution

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Execution(device="cuda:1").device == "cuda:1"
    with pytest.raises(
        InputError, match=r"^device 'cuda:2': torch sees none of that number here; use cuda:0 to cuda:1$"
    ):
        Execution(device="cuda:2")


def test_too_little_memory_is_one_line(harness, tmp_path):
    job = harness.job(tmp_path, at=3)

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    job.batches._action = fail
    with pytest.raises(
        InputError, match=r"^the memory of cpu is too small for a batch of 4 in 1 parts; use more --acc"
    ):
        train(job, harness.quiet)


def test_too_little_memory_for_the_model_is_one_line_too(harness, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("est_analysis.train.loop.build_optimizer", fail)
    with pytest.raises(
        InputError, match=r"^the memory of cpu is too small for the model and its optimizer; use a small"
    ):
        train(harness.job(tmp_path, at=3), harness.quiet)


@pytest.mark.parametrize(
    ("device", "local", "there", "message"),
    [
        ("cuda", 0, 0, "process 0 of this machine has no GPU, torch sees 0; use --device cpu"),
        ("cuda:1", 0, 1, "--device cuda:1 is one card for 2 processes; use --device cuda, a card each"),
        ("cuda", 1, 1, "process 1 of this machine has no GPU, torch sees 1; use --nproc-per-node 1"),
    ],
)
def test_every_process_needs_a_card_of_its_own(monkeypatch, device, local, there, message):
    for name, value in {"WORLD_SIZE": 2, "RANK": local, "LOCAL_RANK": local}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    with pytest.raises(InputError) as caught, ranks_from_environment(device):
        pass
    assert str(caught.value) == message


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens where there is no CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_no_cuda_device(device):
    from est_analysis.train.settings import Execution

    with pytest.raises(InputError, match=f"device '{device}': torch sees no CUDA device here; use cpu"):
        Execution(device=device)
