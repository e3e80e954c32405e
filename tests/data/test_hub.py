import hashlib
import json

import pandas as pd
import pytest

from est_analysis.data import hub, load_tokens, open_corpus
from est_analysis.errors import InputError


@pytest.fixture(autouse=True)
def _own_datasets_cache(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets-cache"))


def _write(path, texts, column="text"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({column: text, "n": 1}) + "\n" for text in texts))


def test_own_validation_split_is_used(tmp_path):
    _write(tmp_path / "set" / "train.jsonl", ["a\r\n", "", "b"])
    _write(tmp_path / "set" / "validation.jsonl", ["c 😀", None])
    corpus = open_corpus(f"hf:{tmp_path / 'set'}")
    assert list(corpus.documents()) == [("train", "a\r\n"), ("train", "b"), ("validation", "c 😀")]
    tokens = load_tokens(corpus, "bytes", cache_dir=tmp_path)
    assert bytes(tokens.train.tolist()) == b"a\r\n\0b\0"
    assert bytes(tokens.validation.tolist()) == "c 😀\0".encode()


def test_parquet_without_validation_holds_out_by_hash(tmp_path):
    texts = [f"document {i}" for i in range(100)]
    (tmp_path / "set").mkdir()
    pd.DataFrame({"body": texts}).to_parquet(tmp_path / "set" / "train.parquet")
    corpus = open_corpus(f"hf:{tmp_path / 'set'}", text_column="body")
    held_out = [t for t in texts if int(hashlib.sha256(t.encode()).hexdigest(), 16) % 20 == 0]
    assert held_out
    assert [t for s, t in corpus.documents() if s == "validation"] == held_out
    assert [t for s, t in corpus.documents() if s == "train"] == [t for t in texts if t not in held_out]


def test_max_bytes_applies_to_each_split(tmp_path):
    _write(tmp_path / "set" / "train.jsonl", ["x" * 50] * 10)
    _write(tmp_path / "set" / "validation.jsonl", ["y" * 50] * 10)
    corpus = open_corpus(f"hf:{tmp_path / 'set'}", max_bytes=100)
    assert list(corpus.documents()) == [("train", "x" * 50), ("train", "x" * 45), ("validation", "y" * 5)]


def test_max_bytes_stops_reading(monkeypatch):
    """Else the first megabyte of a large stream would cost its whole download."""

    def endless(letter):
        yield from [letter * 50] * 3
        pytest.fail("read on")

    monkeypatch.setattr(hub, "texts", lambda source, column: {s: endless(s[0]) for s in ("train", "validation")})
    corpus = open_corpus(f"hf:owner/name@{'a' * 40}", max_bytes=100)
    assert list(corpus.documents()) == [("train", "t" * 50), ("train", "t" * 45), ("validation", "v" * 5)]


def test_bad_data_sets(tmp_path):
    _write(tmp_path / "set" / "train.jsonl", [f"document {i}" for i in range(100)])
    with pytest.raises(InputError, match="no column 'body'; set text_column to one of: text, n"):
        open_corpus(f"hf:{tmp_path / 'set'}", text_column="body")
    with pytest.raises(InputError, match="holds int, not text"):
        open_corpus(f"hf:{tmp_path / 'set'}", text_column="n")
    with pytest.raises(InputError, match="cannot read data set"):
        open_corpus(f"hf:{tmp_path / 'set'}", dataset_config="missing")
    _write(tmp_path / "short" / "train.jsonl", ["one"])
    with pytest.raises(InputError, match="too short"):
        open_corpus(f"hf:{tmp_path / 'short'}")
    _write(tmp_path / "untrained" / "test.jsonl", ["one"])
    with pytest.raises(InputError, match="no train split, only test"):
        open_corpus(f"hf:{tmp_path / 'untrained'}")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="cannot read data set"):
        open_corpus(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(InputError, match="names no data set"):
        open_corpus("hf:")


def test_hub_data_set_is_pinned_to_a_commit_and_read_lazily(monkeypatch):
    """Opened by its commit alone, so that cached tokens need no network; another commit is another corpus."""
    monkeypatch.setattr(hub, "texts", lambda source, column: pytest.fail("read while opening"))
    first, second = "a" * 40, "b" * 40
    identities = {open_corpus(f"hf:owner/name@{commit}").identity for commit in (first, first, second)}
    identities.add(open_corpus(f"hf:owner/name@{first}", max_bytes=1000).identity)
    identities.add(open_corpus(f"hf:owner/name@{first}", dataset_config="en").identity)
    assert len(identities) == 4

    import huggingface_hub

    asked = []

    def dataset_info(self, name, revision=None):
        asked.append((name, revision))
        return huggingface_hub.DatasetInfo(id=name, sha=second)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    assert open_corpus("hf:owner/name").identity == open_corpus(f"hf:owner/name@{second}").identity
    assert hub.resolve("owner/name@v1", None).commit == second
    assert asked == [("owner/name", None), ("owner/name", "v1")]


def test_unreachable_hub(monkeypatch):
    with pytest.raises(InputError, match="cannot read data set 'est-analysis/not-cached'"):
        open_corpus("hf:est-analysis/not-cached")
    with pytest.raises(InputError, match="name a full commit"):
        open_corpus("hf:est-analysis/not-cached@main")
    with pytest.raises(InputError, match=r"no data set '\./missing'"):
        open_corpus("hf:./missing")
