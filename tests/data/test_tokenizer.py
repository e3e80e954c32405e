import json
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from est_analysis.data import build_tokenizer, open_corpus, separator_id
from est_analysis.data.tokenizer import encode, save
from est_analysis.data.tokens import load_tokens
from est_analysis.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
HARD = "a , b n't  \x00\r\n\t Ā😀e\u0301 é\ufeff <|endoftext|> [CLS] ."


def _ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_text("".join(f"the layer {i} of the model é has rate {i * 7 % 13}\n" for i in range(400)))
    return open_corpus(str(path))


def _reloaded(spec, corpus, folder):
    from transformers import AutoTokenizer

    build_tokenizer(spec, corpus, folder / "cache").save_pretrained(folder / "saved")
    return AutoTokenizer.from_pretrained(folder / "saved")


@pytest.fixture(scope="module")
def byte_tokenizer(corpus, tmp_path_factory):
    return _reloaded("bytes", corpus, tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def bpe(corpus, tmp_path_factory):
    return _reloaded("bpe:300", corpus, tmp_path_factory.mktemp("bpe"))


def test_bytes_has_256_entries_and_nul_between_documents(byte_tokenizer):
    assert len(byte_tokenizer) == byte_tokenizer.vocab_size == 256
    assert separator_id(byte_tokenizer) == 0
    assert sorted(byte_tokenizer.get_vocab().values()) == list(range(256))


@settings(max_examples=100, deadline=None)
@example(text=HARD)
@example(text="".join(map(chr, range(0x180))))
@given(text=TEXT)
def test_bytes_round_trip(byte_tokenizer, text):
    """Three ways to the same ids: UTF-8 itself, AutoTokenizer, and our fast path."""
    ids = _ids(byte_tokenizer, text)
    assert ids == list(text.encode())
    assert ids == next(encode(byte_tokenizer, [text])).tolist()
    assert byte_tokenizer.decode(ids) == text


@settings(max_examples=100, deadline=None)
@example(text=HARD)
@given(text=TEXT)
def test_bpe_round_trip(bpe, text):
    ids = _ids(bpe, text)
    assert ids == next(encode(bpe, [text])).tolist()
    assert bpe.decode(ids) == text


def test_bpe_has_exactly_the_size_asked_for(bpe, corpus, tmp_path):
    assert len(bpe) == 300
    assert sorted(bpe.get_vocab().values()) == list(range(300))
    assert separator_id(bpe) == 0 == bpe.convert_tokens_to_ids("<|endoftext|>")
    assert len(_ids(bpe, " the layer")) < 5
    smallest = build_tokenizer("bpe:257", corpus, tmp_path)
    assert len(smallest) == 257
    assert len(_ids(smallest, "été")) == 5


def test_bpe_training_is_deterministic_and_cached(corpus, tmp_path, monkeypatch):
    first, second = (build_tokenizer("bpe:300", corpus, tmp_path / str(i)) for i in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    monkeypatch.setattr("est_analysis.data.tokenizer._train_bpe", lambda *_: pytest.fail("trained again"))
    assert build_tokenizer("bpe:300", corpus, tmp_path / "0").get_vocab() == first.get_vocab()


def test_bpe_learns_from_the_train_split_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the cat sat\n" * 950 + "zyzzyva qqq\n" * 50)
    corpus = open_corpus(str(path))
    with pytest.raises(InputError) as caught:
        build_tokenizer("bpe:5000", corpus, tmp_path)
    largest = re.search(r"use (bpe:\d+)", str(caught.value))[1]
    vocabulary = build_tokenizer(largest, corpus, tmp_path).get_vocab()
    assert "Ġcat" in vocabulary
    assert not any("zy" in token or "qq" in token for token in vocabulary)


def test_folder_tokenizer_without_its_truncation_and_special_tokens(corpus, tmp_path):
    tokenizer = build_tokenizer("bpe:300", corpus, tmp_path / "cache")
    tokenizer.save_pretrained(tmp_path / "own")
    path = tmp_path / "own" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["truncation"] = {"max_length": 3, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    path.write_text(json.dumps(definition))
    loaded = build_tokenizer(str(tmp_path / "own"), corpus, tmp_path / "cache")
    text = "the model of the layer " * 5
    assert next(encode(loaded, [text])).tolist() == _ids(tokenizer, text)


def test_encode_keeps_the_order_of_many_documents(bpe):
    texts = [f"the layer {i} " * 2000 for i in range(100)]  # more than one batch
    for text, ids in zip(texts, encode(bpe, texts), strict=True):
        assert ids.dtype == np.int64
        assert bpe.decode(ids) == text


@pytest.mark.parametrize("spec", ["bpe:256", "bpe:0", "bpe:-5", "bpe:", "bpe:4k", "bpe:4096.0", "bpe:²"])
def test_bad_bpe_size(spec, corpus, tmp_path):
    with pytest.raises(InputError, match="whole number >= 257"):
        build_tokenizer(spec, corpus, tmp_path)


def test_bpe_larger_than_the_corpus_supports(corpus, tmp_path):
    with pytest.raises(InputError, match="supports only") as caught:
        build_tokenizer("bpe:50000", corpus, tmp_path)
    largest = re.search(r"supports only (\d+)", str(caught.value))[1]
    assert len(build_tokenizer(f"bpe:{largest}", corpus, tmp_path)) == int(largest)
    assert not any((tmp_path / "tokenizers").glob(".*/")), "a failed build must leave nothing behind"


def test_bad_names(corpus, tmp_path):
    for slip in ("byte", "Bytes", "bpe4096", ""):
        with pytest.raises(InputError, match="unknown tokenizer"):
            build_tokenizer(slip, corpus, tmp_path)
    with pytest.raises(InputError, match="cannot load tokenizer 'est-analysis/not-there'"):
        build_tokenizer("est-analysis/not-there", corpus, tmp_path)
    with pytest.raises(InputError, match="cannot load tokenizer"):
        build_tokenizer(str(tmp_path), corpus, tmp_path)


def test_no_eos_token_to_separate_documents_with(bpe, tmp_path):
    bpe.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="no eos token"):
        separator_id(build_tokenizer(str(tmp_path), None))


def test_a_full_disk_is_an_os_error(bpe, tmp_path, monkeypatch):
    """The tokenizers library raises a bare Exception."""

    def full(folder):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(bpe, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left on device"):
        save(bpe, tmp_path)

    def wrong(folder):
        raise KeyError("a fault of ours")

    monkeypatch.setattr(bpe, "save_pretrained", wrong)
    with pytest.raises(KeyError):
        save(bpe, tmp_path)


def test_another_mask_token_is_not_taken_from_the_cache(corpus, bpe, tmp_path):
    """The tokens are the same, and say so; what an objective reads of the tokenizer is not."""
    bpe.save_pretrained(tmp_path / "saved")
    config = tmp_path / "saved" / "tokenizer_config.json"
    found = []
    for token in ("the", "of"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"mask_token": token}))
        data = load_tokens(corpus, str(tmp_path / "saved"), cache_dir=tmp_path / "cache")
        found.append((data.hash, data.tokenizer.mask_token))
    assert [mask for _, mask in found] == ["the", "of"]
    assert found[0][0] == found[1][0]


def test_a_folder_without_a_tokenizer_is_no_empty_tokenizer(corpus, tmp_path):
    """transformers would make up one without a vocabulary, to which every text is nothing."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match=r"tokenizer '.*' has no vocabulary; give one with a tokenizer.json"):
        build_tokenizer(str(tmp_path), corpus)
