"""Finding a checkpoint: folders, runs, and the hub with its answers made up."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import _step, evict, locate, locate_revisions
from est_analysis.curvature.weights import weight_hash
from est_analysis.errors import InputError

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def run(save, tmp_path):
    folder = tmp_path / "runs" / "est-1"
    for name in ("step001000", "step000500", "step010000", ".writing-step020000"):
        save(name=f"runs/est-1/checkpoints/{name}")
    (folder / "checkpoints" / "step030000").mkdir()
    return folder


def test_local_folders(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    last = locate("runs/est-1")
    assert (last.name, last.step) == ("runs/est-1/checkpoints/step010000", 10000)
    assert (last.revision, last.commit, last.evictable) == (None, None, False)
    assert locate(last.name) == last
    one = locate("runs/est-1", revision="step001000")
    assert (one.name, one.revision, one.step) == ("runs/est-1", "step001000", 1000)
    assert one.folder == Path("runs/est-1/checkpoints/step001000")
    assert locate(run / "checkpoints").folder == run / "checkpoints" / "step010000"
    evict(last)
    assert load(last).loss == "causal"


def test_local_revisions(run, save):
    assert list(locate_revisions(run, "step*")) == ["step000500", "step001000", "step010000"]
    assert list(locate_revisions(run / "checkpoints", "*01*")) == ["step001000", "step010000"]
    for reference in locate_revisions(run, "*"):
        assert locate(run, revision=reference).folder.name == reference
    for name in ("checkpoint-500", "checkpoint-1500", "final", "a10", "a2"):
        save(name=f"trainer/{name}")
    trainer = run.parent.parent / "trainer"
    assert list(locate_revisions(trainer, "*")) == ["checkpoint-500", "checkpoint-1500", "a2", "a10", "final"]
    assert locate(trainer).folder.name == "checkpoint-1500"


def test_a_mistyped_run_beside_others_is_not_asked_for_on_the_hub(tmp_path, monkeypatch):
    for name in ("mine", "other"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "spec.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^no folder 'runs/mien'; 'runs' has the runs mine, other$"):
        locate("runs/mien")


def test_bad_local_names(run, tmp_path, save):
    for empty in ("", "  "):
        with pytest.raises(InputError, match="names nothing"):
            locate(empty)
        with pytest.raises(InputError, match="holds no checkpoints"):
            locate_revisions(empty, "*")
    with pytest.raises(InputError, match="names nothing"):
        locate(run, revision="")
    file = run / "checkpoints" / "step001000" / "config.json"
    with pytest.raises(InputError, match="is a file; give the folder"):
        locate(file)
    with pytest.raises(InputError, match="holds no checkpoints"):
        locate_revisions(file, "*")
    for missing in ("./missing", "/missing/a", "~/missing-a", "a/b/c", "missing/", "..\\a"):
        with pytest.raises(InputError, match="no folder '"):
            locate(missing)
        with pytest.raises(InputError, match="no folder '"):
            locate_revisions(missing, "*")
    with pytest.raises(InputError, match=r"no checkpoint 'step7' in .*; it has: step000500, step001000, step010000"):
        locate(run, revision="step7")
    with pytest.raises(InputError, match=r"no checkpoint '../est-1' in"):
        locate(run, revision="../est-1")
    with pytest.raises(InputError, match=r"matches 'epoch\*'; it has: step000500"):
        locate_revisions(run, "epoch*")
    with pytest.raises(InputError, match="it has: none"):
        locate_revisions(run / "checkpoints" / "step001000", "*")
    save(name="several/a")
    with pytest.raises(InputError, match=r"give one of its checkpoints: a$"):
        locate(tmp_path / "several")


@pytest.mark.parametrize(
    ("reference", "step"),
    [
        ("step3000", 3000),
        ("step001000", 1000),
        ("checkpoint-500", 500),
        ("step1000-tokens4B", 1000),
        ("google/multiberts-seed_0-step_20k", 20000),
        ("main", None),
        ("v2", None),
        ("EleutherAI/pythia-70m", None),
    ],
)
def test_step(reference, step):
    assert _step(reference) == step


class _Hub:
    """A hub of one model that answers from folders; its cache is laid out as huggingface_hub lays it out."""

    def __init__(self, source, cache):
        self.source, self.cache, self.failure, self.downloads = source, cache, None, []
        self.branches = {"main": FIRST, "step1000": SECOND, "step20": FIRST}
        self.tags = {"step3": SECOND}

    @property
    def repository(self):
        return self.cache / "models--owner--model"

    def _commit(self, revision):
        return (self.branches | self.tags).get(revision or "main", revision)

    def model_info(self, name, revision=None):
        if self.failure:
            raise self.failure
        names = [SimpleNamespace(rfilename=path.name) for path in self.source.iterdir()]
        return SimpleNamespace(sha=self._commit(revision), siblings=names)

    def list_repo_refs(self, name):
        if self.failure and not isinstance(self.failure, hub_errors.RevisionNotFoundError):
            raise self.failure
        return SimpleNamespace(
            branches=[SimpleNamespace(name=name, target_commit=commit) for name, commit in self.branches.items()],
            tags=[SimpleNamespace(name=name, target_commit=commit) for name, commit in self.tags.items()],
        )

    def snapshot_download(self, name, revision=None, local_files_only=False, allow_patterns=None, ignore_patterns=None):
        snapshot = self.repository / "snapshots" / self._commit(revision)
        if local_files_only:
            if not snapshot.exists():
                raise hub_errors.LocalEntryNotFoundError("not there")
            return str(snapshot)
        self.downloads.append((revision, sorted(allow_patterns)))
        wanted = huggingface_hub.utils.filter_repo_objects(
            [path.relative_to(self.source).as_posix() for path in self.source.rglob("*") if path.is_file()],
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
        )
        blobs = self.repository / "blobs"
        for folder in (blobs, snapshot, self.repository / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.repository / "refs" / (revision or "main")).write_text(self._commit(revision))
        for one in wanted:
            blob = blobs / f"{snapshot.name}-{one}"
            blob.write_bytes((self.source / one).read_bytes())
            if not (snapshot / one).exists():
                (snapshot / one).symlink_to(blob)
        return str(snapshot)


@pytest.fixture
def hub(save, tmp_path, monkeypatch):
    source = save(name="source")
    (source / "own.py").write_text("")
    (source / "flax_model.msgpack").write_text("")
    (source / "pytorch_model.bin").write_text("")
    (source / "onnx").mkdir()
    (source / "onnx" / "config.json").write_text("{}")
    hub = _Hub(source, tmp_path / "hub-cache")
    hub.cache.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda api, *args, **kw: hub.model_info(*args, **kw))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", lambda api, name: hub.list_repo_refs(name))
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(hub.cache))
    return hub


def _response(status):
    return {"response": SimpleNamespace(status_code=status, headers={}, request=None)}


def test_hub_download_load_and_evict(hub):
    located = locate("owner/model", revision="step1000")
    assert (located.name, located.revision, located.commit, located.step) == ("owner/model", "step1000", SECOND, 1000)
    assert located.evictable
    names = {path.name for path in located.folder.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "own.py"}
    loaded = load(located)
    assert loaded.weight_hash == weight_hash(hub.source)
    evict(located)
    assert not located.folder.exists()
    assert not list(hub.cache.rglob("*.safetensors"))
    evict(located)  # nothing left to do


def test_hub_evicts_nothing_that_was_there(hub):
    main = locate("owner/model")
    assert (main.commit, main.step, main.evictable) == (FIRST, None, True)
    assert not locate("owner/model", revision="step20").evictable, "the same commit under another name"
    evict(locate("owner/model"))
    assert main.folder.exists()
    evict(locate("owner/model", revision="step3"))
    assert main.folder.exists()
    assert {path.name for path in (hub.repository / "snapshots").iterdir()} == {FIRST}
    copy = hub.cache / "models--other--model"
    (hub.repository).rename(copy)
    evict(main)
    assert (copy / "snapshots" / FIRST).exists(), "a copy of the repository has the same commits"


def test_hub_pickles_only_where_there_is_nothing_else(hub):
    (hub.source / "model.safetensors").rename(hub.source / "other.safetensors")
    folder = locate("owner/model").folder
    assert (folder / "pytorch_model.bin").exists()
    assert not (folder / "other.safetensors").exists()


def test_hub_revisions(hub):
    assert list(locate_revisions("owner/model", "step*")) == ["step3", "step20", "step1000"]
    assert list(locate_revisions("owner/model", "*")) == ["step3", "step20", "step1000", "main"]
    assert not hub.downloads
    with pytest.raises(
        InputError, match=r"no revision of 'owner/model' matches 'epoch\*'; it has: step3, step20, step1"
    ):
        locate_revisions("owner/model", "epoch*")
    hub.tags = {f"step{i}": FIRST for i in range(150)}
    with pytest.raises(
        InputError, match=r"it has: step0, step1, step2, step3, \.\.\., step148, step149, step1000, main$"
    ):
        locate_revisions("owner/model", "epoch*")


def test_what_revisions_point_at(hub, run):
    found = locate_revisions("owner/model", "*")
    assert found == {"main": FIRST, "step1000": SECOND, "step20": FIRST, "step3": SECOND}
    assert not hub.downloads
    assert set(locate_revisions(run, "*").values()) == {None}


def test_existing_path_wins_over_the_hub(hub, save, tmp_path, monkeypatch):
    save(name="owner/model")
    monkeypatch.chdir(tmp_path)
    assert locate("owner/model").commit is None
    assert not hub.downloads


def test_hub_out_of_reach(hub):
    cached = locate("owner/model", revision="step1000")
    hub.failure = ConnectionError("no route")
    again = locate("owner/model", revision="step1000")
    assert (again.folder, again.commit, again.evictable) == (cached.folder, SECOND, False)
    with pytest.raises(
        InputError, match=r"cannot get 'owner/model' from the hub \(no route\) nor its cache; go online"
    ):
        locate("owner/model")
    with pytest.raises(InputError, match="cannot get 'owner/model' from the hub"):
        locate_revisions("owner/model", "*")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (hub_errors.RepositoryNotFoundError("404", **_response(404)), "neither a folder nor a model on the hub"),
        (hub_errors.HFValidationError("odd"), "neither a folder nor a model on the hub"),
        (hub_errors.GatedRepoError("403", **_response(403)), "is gated; ask for access .* hf auth login"),
        (
            hub_errors.RevisionNotFoundError("404", **_response(404)),
            "'owner/model' has no revision 'step7'; it has: step3, step20, step1000, main",
        ),
    ],
)
def test_hub_refuses(hub, failure, message):
    hub.failure = failure
    with pytest.raises(InputError, match=message) as caught:
        locate("owner/model", revision="step7")
    assert "\n" not in str(caught.value)


def test_hub_download_fails(hub, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(InputError, match=r"cannot get 'owner/model' at 'step3' from the hub .*No space left"):
        locate("owner/model", revision="step3")


def test_hub_model_without_config(hub):
    (hub.source / "config.json").unlink()
    with pytest.raises(InputError, match=r"hub model 'owner/model' has no config\.json"):
        locate("owner/model")
