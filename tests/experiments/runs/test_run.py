import json
import shutil

import pytest

from est_analysis.errors import Diverged, InputError
from est_analysis.experiments.runs import run as module
from est_analysis.experiments.runs.run import num_parameters, prepare_data, run
from est_analysis.experiments.runs.spec import run_id
from est_analysis.methods import METHODS
from est_analysis.models.gpt2.model import GPT2
from est_analysis.train.loop import train


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(spec, quiet, tmp_path_factory, shared):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EST_ANALYSIS_CACHE", str(shared / "cache"))
        return run(spec, quiet, root=tmp_path_factory.mktemp("runs"))


def test_a_run_is_a_folder_named_by_its_content(spec, done):
    assert done.run_id == done.folder.name == run_id(spec, data_hash=prepare_data(spec).hash)
    assert not done.cached
    assert done.checkpoint == done.folder / "checkpoints" / "step000004"
    assert json.loads((done.folder / "finished.json").read_text()) == {
        "run_id": done.run_id, "steps": 4, "checkpoint": "step000004",
    }  # fmt: skip
    assert {path.name for path in done.folder.iterdir()} - {".lock"} == {
        "spec.json", "env.json", "rows.csv", "checkpoints", "finished.json",
    }  # fmt: skip


def test_a_finished_run_is_not_touched_again(spec, quiet, done):
    before = files(done.folder)
    again = run(spec, quiet, root=done.folder.parent)
    assert again.cached
    assert (again.run_id, again.folder, again.checkpoint) == (done.run_id, done.folder, done.checkpoint)
    assert files(done.folder) == before


@pytest.mark.parametrize("method", METHODS)
def test_execution_is_no_part_of_a_run(spec, quiet, changed, tmp_path, method):
    """How it is carried out changes neither its name nor its numbers."""
    from dataclasses import replace

    # The stacking methods' own 6-9-12 and 3-6-12 are no whole numbers of the preset's six layers.
    schedule = {"gradual_stacking": "bert-raptr-6-8-10-12", "progressive_stacking": "1:1,1,0.5; 2:1,1,1"}.get(
        method, ""
    )
    spec = changed(spec, method=method, schedule=schedule, settings__steps=12)
    one = run(spec, quiet, root=tmp_path / "one")
    other = run(spec, replace(quiet, masks_ahead=0), out=tmp_path / "other")
    assert one.run_id == other.run_id
    names = ("model.safetensors", "config.json", "tokenizer.json")
    assert all((one.checkpoint / name).read_bytes() == (other.checkpoint / name).read_bytes() for name in names)


def test_no_resume(spec, quiet, done, tmp_path):
    with pytest.raises(InputError, match="already holds something and --no-resume was given; give another --out"):
        run(spec, quiet, out=done.folder, resume=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file; give a folder"):
        run(spec, quiet, out=tmp_path / "file", resume=False)
    (tmp_path / "empty").mkdir()
    assert not run(spec, quiet, out=tmp_path / "empty", resume=False).cached


def test_an_unfinished_run_is_never_taken_for_finished(spec, quiet, done, tmp_path):
    folder = tmp_path / done.run_id
    shutil.copytree(done.folder, folder)
    (folder / "finished.json").unlink()
    (folder / ".finished.json.writing").write_text('{"run_id"')
    again = run(spec, quiet, out=folder)
    assert not again.cached
    assert (folder / "finished.json").read_bytes() == (done.folder / "finished.json").read_bytes()
    assert (folder / "rows.csv").read_bytes() == (done.folder / "rows.csv").read_bytes()


def test_a_run_that_diverged_is_not_trained_again_unasked(spec, quiet, changed, tmp_path, monkeypatch):
    wild, trained = changed(spec, settings__lr=1e30), []
    monkeypatch.setattr(module, "train", lambda *args: trained.append(1) or train(*args))
    first = r"^the (validation )?loss is \w+ at step \d; last good checkpoint: .*; lower lr=1e\+30 or clip"
    with pytest.raises(Diverged, match=first + "$"):
        run(wild, quiet, root=tmp_path)
    again = first + r" \(so it ended before; delete .*diverged.json to try again from the last checkpoint\)$"
    for _ in range(2):
        with pytest.raises(Diverged, match=again):
            run(wild, quiet, root=tmp_path)
    assert len(trained) == 1
    (kept,) = tmp_path.glob("*/diverged.json")
    kept.unlink()
    with pytest.raises(Diverged, match=r"or clip$"):
        run(wild, quiet, root=tmp_path)
    assert len(trained) == 2
    kept.write_text("[")
    with pytest.raises(InputError, match=r"diverged.json is damaged; delete it to train on from the last checkpoint"):
        run(wild, quiet, root=tmp_path)


def test_the_same_path_with_other_text_is_another_run(spec, quiet, changed, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one two three four\n" * 200)
    spec = changed(spec, corpus=str(text))
    out = tmp_path / "out"
    run(spec, quiet, out=out)
    text.write_text("one two three five\n" * 200)
    with pytest.raises(InputError, match="the corpus has other content"):
        run(spec, quiet, out=out)


def test_checkpoints_asked_for_are_kept_whatever_else_is_saved(spec, quiet, changed, tmp_path):
    often = changed(spec, settings__steps=12, settings__save_every=1, settings__keep_every=5)
    rarely = changed(often, settings__save_every=100)
    plain = changed(often, settings__keep_every=0)
    for one, kept in ((often, {0, 5, 10}), (rarely, {0, 5, 10}), (plain, {0})):
        result = run(one, quiet, root=tmp_path)
        steps = {int(path.name.removeprefix("step")) for path in (result.folder / "checkpoints").iterdir()}
        transitions = {2, 6}  # of 12 steps; 11 or none is the spare of the last
        assert steps - {11} == kept | transitions | {12}


def test_num_parameters(spec):
    config = spec.model_config(vocab_size=256)
    assert num_parameters(spec) == sum(parameter.numel() for parameter in GPT2(config).parameters())


@pytest.mark.parametrize(("size", "message"), [(40, "shorter than one sequence"), (0, "is empty")])
def test_text_too_short(spec, quiet, changed, tmp_path, size, message):
    (tmp_path / "short.txt").write_text("a b\n" * (size // 4))
    with pytest.raises(InputError, match=message):
        run(changed(spec, corpus=str(tmp_path / "short.txt")), quiet, out=tmp_path / "out")


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_finished_run_whose_checkpoint_is_gone_says_so(spec, quiet, tmp_path, gone):
    result = run(spec, quiet, root=tmp_path)
    (result.checkpoint / gone).unlink()
    with pytest.raises(InputError, match=r"of this finished run is gone or incomplete; remove .* to run it again"):
        run(spec, quiet, root=tmp_path)
