import csv
import sys
import time
from dataclasses import replace
from types import ModuleType

import pytest

from est_analysis.errors import InputError
from est_analysis.train.loop import train
from est_analysis.train.rows import COLUMNS, RowWriter, open_tracker


def write(path, *written, last_step=-1, tracker=None):
    writer = RowWriter(path, run_id="r", seed=3, last_step=last_step, tracker=tracker)
    for step, values in written:
        writer.write(step, values)
    writer.close()


def read(path):
    with path.open() as file:
        return [tuple(row) for row in csv.reader(file)]


def test_one_row_a_metric_and_exact_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    write(path, (1, {"a": 0.1 + 0.2, "b": 1e-300}), (2, {"a": 3}))
    assert read(path) == [
        COLUMNS,
        ("r", "3", "1", "a", "0.30000000000000004"),
        ("r", "3", "1", "b", "1e-300"),
        ("r", "3", "2", "a", "3.0"),
    ]


def test_rows_are_there_as_soon_as_they_are_written(tmp_path):
    path = tmp_path / "rows.csv"
    writer = RowWriter(path, run_id="r", seed=0, last_step=-1)
    writer.write(1, {"a": 1.0})
    assert len(read(path)) == 2  # another process sees them, and a kill loses none
    writer.sync()
    writer.close()


@pytest.mark.parametrize(("last_step", "kept"), [(-1, 0), (0, 1), (1, 2), (2, 3), (10, 4), (99, 5)])
def test_reopening_keeps_the_rows_up_to_the_checkpoint(tmp_path, last_step, kept):
    path = tmp_path / "rows.csv"
    write(path, *((step, {"a": step}) for step in (0, 1, 2, 10, 11)))
    before = read(path)
    write(path, last_step=last_step)
    assert read(path) == before[: 1 + kept]
    write(path, (7, {"a": 7}), last_step=last_step)
    assert read(path) == [*before[: 1 + kept], ("r", "3", "7", "a", "7.0")]
    assert [child.name for child in tmp_path.iterdir()] == ["rows.csv"]


class Recorder:
    """A tracker's module and its run in one."""

    def __init__(self):
        self.started, self.logged, self.finished = None, [], 0

    def init(self, **names):
        self.started = names
        return self

    def log(self, values, step):
        self.logged += [(step, name, value) for name, value in values.items()]

    def finish(self):
        self.finished += 1


@pytest.fixture
def module(monkeypatch):
    """Installs a made-up package of the given name."""

    def install(name):
        recorder, package = Recorder(), ModuleType(name)
        package.init = recorder.init
        monkeypatch.setitem(sys.modules, name, package)
        return recorder

    return install


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_receives_every_row(harness, tmp_path, module, name):
    recorder = module(name)
    harness.train(tmp_path, replace(harness.quiet, tracker=name))
    assert recorder.started == {"project": "est_analysis", "name": "est-test"}
    assert recorder.finished == 1
    rows = [(int(row[2]), row[3], float(row[4])) for row in read(tmp_path / "rows.csv")[1:]]
    assert recorder.logged == rows
    assert {"train_loss", "validation_loss", "step_seconds"} <= {name for _, name, _ in rows}


class TimedLikeCuda(str):
    """The name of the CPU that passes for a GPU's: whole windows are timed."""

    def startswith(self, prefix, *range):
        return prefix == "cuda"


@pytest.mark.parametrize("evaluated", [3, 4, 5])
def test_a_window_that_holds_an_evaluation_is_as_long_as_its_steps(harness, tmp_path, monkeypatch, evaluated):
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    execution = replace(harness.quiet, device=TimedLikeCuda("cpu"))
    job = harness.job(tmp_path, log_every=4, eval_every=evaluated, save_every=evaluated)
    draw = job.batches.batch
    monkeypatch.setattr(job.batches, "batch", lambda step, **place: (time.sleep(0.02), draw(step, **place))[1])
    train(job, execution)
    seconds = [float(row[4]) for row in read(tmp_path / "rows.csv")[1:] if row[3] == "step_seconds"]
    assert len(seconds) >= 3
    assert min(seconds) >= 0.02


def test_a_tracker_is_finished_whatever_happens(harness, tmp_path, module):
    recorder = module("wandb")
    with pytest.raises(harness.Killed):
        harness.train(tmp_path, replace(harness.quiet, tracker="wandb"), at=8)
    assert recorder.finished == 1


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_missing_tracker_says_how_to_get_it(harness, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # importing it fails, installed or not
    with pytest.raises(InputError, match=f"^the logger '{name}' is not installed; run: pip install {name}$"):
        harness.train(tmp_path, replace(harness.quiet, tracker=name))


def test_no_tracker(tmp_path):
    assert open_tracker("none", tmp_path, "r") is None


def test_tensorboard_holds_the_rows(harness, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is an optional logger"
    )
    harness.train(tmp_path, replace(harness.quiet, tracker="tensorboard"))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for metric in ("train_loss", "validation_loss", "learning_rate", "active_layers", "total_flops"):
        found = {event.step: event.value for event in events.Scalars(metric)}
        # An event holds a float32: half a unit in its last place, 2**-24.
        assert found == pytest.approx(harness.losses(tmp_path, metric), rel=6e-8)
        assert len(found) > 2
