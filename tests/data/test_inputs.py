"""Inputs for the three kinds of language models, with tokenizers made here."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from est_analysis.data.corpus import open_corpus
from est_analysis.data.inputs import ModelInputs
from est_analysis.data.objective import Objective
from est_analysis.data.tokenizer import build_tokenizer
from est_analysis.errors import InputError

WORDS = [f"w{i}" for i in range(200)]
BERT = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
T5 = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
BART = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>", "mask_token": "<mask>"}


def tokenizer(special, extra=()):
    names = [*special.values(), *WORDS, *extra]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, additional_special_tokens=list(extra))


TOKENIZERS = {
    "masked": tokenizer(BERT),
    "seq2seq": tokenizer(T5, [f"<extra_id_{i}>" for i in range(20)]),
    "causal": tokenizer(T5),
}
FIRST = 6  # below are special tokens


@pytest.fixture
def text():
    """Tokens of which no two are alike, so that each tells where it stood."""
    return np.arange(FIRST, FIRST + 165).astype(np.uint16)


@pytest.fixture
def make(text):
    def make(kind, seed=0, seq_len=20, batch_size=2, tokens=text, tokenizer=None):
        tokenizer = tokenizer or TOKENIZERS[kind]
        return ModelInputs(tokens, kind, tokenizer, seq_len=seq_len, batch_size=batch_size, seed=seed)

    return make


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def windows(kind, batch):
    """The text that went into each row, in order."""
    if kind == "causal":
        return batch["input_ids"].tolist()
    if kind == "masked":
        original = batch["input_ids"].where(batch["labels"] < 0, batch["labels"])
        return original[:, 1:-1].tolist()
    sentinels = TOKENIZERS[kind].convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(20)])
    return [
        [t for row in (inputs, labels) for t in row if t >= FIRST and t not in sentinels]
        for inputs, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
    ]


def test_a_batch_larger_than_the_text_is_refused(make):
    """It would hold the same text several times."""
    assert len(make("causal", batch_size=8)) == 1
    with pytest.raises(InputError, match=r"165 tokens of text are 8 sequences of 20, fewer than a batch of 9; use a"):
        make("causal", batch_size=9)


@pytest.mark.parametrize(("kind", "length", "count"), [("causal", 20, 4), ("masked", 18, 4), ("seq2seq", 20, 4)])
def test_each_window_of_the_text_once(make, text, kind, length, count):
    inputs = make(kind)
    assert len(inputs) == count
    rows = [row for batch in inputs for row in windows(kind, batch)]
    assert all(len(row) == length for row in rows)
    seen = [token for row in rows for token in row]
    assert len(set(seen)) == len(seen) == 2 * count * length
    for row in rows:  # neighbours in the text, which is read as a ring
        row = sorted(row)
        steps = {(b - a) % len(text) for a, b in zip(row, row[1:] + row[:1], strict=True)}
        assert len(steps) <= 2


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
def test_batches_are_a_pure_function_of_text_sizes_seed_and_number(make, kind):
    forward = list(make(kind))
    other = make(kind)
    backward = [other[i] for i in reversed(range(len(other)))][::-1]
    torch.rand(5)
    assert all(map(same, forward, backward))
    assert not any(map(same, forward, make(kind, seed=1)))


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
def test_the_global_generator_is_left_alone(make, kind):
    before = torch.get_rng_state()
    list(make(kind))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_causal_target_is_the_next_token(make):
    for batch in make("causal"):
        assert batch.keys() == {"input_ids", "targets"}
        assert batch["input_ids"].shape == batch["targets"].shape == (2, 20)
        assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])


def test_a_causal_sequence_begins_as_the_models_own_do(text):
    for batch in ModelInputs(text, "causal", TOKENIZERS["causal"], seq_len=20, batch_size=2, seed=0, begin=(1,)):
        assert batch["input_ids"].shape == batch["targets"].shape == (2, 20)
        assert batch["input_ids"][:, 0].eq(1).all()
        assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])
        assert batch["targets"].min() >= FIRST, "all of the text is predicted, and nothing else"


def test_of_a_longer_beginning_nothing_is_to_be_predicted(text):
    batch = ModelInputs(text, "causal", TOKENIZERS["causal"], seq_len=20, batch_size=2, seed=0, begin=(3, 4))[0]
    assert batch["input_ids"][:, :2].tolist() == [[3, 4]] * 2
    assert batch["targets"][:, 0].tolist() == [-100] * 2
    assert batch["targets"][:, 1:].min() >= FIRST
    assert torch.equal(batch["input_ids"][:, 2:], batch["targets"][:, 1:-1])


def test_text_in_the_form_of_bart_is_framed(text):
    special = tokenizer(BART)
    first, last = special.bos_token_id, special.eos_token_id
    for batch in ModelInputs(text, "seq2seq", special, seq_len=20, batch_size=2, seed=0):
        for rows in (batch["input_ids"], batch["labels"]):
            assert rows.shape == (2, 20)
            assert rows[:, 0].eq(first).all()
            assert rows[:, -1].eq(last).all()
        hidden = batch["input_ids"] != batch["labels"]
        assert batch["input_ids"][hidden].eq(special.mask_token_id).all()


@pytest.mark.parametrize("kind", ["masked", "seq2seq"])
def test_a_run_of_ours_is_given_what_it_was_trained_on(text, kind):
    class Trained(Objective):
        name = "trained"

        of = lengths = None

        def batch(self, tokens, following, *, generator):
            parts = (tokens, tokens > 9, following, tokens)
            return parts if kind == "seq2seq" else parts[::3]

    objective = Trained(vocab_size=300)
    batch = ModelInputs(text, kind, TOKENIZERS[kind], seq_len=20, batch_size=2, seed=0, objective=objective)[0]
    names = ["input_ids", "attention_mask", "decoder_input_ids", "labels"]
    assert list(batch) == (names if kind == "seq2seq" else names[::3])
    assert {values.dtype for values in batch.values()} == {torch.int64}
    assert batch["input_ids"].shape == (2, 20)


def test_a_masked_sequence_is_framed_and_as_long_as_asked_for(make):
    special = TOKENIZERS["masked"]
    for batch in make("masked"):
        assert batch["input_ids"].shape == (2, 20)
        assert batch["input_ids"][:, 0].eq(special.cls_token_id).all()
        assert batch["input_ids"][:, -1].eq(special.sep_token_id).all()
        chosen = batch["labels"] >= 0
        assert chosen.sum(1).tolist() == [3, 3]  # 15 % of 18
        assert not chosen[:, [0, -1]].any()
        assert (batch["input_ids"] == special.mask_token_id).sum() <= chosen.sum()


def test_without_cls_and_sep_a_masked_sequence_is_all_text(make):
    bare = tokenizer({name: BERT[name] for name in ("unk_token", "mask_token")})
    batch = make("masked", tokenizer=bare)[0]
    original = batch["input_ids"].where(batch["labels"] < 0, batch["labels"])
    assert original.shape == (2, 20)
    assert original.min() >= FIRST


def test_two_tokens_are_too_few_for_a_frame(make):
    batch = make("masked", seq_len=2)[0]
    assert batch["input_ids"].shape == (2, 2)
    assert (batch["labels"] >= 0).sum(1).tolist() == [1, 1]


def test_spans_for_an_encoder_decoder_with_sentinels(make):
    special = TOKENIZERS["seq2seq"]
    for batch in make("seq2seq"):
        assert batch.keys() == {"input_ids", "attention_mask", "decoder_input_ids", "labels"}
        assert batch["decoder_input_ids"][:, 0].eq(special.pad_token_id).all()
        first = special.convert_tokens_to_ids("<extra_id_0>")
        assert (batch["input_ids"] == first).sum(1).tolist() == [1, 1]
        assert batch["labels"][:, 0].tolist() == [first, first]
        # 20 tokens: 3 of them in one span; then a sentinel and the end on either side.
        assert batch["input_ids"].shape == (2, 17 + 2)
        assert batch["labels"].shape == (2, 3 + 2)


def test_an_encoder_decoder_without_sentinels_restores_all_of_the_text(make):
    bart = tokenizer(BART)
    for batch in make("seq2seq", tokenizer=bart, seq_len=40, batch_size=1):
        assert batch.keys() == {"input_ids", "labels"}
        masked = batch["input_ids"] == bart.mask_token_id
        assert 0 < masked.sum() < 20
        assert torch.equal(batch["input_ids"][~masked], batch["labels"][~masked])
        assert batch["labels"][:, 1:-1].min() >= FIRST


def test_bytes_for_a_causal_model(make, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("word\n" * 100)
    byte = build_tokenizer("bytes", open_corpus(str(path)))
    batch = make("causal", tokenizer=byte, tokens=np.frombuffer(path.read_bytes(), dtype=np.uint8))[0]
    assert batch["input_ids"].max() < 256


@pytest.mark.parametrize("kind", ["masked", "seq2seq"])
def test_a_tokenizer_without_the_special_tokens(make, kind):
    message = {"masked": "no mask token, so nothing can be masked", "seq2seq": "neither sentinel tokens .* nor a mask"}
    with pytest.raises(InputError, match=message[kind]) as caught:
        make(kind, tokenizer=TOKENIZERS["causal"])
    assert "--tokenizer" in str(caught.value)
    bare = tokenizer({"unk_token": "<unk>"})
    with pytest.raises(InputError, match=message[kind]):
        make(kind, tokenizer=bare)


def test_sentinels_without_an_end_token(make):
    bare = tokenizer({"unk_token": "<unk>"}, [f"<extra_id_{i}>" for i in range(20)])
    with pytest.raises(InputError, match="no end-of-sequence token"):
        make("seq2seq", tokenizer=bare)


@pytest.mark.parametrize("kind", ["causal", "masked", "seq2seq"])
def test_a_text_shorter_than_a_sequence(make, text, kind):
    with pytest.raises(InputError, match="is shorter than one sequence; use seq_len <= 14 or more text"):
        make(kind, tokens=text[:15], seq_len=20)
    with pytest.raises(InputError, match="text of 0 tokens"):
        make(kind, tokens=text[:0])


def test_numbers_outside(make):
    inputs = make("causal")
    for index in (-1, len(inputs)):
        with pytest.raises(IndexError):
            inputs[index]
