"""Every objective keeps the contract; the denoisers lose no token; the tokenizer survives its checkpoint."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from est_analysis.data import open_corpus
from est_analysis.data.batches import Batches
from est_analysis.data.inputs import ModelInputs
from est_analysis.data.objective import ObjectiveBatches, objective_validation, with_special_tokens
from est_analysis.data.objectives import OBJECTIVES, find_objective
from est_analysis.data.tokenizer import encode
from est_analysis.data.tokens import TokenData, load_tokens
from est_analysis.data.ul2 import SENTINELS, UL2, Denoising
from est_analysis.errors import InputError
from est_analysis.rng import stream

TOKENIZERS = ("bytes", "bpe:300")
DENOISING = sorted(name for name, kind in OBJECTIVES.items() if issubclass(kind, Denoising))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The same text as tokens of each tokenizer: 30 documents of lines that differ."""
    root = tmp_path_factory.mktemp("text")
    (root / "files").mkdir()
    for i in range(30):
        lines = (f"the layer {i * 60 + j} of the model é has rate {j * 7 % 13}\n" for j in range(60))
        (root / "files" / f"{i}.txt").write_text("".join(lines))
    corpus = open_corpus(str(root / "files"))
    return {spec: load_tokens(corpus, spec, cache_dir=root / "cache") for spec in TOKENIZERS}


@pytest.fixture(scope="module")
def objectives(corpora):
    """(objective, tokenizer) -> objective."""
    return {(name, spec): kind.of(corpora[spec]) for name, kind in OBJECTIVES.items() for spec in TOKENIZERS}


each_objective = pytest.mark.parametrize("name", OBJECTIVES)
each_tokenizer = pytest.mark.parametrize("spec", TOKENIZERS)


def windows(data, rows, length, seed=0):
    """Windows of the text and the token after each of theirs."""
    return Batches(data.train, seq_len=length, batch_size=rows, seed=seed).batch(0)


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def restored(objective, inputs, present, labels):
    """The window that a row was made from, and how many tokens each of its spans had."""
    mode, *source = inputs[present].tolist() if objective.mode_ids[0] else [None, *inputs[present].tolist()]
    *answer, end = labels[labels >= 0].tolist()
    assert source.pop() == end == objective.eos_id
    spans, sentinels = {}, set(objective.sentinel_ids)
    for token in answer:
        if token in sentinels:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    window = [token for kept in source for token in spans.get(kept, [kept])]
    return window, mode, tuple(map(len, spans.values()))


@each_tokenizer
@each_objective
def test_an_objective_is_a_pure_function_of_windows_and_generator(corpora, objectives, name, spec):
    objective, (tokens, following) = objectives[name, spec], windows(corpora[spec], 4, 64)
    before, copies = torch.get_rng_state(), (tokens.clone(), following.clone())
    first = objective.batch(tokens, following, generator=stream(0, "one"))
    assert torch.equal(torch.get_rng_state(), before)
    assert same((tokens, following), copies)
    torch.rand(7)
    assert same(first, objective.batch(tokens, following, generator=stream(0, "one")))
    if name != "causal":
        assert not same(first, objective.batch(tokens, following, generator=stream(0, "other")))


@settings(max_examples=25, deadline=None)
@given(length=st.integers(8, 200), seed=st.integers(0, 10**6))
@each_tokenizer
@each_objective
def test_lengths_and_ids_are_as_promised(corpora, objectives, name, spec, length, seed):
    objective = objectives[name, spec]
    lengths = objective.lengths(length)
    batch = objective.batch(*windows(corpora[spec], 3, length), generator=stream(seed, "draw"))
    assert batch[0].shape == (3, lengths.inputs)
    assert batch[-1].shape == ((3, lengths.targets) if lengths.targets else (3, length))
    labelled = (batch[-1] != -100).sum(1)
    assert (labelled == lengths.labels).all() if not lengths.targets else (labelled <= lengths.labels).all()
    for tensor in batch:
        assert tensor.dtype in (torch.int64, torch.bool)
        assert tensor.max() < objective.vocab_size
        assert tensor.min() >= 0 or tensor is batch[-1]
    assert batch[-1][batch[-1] < 0].eq(-100).all()


@each_objective
def test_ranks_share_the_whole_batch(corpora, objectives, name):
    data = corpora["bytes"]
    one, other = (
        ObjectiveBatches(Batches(data.train, seq_len=32, batch_size=6, seed=1), objectives[name, "bytes"]) for _ in "12"
    )
    whole = one.batch(3)
    parts = [other.batch(3, rank=rank, world_size=3) for rank in range(3)]
    assert same(whole, tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    assert not same(whole, one.batch(4))


@each_objective
def test_validation_is_fixed(corpora, objectives, name):
    sizes = {"seq_len": 32, "batch_size": 4, "max_tokens": 320}
    one, two = (objective_validation(objectives[name, "bytes"], corpora["bytes"].validation, **sizes) for _ in "12")
    assert len(one) == 3
    assert all(map(same, one, two))


def test_causal_is_plain_batches(corpora, objectives):
    plain = Batches(corpora["bytes"].train, seq_len=40, batch_size=4, seed=2)
    assert same(ObjectiveBatches(plain, objectives["causal", "bytes"]).batch(5), plain.batch(5))


def test_masked_chooses_the_same_number_in_every_row(objectives):
    """For every length: also where 15 % of it lies half-way between two numbers."""
    objective = objectives["masked", "bytes"]
    for length in range(1, 600):
        tokens = torch.zeros(2, length, dtype=torch.int64)  # all separators: they may be chosen as well
        _, labels = objective.batch(tokens, tokens, generator=stream(0, "mask", length))
        promised = objective.lengths(length).labels
        assert (labels >= 0).sum(1).tolist() == [promised] * 2 == [max(round(0.15 * length), 1)] * 2


def test_masked_hides_text_under_its_own_mask_token(corpora, objectives):
    objective, (tokens, following) = objectives["masked", "bytes"], windows(corpora["bytes"], 40, 200)
    inputs, labels = objective.batch(tokens, following, generator=stream(0, "mask"))
    chosen = labels >= 0
    assert torch.equal(torch.where(chosen, labels, inputs), tokens)
    assert objective.mask_id == 256 == corpora["bytes"].vocab_size
    assert not (tokens == objective.mask_id).any()
    masked = (inputs == objective.mask_id).sum().item() / chosen.sum().item()
    # 1200 chosen tokens: 0.8 by the mask, 0.1 / 257 by chance; 4 standard errors.
    assert masked == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 1200))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(8, 200), seed=st.integers(0, 10**6))
@each_tokenizer
@pytest.mark.parametrize("name", DENOISING)
def test_a_denoiser_loses_no_token(corpora, objectives, name, spec, length, seed):
    objective, (tokens, following) = objectives[name, spec], windows(corpora[spec], 4, length, seed)
    batch = objective.batch(tokens, following, generator=stream(seed, "spans"))
    allowed = {
        (ids[0] if ids else None, *d.counts(length))
        for ids, d in zip(objective.mode_ids, objective.mixture, strict=True)
    }
    for row, inputs, present, decoder_inputs, labels in zip(tokens.tolist(), *batch, strict=True):
        window, mode, spans = restored(objective, inputs, present, labels)
        assert window == row
        assert (mode, sum(spans), len(spans)) in allowed, "the mode tells rate and spans"
        assert present.sum() == present.int().argmin() or present.all(), "padding is at the end alone"
        assert inputs[~present].eq(objective.pad_id).all()
        answer = labels[labels >= 0]
        assert decoder_inputs[0] == objective.pad_id
        assert torch.equal(decoder_inputs[1 : len(answer)], answer[:-1])
        assert labels[len(answer) :].eq(-100).all()


@pytest.mark.parametrize("name", DENOISING)
@pytest.mark.parametrize("length", [16, 128, 512])
def test_shapes_are_the_least_that_hold_every_denoiser(corpora, objectives, name, length):
    objective = objectives[name, "bytes"]
    _, present, _, labels = objective.batch(*windows(corpora["bytes"], 80, length), generator=stream(0, "spans"))
    assert present[:, -1].any()
    assert (labels[:, -1] >= 0).any()


def test_span_corruption_is_t5s():
    """512 tokens: 77 in 26 spans, then a sentinel each and the end."""
    lengths = find_objective("span_corruption").lengths(512)
    assert (lengths.inputs, lengths.targets, lengths.labels) == (512 - 77 + 26 + 1, 77 + 26 + 1, 77 + 26 + 1)


def test_ul2_is_seven_denoisers():
    """Tay et al. 2022, table 1, at UL2's own window: tokens in spans, spans."""
    assert [(d.mode, *d.counts(512)) for d in UL2.mixture] == [
        ("[R]", 77, 26),
        ("[R]", 77, 10),
        ("[S]", 128, 1),
        ("[X]", 256, 85),
        ("[X]", 256, 32),
        ("[X]", 77, 1),
        ("[X]", 256, 4),
    ]


def test_a_sequential_denoiser_hides_the_last_quarter(corpora, objectives):
    objective, (tokens, following) = objectives["ul2", "bytes"], windows(corpora["bytes"], 60, 64)
    sequential = objective.mode_ids[[d.mode for d in objective.mixture].index("[S]")][0]
    inputs, present, _, labels = objective.batch(tokens, following, generator=stream(0, "spans"))
    rows = (inputs[:, 0] == sequential).nonzero().flatten().tolist()
    assert len(rows) > 2
    for row in rows:
        assert inputs[row][present[row]].tolist()[1:-2] == tokens[row, :48].tolist()
        assert labels[row][labels[row] >= 0].tolist()[1:-1] == tokens[row, 48:].tolist()


def _draws_evenly(objective, data, rows=2100):
    """Whether every denoiser of UL2's is drawn as often as any other, within 4 binomial standard errors."""
    tokens, following = windows(data, rows, 128)
    inputs, present, _, labels = objective.batch(tokens, following, generator=stream(0, "mixture"))
    sizes = zip(inputs[:, 0].tolist(), present.sum(1).tolist(), (labels >= 0).sum(1).tolist(), strict=True)
    drawn = list(sizes)  # at 128 tokens no two denoisers agree in all three
    kinds = {
        (ids[0], lengths.inputs, lengths.targets)
        for ids, lengths in zip(objective.mode_ids, (d.lengths(128) for d in objective.mixture), strict=True)
    }
    assert len(kinds) == 7
    assert set(drawn) <= kinds
    share, error = rows / 7, math.sqrt(rows * 6 / 49)
    return all(abs(drawn.count(kind) - share) < 4 * error for kind in kinds)


def test_each_denoiser_of_the_mixture_is_equally_likely(corpora, objectives):
    class Biased(UL2):
        mixture = (*UL2.mixture, UL2.mixture[3])

    data = corpora["bytes"]
    assert _draws_evenly(objectives["ul2", "bytes"], data)
    assert not _draws_evenly(Biased.of(data), data), "the test would not see a denoiser drawn twice as often"


@each_tokenizer
@each_objective
def test_the_tokenizer_survives_its_checkpoint(corpora, objectives, name, spec, tmp_path):
    objective, data = objectives[name, spec], corpora[spec]
    objective.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.get_vocab() == objective.tokenizer.get_vocab()
    assert objective.vocab_size == len(loaded)
    new = list(range(data.vocab_size, objective.vocab_size))
    assert loaded.decode(new, skip_special_tokens=True) == "", "none of the new tokens is text"
    text = "the layer 7 é\n\tof\x00 rates"
    for tokenizer in (objective.tokenizer, loaded):
        assert tokenizer(text)["input_ids"] == data.tokenizer(text)["input_ids"], "text has the ids it had"
        for role in ("pad_token_id", "eos_token_id", "mask_token_id"):
            assert getattr(tokenizer, role) == getattr(objective.tokenizer, role)
    if name == "masked":
        assert loaded.mask_token_id == objective.mask_id
    if name in DENOISING:
        assert (loaded.pad_token_id, loaded.eos_token_id) == (objective.pad_id, objective.eos_id)
        assert loaded.convert_tokens_to_ids(list(SENTINELS)) == list(objective.sentinel_ids)
        modes = [denoiser.mode for denoiser in objective.mixture if denoiser.mode]
        assert loaded.convert_tokens_to_ids(modes) == [i for ids in objective.mode_ids for i in ids]


@each_tokenizer
def test_the_tokenizer_of_the_data_stays_as_it_was(corpora, objectives, spec):
    data = corpora[spec]
    assert len(data.tokenizer) == data.vocab_size
    assert (data.tokenizer.mask_token_id, data.tokenizer.pad_token_id) == (None, None)
    assert {objectives[name, spec].vocab_size - data.vocab_size for name in ("causal", "masked")} == {0, 1}
    new = 101 + (spec == "bytes")  # sentinels, padding, and an end where there was none
    assert objectives["span_corruption", spec].vocab_size == data.vocab_size + new
    assert objectives["ul2", spec].vocab_size == data.vocab_size + new + 3


@each_tokenizer
@pytest.mark.parametrize(("name", "kind"), [("masked", "masked"), ("span_corruption", "seq2seq"), ("ul2", "seq2seq")])
def test_a_checkpoints_tokenizer_serves_the_trace(corpora, objectives, name, kind, spec, tmp_path):
    objective = objectives[name, spec]
    objective.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    batch = ModelInputs(corpora[spec].train, kind, loaded, seq_len=64, batch_size=2, seed=0)[0]
    if kind == "masked":
        assert (batch["input_ids"] == objective.mask_id).any()
        assert (batch["labels"] >= 0).sum(1).tolist() == [objective.lengths(64).labels] * 2
    else:
        assert batch["labels"][:, 0].tolist() == [objective.sentinel_ids[0]] * 2
        assert batch["decoder_input_ids"][:, 0].tolist() == [objective.pad_id] * 2
        assert batch["input_ids"][:, -1].tolist() == [objective.eos_id] * 2


def test_special_tokens_that_the_tokenizer_has_are_used(corpora, tmp_path):
    """Trained once with span corruption, once more with UL2 on that tokenizer: only the modes are new."""
    first = find_objective("span_corruption").of(corpora["bpe:300"])
    first.tokenizer.save_pretrained(tmp_path)
    data = replace(corpora["bpe:300"], vocab_size=first.vocab_size, tokenizer_folder=tmp_path)
    second = UL2.of(data)
    assert second.vocab_size == first.vocab_size + 3
    assert (second.pad_id, second.eos_id, second.sentinel_ids) == (first.pad_id, first.eos_id, first.sentinel_ids)


def test_text_with_sentinels_is_refused_before_training(corpora, tmp_path):
    first = find_objective("span_corruption").of(corpora["bytes"])
    first.tokenizer.save_pretrained(tmp_path)
    text = np.full(1000, 65, dtype=np.uint16)
    text[700] = first.sentinel_ids[3]
    data = TokenData(
        corpus="docs",
        train=np.full(1000, 65, dtype=np.uint16),
        validation=text,
        vocab_size=first.vocab_size,
        separator_id=0,
        num_bytes={},
        hash="",
        tokenizer_folder=tmp_path,
    )
    with pytest.raises(InputError, match=r"corpus 'docs' holds the sentinel <extra_id_3>.*--tokenizer bytes"):
        UL2.of(data)


def test_ids_with_gaps_leave_no_place_for_a_special_token():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "a": 1, "</s>": 3, "b": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    with pytest.raises(InputError, match="has ids that are not in use: a special token would get a word's;"):
        with_special_tokens(tokenizer, {"mask_token": "[MASK]"})


@pytest.mark.parametrize("name", ["masked", "ul2"])
def test_text_that_spells_a_special_token_is_text(corpora, objectives, name):
    """A checkpoint's tokenizer gives what the run was trained on."""
    data = corpora["bpe:300"]
    extended = objectives[name, "bpe:300"].tokenizer
    text = ["Generic[S] of [MASK] and <extra_id_0>"]
    plain, special = (next(encode(tokenizer, text)).tolist() for tokenizer in (data.tokenizer, extended))
    assert plain == special
    assert data.tokenizer.decode(plain) == text[0]


def test_windows_that_cannot_be_denoised():
    for name in DENOISING:
        with pytest.raises(InputError, match="a window of 1 tokens is too short for span corruption; use at least 2"):
            find_objective(name).lengths(1)
        with pytest.raises(InputError, match=f"for {name}, which has 100 sentinels; use seq_len <=") as caught:
            find_objective(name).lengths(4096)
        find_objective(name).lengths(int(str(caught.value).rsplit(" ", 1)[-1]))  # what it advises is right
    with pytest.raises(InputError, match="seq_len=1024 makes up to 171 spans for ul2"):
        UL2.lengths(1024)


def test_an_unknown_objective_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"unknown objective 'mask': did you mean 'masked'\?"):
        find_objective("mask")
    assert all(kind.name == name for name, kind in OBJECTIVES.items())
