"""`est trace` in parts: shards and `est merge`, revisions, after a kill, in two processes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from est_analysis.any_checkpoint.text import TextSource
from est_analysis.any_checkpoint.trace import TraceSettings
from est_analysis.commands import trace_series
from est_analysis.commands.trace import _prepare
from est_analysis.commands.trace_output import warn_unless_reached
from est_analysis.commands.trace_series import _Kept
from est_analysis.curvature import locate
from est_analysis.errors import InputError


def lines(path):
    return [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]


def test_shards_merged_are_one_estimate(est, record, trace, run, tmp_path):
    whole = record(run, "--out whole.jsonl")
    for i in (1, 2):
        assert trace(run, f"--shard {i}/2 --out part{i}.jsonl").code == 0
    merged = json.loads(est("merge", "part1.jsonl", "part2.jsonl", "--json").out)
    assert {name: merged[name] for name in ("trace", "stderr", "pairs", "loss")} == {
        name: whole[name] for name in ("trace", "stderr", "pairs", "loss")
    }
    assert lines(tmp_path / "whole.jsonl")[1:] == sorted(
        lines(tmp_path / "part1.jsonl")[1:] + lines(tmp_path / "part2.jsonl")[1:], key=lambda line: line["index"]
    )
    assert est("merge", "part1.jsonl", "part2.jsonl").out.startswith("Hessian trace  ")
    of_these = record(run, "--over batches --out whole.jsonl")
    merged = json.loads(est("merge", "part1.jsonl", "part2.jsonl", "--over", "batches", "--json").out)
    assert (merged["stderr"], merged["stderr_data"]) == (of_these["stderr"], 0.0)
    assert est("merge", "part1.jsonl", "--over", "x").error.startswith("unknown --over 'x'")
    assert "a second time" in est("merge", "part1.jsonl", "part1.jsonl").error
    assert est("merge", "absent.jsonl").error.startswith("no file absent.jsonl")
    (tmp_path / "empty.jsonl").write_text(json.dumps({"engine": "taylor"}) + "\n")
    assert "holds no measurement yet" in est("merge", "empty.jsonl").error


def test_a_curve_over_revisions_and_a_duplicate_refused(trace, run, tmp_path):
    series = shutil.copytree(run, tmp_path / "series")
    steps = sorted(path.name for path in (series / "checkpoints").iterdir())
    shutil.copytree(series / "checkpoints" / steps[0], series / "checkpoints" / "step000099")
    result = trace(series, "--revisions step* --json")
    assert result.code == 0, result.err
    records = json.loads(result.out)["revisions"]
    assert [one["revision"] for one in records] == [*steps, "step000099"]
    assert records[-1]["duplicate_of"] == steps[0]
    assert "trace" not in records[-1]
    assert all(one.keys() >= {"trace", "stderr", "pairs", "loss"} for one in records[:-1])
    assert len({one["trace"] for one in records[:-1]}) == len(steps)
    table = trace(series, "--revisions step*").out
    assert f"refused: the same weights as {steps[0]}" in table
    assert "--revisions 'step*' goes over many" in trace(series, "--revisions step* --out x").error


def test_a_revision_that_cannot_be_loaded_does_not_end_the_series(trace, run, tmp_path):
    series = shutil.copytree(run, tmp_path / "series")
    steps = sorted(path.name for path in (series / "checkpoints").iterdir())
    broken = series / "checkpoints" / steps[1]
    (broken / "model.safetensors").unlink()
    result = trace(series, "--revisions step* --json")
    assert result.code == 2
    records = json.loads(result.out)["revisions"]
    assert [one["revision"] for one in records if "trace" in one] == [steps[0], *steps[2:]]
    assert steps[1] in records[1]["error"]
    assert f"1 of {len(steps)} revisions could not be loaded; the first: " in result.err
    shown = trace(series, "--revisions step*")
    assert f"{steps[1]:>16} not loaded: " in shown.out
    for step in steps:
        (series / "checkpoints" / step / "model.safetensors").unlink(missing_ok=True)
    ended = trace(series, "--revisions step*")
    assert ended.err.startswith(f"est: no weights in '{series / 'checkpoints' / steps[0]}'"), "three are enough"
    assert ended.out.count("not loaded") == 2


def test_weights_seen_before_are_not_measured_again_and_every_download_goes(monkeypatch):
    """Of one hub model, `late` holds the weights of `early`, `bad` cannot be loaded and `gone` cannot be had."""
    evicted, measured, weights = [], [], {"early": "one", "late": "one", "other": "two"}

    def find(name, *, revision):
        if revision == "gone":
            raise InputError("no revision 'gone'")
        return SimpleNamespace(revision=revision, step=len(revision))

    def load(located, how):
        if located.revision == "bad":
            raise InputError("damaged")
        return SimpleNamespace(located=located, weight_hash=weights[located.revision])

    monkeypatch.setattr(locate, "locate", find)
    monkeypatch.setattr(locate, "evict", lambda located: evicted.append(located.revision))
    monkeypatch.setattr(trace_series, "load_located", load)
    monkeypatch.setattr(trace_series, "_trace", lambda label, *_: measured.append(label) or {"trace": len(measured)})
    seen, found = {}, {}
    for name in ("early", "bad", "late", "gone", "other"):
        found[name] = record = trace_series._measured("m", name, None, {}, seen)
        if "error" not in record:
            seen.setdefault(record["weight_hash"], record)
    assert measured == ["m early", "m other"]
    assert evicted == ["early", "bad", "late", "other"]
    assert found["late"] == {"revision": "late", "step": 4, "weight_hash": "one", "trace": 1}
    assert [found[name]["error"] for name in ("bad", "gone")] == ["damaged", "no revision 'gone'"]


RECORDS = [{"revision": f"step{step}", "weight_hash": f"{step}", "trace": 0.1 * step} for step in range(3)]


@pytest.fixture
def series(tmp_path):
    """A series on the hub with three records, opened anew at each call, and its file."""

    def series():
        return _Kept("someone/series", TraceSettings(), {"loss": "auto"})

    (tmp_path / "cache" / "traces").mkdir(parents=True)
    kept = series()
    for record in RECORDS:
        kept.add(record)
    return series, next((tmp_path / "cache" / "traces").glob("*.series"))


def test_a_series_on_another_text_under_the_same_name_is_another(tmp_path):
    (tmp_path / "a.txt").write_text("alpha\n" * 100)
    settings = replace(TraceSettings(), text=TextSource(corpora=(str(tmp_path / "a.txt"),)))
    before = _Kept("someone/series", settings, {})._path
    assert before == _Kept("someone/series", settings, {})._path
    (tmp_path / "a.txt").write_text("beta\n" * 100)
    assert before != _Kept("someone/series", settings, {})._path


def test_a_branch_that_has_moved_is_measured_again(series):
    opened, _ = series
    opened().add(RECORDS[0] | {"target_commit": "a"})
    assert opened().of("step0", "a") == RECORDS[0] | {"target_commit": "a"}
    assert opened().of("step0", "b") is None
    assert opened().of("step9", "a") is None


@pytest.mark.parametrize("line", ["{", "[1]", "3", '{"revision": "step1"}', "\xff"])
def test_a_damaged_line_of_a_series_is_measured_again(series, line):
    opened, file = series
    assert list(opened().records.values()) == RECORDS
    lines = file.read_bytes().splitlines()
    damaged = b"\n".join([lines[0], line.encode("latin-1"), lines[2]])
    file.write_bytes(damaged)
    kept = opened()
    assert list(kept.records.values()) == [RECORDS[0], RECORDS[2]]
    assert file.read_bytes() == damaged, "a kill while it is opened could lose it"
    kept.add(RECORDS[1])
    assert sorted(opened().records) == ["step0", "step1", "step2"]


def test_a_series_that_cannot_be_read_or_written(series, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened, file = series
    before = file.read_bytes()
    kept = opened()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"could not write .*\.series \(No space left on device\); free some space"):
        kept.add(RECORDS[0] | {"revision": "step9"})
    assert file.read_bytes() == before
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*\.series \(Is a directory\); delete it to measure the series"):
        opened()


ARGUMENTS = ["--seq-len", "32", "--micro-batch", "1", "--probes", "2", "--threads", "1", "--rel-se", "1e-9"]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def test_killed_and_started_again_it_has_lost_nothing(fork, run, shared, tmp_path):
    command = ["trace", run, "--corpus", shared / "text.txt", *ARGUMENTS, "--max-pairs", "80", "--json"]
    out = tmp_path / "out.jsonl"
    count = 0
    for _ in range(2):
        process = fork.start(tmp_path, *command, "--out", out)
        until(lambda count=count: out.exists() and len(out.read_bytes().splitlines()) > count + 4)
        os.kill(process, signal.SIGKILL)
        assert fork.wait(process) == -9, "it had finished before"
        count = out.read_bytes().count(b"\n")
    (tmp_path / "last").mkdir()
    (tmp_path / "whole").mkdir()
    before = out.read_bytes()
    assert fork.wait(fork.start(tmp_path / "last", *command, "--out", out)) == 0
    assert fork.wait(fork.start(tmp_path / "whole", *command, "--out", tmp_path / "whole.jsonl")) == 0
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "a measurement was made twice"
    assert lines(out) == lines(tmp_path / "whole.jsonl")
    resumed, whole = (json.loads((tmp_path / name / "stdout.txt").read_text()) for name in ("last", "whole"))
    assert {n: resumed[n] for n in ("trace", "stderr", "pairs")} == {n: whole[n] for n in ("trace", "stderr", "pairs")}


def test_two_processes_measure_what_one_does(record, run, shared, tmp_path):
    whole = record(run, "--out whole.jsonl --rel-se 1e-9")
    line = [*ARGUMENTS, "--max-pairs", "8", "--json", "--out", "two.jsonl"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    found = subprocess.run(
        [*torchrun, "est_analysis", "trace", str(run), "--corpus", str(shared / "text.txt"), *line],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    two = json.loads(found.stdout)
    assert (two["trace"], two["stderr"], two["pairs"]) == (whole["trace"], whole["stderr"], 8)
    assert lines(tmp_path / "two.jsonl") == lines(tmp_path / "whole.jsonl")


def test_processes_that_would_measure_different_things_are_refused(monkeypatch):
    prepared = SimpleNamespace(identity={"probes": 8})
    monkeypatch.setattr("est_analysis.any_checkpoint.trace.prepare", lambda loaded, settings: prepared)
    ranks = SimpleNamespace(union=lambda items: [*items, {"probes": 4}])
    with pytest.raises(InputError, match="different sizes; give --micro-batch and --probes"):
        _prepare(None, None, ranks, spectrum=False)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({}, "raise --max-pairs to go on"),
        ({"stderr_data": 0.5}, "the text itself is too short for less: give a longer one"),
        ({"stderr_data": 0.5, "batches_left": 3}, "raise --max-pairs to go on"),
        ({"relative_stderr": 0.01}, "the text has no more: give a longer one"),
        ({"relative_stderr": None, "trace": None}, "raise --max-pairs to go on"),
    ],
)
def test_a_warning_names_what_helps(capsys, change, remedy):
    record = {
        "reached": False, "relative_stderr": 0.6, "rel_se": 0.02, "pairs": 80, "batches": 2, "batches_left": 0,
        "trace": 1.0, "stderr_data": 0.001,
    }  # fmt: skip
    warn_unless_reached(record | change)
    assert remedy in capsys.readouterr().err
