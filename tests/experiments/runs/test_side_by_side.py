import multiprocessing
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.errors import Diverged, InputError
from est_analysis.experiments.language_models.final_trace import measure_trace
from est_analysis.experiments.language_models.reproduce_scales import Scale
from est_analysis.experiments.runs import pool
from est_analysis.experiments.runs import side_by_side as module
from est_analysis.experiments.runs.run import run
from est_analysis.experiments.runs.side_by_side import Entry, run_all

SCALE = Scale(preset="tiny", steps=4, lr={}, seeds=1, cost="none", trace_pairs=8, trace_sequences=1)


def fail_or_wait(spec, root, **how):
    """Seed 0 fails at once; others wait, and note when they are asked to stop."""
    note = root / f"stopped-{spec.seed}"
    if spec.seed == 0:
        while not (root / "started").exists():
            time.sleep(0.01)
        raise InputError("the loss is nan at step 3")

    def stopped(number, frame):
        note.touch()
        os._exit(1)

    signal.signal(signal.SIGTERM, stopped)
    (root / "started").touch()
    time.sleep(60)


@pytest.fixture
def forked(monkeypatch):
    """Workers by fork, quick to start; fine for work that does not compute."""
    monkeypatch.setattr(pool, "get_context", lambda _: multiprocessing.get_context("fork"))


def wait_for(path, seconds=10):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.exists()


def test_when_one_run_fails_the_others_save_and_stop(spec, changed, tmp_path, monkeypatch, forked):
    monkeypatch.setattr(module, "_run_one", fail_or_wait)
    entries = [Entry(spec=changed(spec, seed=seed)) for seed in (0, 1)]
    start = time.monotonic()
    with pytest.raises(InputError, match="the loss is nan at step 3"):
        run_all(entries, root=tmp_path, workers=2)
    assert wait_for(tmp_path / "stopped-1"), "the other worker was left running"
    assert time.monotonic() - start < 20


def started(spec, root):
    """A process that makes one run of `spec`, in a worker of its own."""
    entries, how = [Entry(spec=spec)], {"root": root, "workers": 1}
    parent = multiprocessing.get_context("fork").Process(target=run_all, args=(entries,), kwargs=how)
    parent.start()
    return parent


def test_workers_end_when_their_parent_is_killed(spec, changed, tmp_path, monkeypatch, forked):
    monkeypatch.setattr(module, "_run_one", fail_or_wait)
    parent = started(changed(spec, seed=1), tmp_path)
    assert wait_for(tmp_path / "started")
    parent.kill()
    parent.join()
    assert wait_for(tmp_path / "stopped-1"), "the worker outlived its parent"


def save_and_go_on(spec, root, **how):
    """As a run does: takes the signal, saves, and raises; the process has the signal's default again."""
    (root / "worker").write_text(str(os.getpid()))
    caught = []
    old = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    while not caught:
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, old)
    (root / "saved").touch()
    raise InputError("stopped")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for the orphan in /proc")
def test_no_worker_is_left_when_the_parent_is_killed(spec, changed, tmp_path, monkeypatch, forked):
    monkeypatch.setattr(module, "_run_one", save_and_go_on)
    parent = started(changed(spec, seed=1), tmp_path)
    assert wait_for(tmp_path / "worker")
    parent.kill()
    parent.join()
    assert wait_for(tmp_path / "saved")
    worker = Path("/proc", (tmp_path / "worker").read_text())
    deadline = time.monotonic() + 10
    while worker.exists() and "State:\tZ" not in (worker / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists() or "State:\tZ" in (worker / "status").read_text(), "an orphan waits for ever"


def test_the_trace_is_measured_once(spec, quiet, tmp_path):
    result = run(spec, quiet, root=tmp_path)
    arguments = (SCALE, spec, result)
    measure_trace(*arguments)
    frame = pd.read_csv(result.folder / "trace.csv")
    values = frame.set_index("metric")["value"]
    assert list(frame.columns) == ["run_id", "seed", "step", "metric", "value"]
    assert set(frame["step"]) == {4}
    assert values["hessian_trace_pairs"] == 8  # 2 probes of each batch
    assert values["hessian_trace_stderr"] > 0
    before = (result.folder / "trace.csv").stat().st_mtime_ns
    measure_trace(*arguments)
    assert (result.folder / "trace.csv").stat().st_mtime_ns == before
    (result.folder / "trace.json").unlink()  # killed between the two files
    measure_trace(*arguments)
    again = pd.read_csv(result.folder / "trace.csv").set_index("metric")["value"]
    assert again["hessian_trace"] == values["hessian_trace"]


def _begin_late(parent):
    flags = (multiprocessing.get_context("fork").RawValue("b", 0) for _ in range(2))
    pool._prepare_worker(*flags, parent)
    time.sleep(60)


def test_a_worker_that_began_after_its_parent_was_killed_ends_too():
    context = multiprocessing.get_context("fork")
    parent = context.Process(target=os._exit, args=(0,))
    parent.start()
    parent.join()
    worker = context.Process(target=_begin_late, args=(parent.pid,))
    worker.start()
    worker.join(10)
    assert worker.exitcode == -signal.SIGTERM, "it waits for ever"


def diverges(spec, execution, *, root):
    if spec.seed == 1:
        raise Diverged("the loss is nan at step 3; lower lr=0.5 or clip")
    return run(spec, execution, root=root)


def test_a_run_that_diverges_stops_all_but_a_sweep_of_rates(spec, changed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run", diverges)
    entries = [Entry(spec=changed(spec, seed=seed), labels={"method": "ours"}) for seed in (0, 1)]
    with pytest.raises(InputError, match="the loss is nan"):
        run_all(entries, root=tmp_path, workers=0)
    rows = run_all(entries, root=tmp_path, workers=0, diverging=True)
    assert rows["method"].unique().tolist() == ["ours"]
    assert rows["lr"].unique().tolist() == [spec.settings.lr]
    losses = rows.query("metric == 'validation_loss'").groupby("seed")["value"].last()
    assert rows["schedule"].unique().tolist() == ["gpt2-est"]
    assert 0 < losses[0] < 10
    assert losses[1] == float("inf")


def test_two_labels_for_one_run_are_refused(spec, tmp_path):
    entries = [Entry(spec=spec, labels={"method": name}) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"\{'method': 'a'\} and \{'method': 'b'\} are one run, est-\w+; give one"):
        run_all(entries, root=tmp_path, workers=0)


@pytest.mark.parametrize(("cpus", "workers", "threads"), [(8, 2, 4), (2, 2, 1), (1, 4, 1), (2, 0, 0)])
def test_workers_share_the_cpus(monkeypatch, cpus, workers, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert module._execution(workers, "cpu").threads == threads


@pytest.mark.parametrize(
    ("text", "step"),
    [("", 0), ("run_id,seed,step,metric,value\n", 0), ("h\nr,0,12,a,1\n", 12), ("h\nr,0,12,a,1\nr,0,13,a", 12)],
)
def test_progress_reads_the_last_complete_row(tmp_path, text, step):
    (tmp_path / "rows.csv").write_text(text)
    assert module._last_step(tmp_path / "rows.csv") == step
    assert module._last_step(tmp_path / "absent.csv") == 0
