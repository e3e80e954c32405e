import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from est_analysis.data import cache, load_tokens, open_corpus
from est_analysis.data import tokens as tokens_module
from est_analysis.errors import InputError


@pytest.fixture
def corpus(folder):
    return open_corpus(str(folder))


def _entry(data):
    return data.tokenizer_folder.parent


def _folders(place):
    """All that is there, but for the locks."""
    return [path for path in place.iterdir() if path.is_dir()]


def _mtimes(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("spec", ["bytes", "bpe:280"])
def test_streams_are_the_documents_with_separators(corpus, spec, tmp_path):
    data = load_tokens(corpus, spec, cache_dir=tmp_path / "cache")
    assert data.vocab_size == {"bytes": 256, "bpe:280": 280}[spec] == len(data.tokenizer)
    for split, stream in (("train", data.train), ("validation", data.validation)):
        texts = [text for s, text in corpus.documents() if s == split]
        expected = []
        for text in texts:
            expected += [*data.tokenizer(text, add_special_tokens=False)["input_ids"], data.separator_id]
        assert isinstance(stream, np.memmap)
        assert stream.dtype == np.uint16
        assert stream.tolist() == expected
        assert data.num_bytes[split] == sum(len(text.encode()) for text in texts)
        documents = data.tokenizer.decode(stream[:-1]).split(data.tokenizer.decode([data.separator_id]))
        assert documents == texts


@pytest.mark.parametrize(("size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_large_vocabulary_is_stored_in_32_bits(corpus, tmp_path, size, dtype):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({str(i): i for i in range(size)}, unk_token="7"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=str(size - 1)).save_pretrained(tmp_path / "own")
    data = load_tokens(corpus, str(tmp_path / "own"), cache_dir=tmp_path / "cache")
    assert (data.vocab_size, data.train.dtype) == (size, dtype)
    assert data.train[:4].tolist() == [7, size - 1] * 2  # each document is one unknown word


def test_hash_is_of_the_content(folder, corpus, tmp_path):
    first = load_tokens(corpus, "bytes", cache_dir=tmp_path / "a")
    assert load_tokens(corpus, "bytes", cache_dir=tmp_path / "b").hash == first.hash
    assert load_tokens(corpus, "bpe:280", cache_dir=tmp_path / "a").hash != first.hash
    path = folder / "0.txt"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert load_tokens(open_corpus(str(folder)), "bytes", cache_dir=tmp_path / "a").hash != first.hash


def test_cache_hit_reads_and_writes_nothing(corpus, tmp_path, monkeypatch):
    first = load_tokens(corpus, "bpe:280", cache_dir=tmp_path / "cache")
    before = _mtimes(tmp_path / "cache")
    monkeypatch.setattr(tokens_module, "build_tokenizer", lambda *_: pytest.fail("tokenized again"))
    again = load_tokens(corpus, "bpe:280", cache_dir=tmp_path / "cache")
    assert _mtimes(tmp_path / "cache") == before
    assert again.hash == first.hash
    assert np.array_equal(again.train, first.train)


def test_changed_tokenizer_folder_is_not_a_hit(corpus, tmp_path):
    for spec in ("bpe:270", "bpe:280"):
        load_tokens(corpus, spec, cache_dir=tmp_path / "cache").tokenizer.save_pretrained(tmp_path / "own")
        data = load_tokens(corpus, str(tmp_path / "own"), cache_dir=tmp_path / "cache")
        assert data.vocab_size == int(spec[4:])


def _truncate(entry):
    with (entry / "train.bin").open("r+b") as file:
        file.truncate(10)


DAMAGE = {
    "short stream": _truncate,
    "no stream": lambda entry: (entry / "validation.bin").unlink(),
    "no tokenizer": lambda entry: (entry / "tokenizer" / "tokenizer.json").unlink(),
    "no meta": lambda entry: (entry / "meta.json").unlink(),
    "half a meta": lambda entry: (entry / "meta.json").write_text((entry / "meta.json").read_text()[:50]),
    "empty meta": lambda entry: (entry / "meta.json").write_text('{"files": {}}'),
    "strange meta": lambda entry: (entry / "meta.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_rebuilt(corpus, tmp_path, damage):
    first = load_tokens(corpus, "bytes", cache_dir=tmp_path / "cache")
    entry, train = _entry(first), first.train.tolist()
    DAMAGE[damage](entry)
    again = load_tokens(corpus, "bytes", cache_dir=tmp_path / "cache")
    assert (again.train.tolist(), again.hash) == (train, first.hash)
    assert _folders(entry.parent) == [entry]
    assert again.tokenizer.decode([104, 105]) == "hi"


KILLED = """
import os, signal, sys
from est_analysis.data import load_tokens, open_corpus, tokens
def encode(tokenizer, texts):
    for i, ids in enumerate(real(tokenizer, texts)):
        if i == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        yield ids
real, tokens.encode = tokens.encode, encode
load_tokens(open_corpus(sys.argv[1]), "bytes", cache_dir=sys.argv[2])
"""


def test_killed_build_is_not_mistaken_for_a_finished_one(folder, corpus, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "cache")], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = _folders(tmp_path / "cache" / "tokens")
    assert len(left) == 1
    data = load_tokens(corpus, "bytes", cache_dir=tmp_path / "cache")
    assert len(data.train) == data.num_bytes["train"] + sum(s == "train" for s, _ in corpus.documents())
    assert _entry(data) not in left
    # The remains may be a slow build's; they go once nobody has written there for a day.
    assert left[0].exists()
    old = time.time() - 25 * 3600
    for path in (left[0], *left[0].rglob("*")):
        os.utime(path, (old, old))
    (_entry(data) / "meta.json").unlink()
    load_tokens(corpus, "bytes", cache_dir=tmp_path / "cache")
    assert not left[0].exists()


def _load(folder, cache_dir, barrier, results):
    corpus = open_corpus(folder)
    barrier.wait()
    data = load_tokens(corpus, "bytes", cache_dir=cache_dir)
    results.put((data.hash, int(data.train[:].sum())))


def test_processes_at_once(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    arguments = (str(folder), str(tmp_path / "cache"), barrier, results)
    processes = [context.Process(target=_load, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    seen = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
    assert len(seen) == 1
    assert all(process.exitcode == 0 for process in processes)
    assert len(_folders(tmp_path / "cache" / "tokens")) == 1


def _build(folder, barrier):
    def build(new):
        time.sleep(0.2)  # the others would begin, too
        with (folder.parent / "builds").open("a") as file:
            file.write("one\n")
        return {}

    barrier.wait()
    cache.cached_folder(folder, build)


def test_of_processes_that_ask_at_once_one_builds(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_build, args=(tmp_path / "key", barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "builds").read_text() == "one\n"
    assert _folders(tmp_path) == [tmp_path / "key"]


def test_a_disk_that_fills_up_is_one_line(tmp_path):
    def build(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"cannot fill the cache '.*' \(.*No space left on device\); free some space"):
        cache.cached_folder(tmp_path / "key", build)
    assert _folders(tmp_path) == []


def test_a_text_that_is_gone_is_no_full_disk(tmp_path):
    def build(folder):
        (tmp_path / "texts" / "gone.txt").read_text()

    with pytest.raises(InputError, match=r"cannot read '.*gone.txt': No such file or directory; give a readable file"):
        cache.cached_folder(tmp_path / "cache" / "key", build)


def test_another_machine_finishing_first_wins(tmp_path):
    """Locks may not reach it."""

    def build(folder):
        (folder / "x").write_text("ours")
        cache.cached_folder(tmp_path / "other" / "key", lambda other: {"who": (other / "x").write_text("theirs")})
        (tmp_path / "other" / "key").rename(tmp_path / "here" / "key")
        return {"who": "ours"}

    cache.cached_folder(tmp_path / "here" / "key", build)
    assert (tmp_path / "here" / "key" / "x").read_text() == "theirs"
    assert _folders(tmp_path / "here") == [tmp_path / "here" / "key"]


def test_failed_build_leaves_nothing(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens_module, "separator_id", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_tokens(corpus, "bytes", cache_dir=tmp_path / "cache")
    assert not _folders(tmp_path / "cache" / "tokens")


def test_default_cache(corpus, tmp_path, monkeypatch):
    assert _entry(load_tokens(corpus, "bytes")).parent == tmp_path / "default-cache" / "tokens"
    monkeypatch.delenv("EST_ANALYSIS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache.cache_root()) == "/xdg/est_analysis"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache.cache_root()) == "/home/me/.cache/est_analysis"


def test_unwritable_cache(corpus, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="set EST_ANALYSIS_CACHE"):
        load_tokens(corpus, "bytes", cache_dir=tmp_path / "file")


def test_corpus_found_too_short_only_while_reading(tmp_path):
    """A hub data set is not read when it is opened."""
    from est_analysis.data import Corpus

    corpus = Corpus(name="hf:x", identity="0" * 64, documents=lambda: iter([("train", "text")]))
    with pytest.raises(InputError, match="too short: it has no validation text"):
        load_tokens(corpus, "bytes", cache_dir=tmp_path / "cache")


def test_meta_says_what_it_is(corpus, tmp_path):
    data = load_tokens(corpus, "bytes", cache_dir=tmp_path)
    meta = json.loads((_entry(data) / "meta.json").read_text())
    assert (meta["corpus"], meta["tokenizer"], meta["hash"]) == (corpus.name, "bytes", data.hash)
    assert meta["files"]["train.bin"] == 2 * len(data.train)
