import json
import multiprocessing

import pytest

from est_analysis.errors import InputError
from est_analysis.experiments.runs import store
from est_analysis.experiments.runs.store import (
    collect,
    environment,
    finished,
    mark_finished,
    open_run,
    write_atomically,
)


def opened(folder, spec, run_id="est-1"):
    with open_run(folder, spec, run_id=run_id):
        pass


def test_a_new_folder_says_what_it_holds_and_on_what_it_ran(tmp_path, spec):
    folder = tmp_path / "deep" / "run"
    opened(folder, spec)
    assert json.loads((folder / "spec.json").read_text()) == {"run_id": "est-1", "spec": spec.fields()}
    assert json.loads((folder / "env.json").read_text()) == environment("cpu")
    assert {"python", "packages", "platform", "cpus", "device"} == set(environment())
    assert environment()["packages"]["torch"]


def test_the_same_run_opens_it_again(tmp_path, spec):
    opened(tmp_path, spec)
    before = (tmp_path / "spec.json").stat().st_mtime_ns
    opened(tmp_path, spec)
    assert (tmp_path / "spec.json").stat().st_mtime_ns == before


def test_a_run_that_goes_on_elsewhere_says_so(tmp_path, spec, monkeypatch):
    opened(tmp_path, spec)
    here = json.loads((tmp_path / "env.json").read_text())
    places = [{**here, "cpus": cpus} for cpus in (97, 97, 98)]
    for place in places:
        monkeypatch.setattr(store, "environment", lambda device, place=place: place)
        opened(tmp_path, spec)
    assert json.loads((tmp_path / "env.json").read_text()) == {**here, "resumed_with": [places[0], places[2]]}
    mark_finished(tmp_path, {"run_id": "est-1"})
    monkeypatch.setattr(store, "environment", lambda device: {**here, "cpus": 99})
    opened(tmp_path, spec)
    assert len(json.loads((tmp_path / "env.json").read_text())["resumed_with"]) == 2, "nothing is computed any more"
    (tmp_path / "finished.json").unlink()
    (tmp_path / "diverged.json").write_text("{}")
    opened(tmp_path, spec)
    assert len(json.loads((tmp_path / "env.json").read_text())["resumed_with"]) == 2, "nor of one that diverged"
    (tmp_path / "diverged.json").unlink()
    (tmp_path / "env.json").write_text("[")
    opened(tmp_path, spec)
    assert (tmp_path / "env.json").read_text() == "[", "what it began with is not known"


def test_a_start_that_was_refused_does_not_block_the_mended_command(tmp_path, spec, changed):
    opened(tmp_path, spec)
    opened(tmp_path, changed(spec, seed=3), "est-2")
    assert json.loads((tmp_path / "spec.json").read_text())["run_id"] == "est-2"


def test_another_spec_is_told_what_differs(tmp_path, spec, changed):
    opened(tmp_path, spec)
    (tmp_path / "rows.csv").touch()
    other = changed(spec, seed=3, settings__lr=0.5)
    with pytest.raises(InputError) as caught:
        opened(tmp_path, other, "est-2")
    assert str(caught.value) == (
        f"{tmp_path} holds another run (seed: 0 -> 3; settings.lr: 0.0006 -> 0.5); "
        "give another folder or the same settings"
    )


def test_the_same_spec_on_other_text(tmp_path, spec):
    opened(tmp_path, spec)
    (tmp_path / "rows.csv").touch()
    with pytest.raises(InputError, match="the corpus has other content, or another version wrote it"):
        opened(tmp_path, spec, "est-2")


@pytest.mark.parametrize("name", ["notes.txt", "rows.csv", ".hidden"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, spec, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run; give an empty or new folder"):
        opened(tmp_path, spec)
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "spec.json").exists()


@pytest.mark.parametrize("left", [(), ("env.json",), (".env.json.writing",), ("env.json", ".spec.json.writing")])
def test_killed_before_the_spec_was_written(tmp_path, spec, left):
    for name in left:
        (tmp_path / name).write_text("{")
    opened(tmp_path, spec)
    assert json.loads((tmp_path / "spec.json").read_text())["run_id"] == "est-1"
    assert json.loads((tmp_path / "env.json").read_text()) == environment("cpu")


def test_a_file_in_the_way(tmp_path, spec):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file; give a folder for the run"):
        opened(tmp_path / "file", spec)
    with pytest.raises(InputError, match=r"cannot write to .*below \(Not a directory\); give another folder"):
        opened(tmp_path / "file" / "below", spec)
    with pytest.raises(InputError, match=r"cannot look at .*xx \(File name too long\); give another folder"):
        opened(tmp_path / ("x" * 300), spec)


def test_a_name_that_is_not_utf8_is_refused(tmp_path, spec):
    with pytest.raises(InputError, match=r"the name of folder '.*caf.udce9' is not UTF-8; give another folder"):
        opened(tmp_path / "caf\udce9", spec)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", "null", "\xff", '{"spec": {}}', '{"run_id": "est-1"}', '{"run_id": "est-1", "spec": 1}'],
)
def test_a_damaged_spec(tmp_path, spec, text):
    opened(tmp_path, spec)
    (tmp_path / "spec.json").write_bytes(text.encode("latin-1"))
    for use in (lambda: opened(tmp_path, spec), lambda: collect([tmp_path])):
        with pytest.raises(InputError, match=r"spec\.json is damaged; give another folder for the run"):
            use()


def _hold(folder, spec, ready, done):
    with open_run(folder, spec, run_id="est-1"):
        ready.set()
        done.wait(30)


def test_two_processes_at_once(tmp_path, spec):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, spec, ready, done))
    process.start()
    try:
        assert ready.wait(30)
        with pytest.raises(InputError, match=r"another process is working in .*; wait for it or give another folder"):
            opened(tmp_path, spec)
    finally:
        done.set()
        process.join(30)
    opened(tmp_path, spec)


def test_a_killed_holder_leaves_the_folder_free(tmp_path, spec):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, spec, ready, done))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join(30)
    opened(tmp_path, spec)


def test_finished_comes_last(tmp_path):
    assert finished(tmp_path) is None
    mark_finished(tmp_path, {"steps": 4})
    assert finished(tmp_path) == {"steps": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["finished.json"]


@pytest.mark.parametrize("text", ["", '{\n "steps"', "[]", "null", "\xff"])
def test_a_damaged_end(tmp_path, text):
    (tmp_path / "finished.json").write_bytes(text.encode("latin-1"))
    remedy = "delete it to finish the run from its last checkpoint"
    with pytest.raises(InputError, match=rf"finished\.json is damaged; {remedy}$"):
        finished(tmp_path)


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    import errno
    import os

    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"could not write .*file\.json \(No space left on device\); free some space"):
        write_atomically(path, "new")
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("file.json", "old")]


def test_collect(tmp_path, spec, changed):
    opened(tmp_path / "a", spec)
    opened(tmp_path / "b", changed(spec, method="full"))
    header = "run_id,seed,step,metric,value\n"
    (tmp_path / "a" / "rows.csv").write_text(header + "est-1,0,2,train_loss,0.30000000000000004\n")
    (tmp_path / "a" / "trace.csv").write_text(header + "est-1,0,4,hessian_trace,7.5\n")
    (tmp_path / "b" / "rows.csv").write_text(header + "full-1,0,2,train_loss,1.0\n")
    frame = collect([tmp_path / "a", tmp_path / "b"])
    assert list(frame.columns) == ["run_id", "method", "schedule", "seed", "step", "metric", "value"]
    assert frame.to_numpy().tolist() == [
        ["est-1", "est", "gpt2-est", 0, 2, "train_loss", 0.1 + 0.2],
        ["est-1", "est", "gpt2-est", 0, 4, "hessian_trace", 7.5],
        ["full-1", "full", "full", 0, 2, "train_loss", 1.0],
    ]
    assert list(collect([]).columns) == list(frame.columns)
    with pytest.raises(InputError, match="none holds no run"):
        collect([tmp_path / "none"])


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe\x00", b"run_id,seed,step,metric,value\n", b"run_id,seed,step\nest-1,0,2\n",
     b"run_id,seed,step,metric,value\nest-1,0,2,train_loss,1.0\nest-1,0\n"],
    ids=["empty", "binary", "no rows", "no values", "cut short"],
)  # fmt: skip
def test_damaged_rows(tmp_path, spec, text):
    opened(tmp_path, spec)
    (tmp_path / "rows.csv").write_bytes(text)
    with pytest.raises(InputError, match=r"rows\.csv' is damaged[^\n]*; remove the folder to run it again$"):
        collect([tmp_path])


def test_a_run_without_rows(tmp_path, spec):
    opened(tmp_path, spec)
    with pytest.raises(InputError, match=r"is damaged; remove the folder to run it again$"):
        collect([tmp_path])


def test_a_run_on_the_cpu_does_not_name_a_gpu(tmp_path, spec, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"H100 of {device}")
    for device, named in (("cpu", "cpu"), ("cuda:0", "H100 of cuda:0")):
        with open_run(tmp_path / device, spec, run_id="est-1", device=device):
            assert json.loads((tmp_path / device / "env.json").read_text())["device"] == named
