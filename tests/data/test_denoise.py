import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from est_analysis.data.denoise import masked_batch, span_corruption_batch
from est_analysis.errors import InputError
from est_analysis.rng import stream

VOCAB, MASK, SPECIAL = 1000, 3, {0, 1, 2, 3}
SENTINELS = tuple(range(999, 899, -1))
EOS, PAD, START = 1, 0, 0


def _tokens(rows, length, low=4, high=900):
    return torch.randint(low, high, (rows, length), generator=stream(0, "tokens"))


def _masked(tokens, seed=0, **changes):
    fields = {"mask_id": MASK, "vocab_size": VOCAB, "special_ids": SPECIAL, "generator": stream(seed, "mask")} | changes
    return masked_batch(tokens, **fields)


def _spans(tokens, seed=0, **changes):
    fields = {"sentinel_ids": SENTINELS, "eos_id": EOS, "pad_id": PAD, "decoder_start_id": START}
    return span_corruption_batch(tokens, **fields | {"generator": stream(seed, "spans")} | changes)


def _merged(inputs, labels):
    """The window that inputs and targets were made from."""
    spans, current = {}, None
    for token in labels[: labels.index(EOS)]:
        if token in SENTINELS:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return [t for token in inputs[: inputs.index(EOS)] for t in spans.get(token, [token])], spans


def test_masking_hides_the_share_asked_for_and_nothing_else():
    tokens = _tokens(64, 200)
    tokens[:, ::7] = 2
    batch = _masked(tokens)
    chosen = batch["labels"] != -100
    special = tokens == 2
    assert not (chosen & special).any()
    assert torch.equal(batch["input_ids"][~chosen], tokens[~chosen])
    assert torch.equal(batch["labels"][chosen], tokens[chosen])
    assert chosen.sum(1).tolist() == [round(171 * 0.15)] * 64


def test_masking_is_80_10_10():
    tokens = _tokens(100, 1000)
    batch = _masked(tokens, rate=0.5)
    chosen = batch["labels"] != -100
    inputs, originals = batch["input_ids"][chosen], tokens[chosen]
    masked, same = (inputs == MASK).double().mean(), (inputs == originals).double().mean()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert same == pytest.approx(0.1, abs=0.01)
    others = inputs[(inputs != MASK) & (inputs != originals)]
    assert others.double().mean() == pytest.approx(VOCAB / 2, abs=20), "random tokens are spread over the vocabulary"


def test_masking_covers_positions_evenly():
    chosen = _masked(_tokens(4000, 20))["labels"] != -100
    assert (chosen.double().mean(0) - 0.15).abs().max() < 0.03


@pytest.mark.parametrize("rate", [1e-6, 0.15, 0.999])
def test_at_least_one_masked_token_in_each_row(rate):
    tokens = torch.full((5, 8), 2)
    tokens[:, 3] = 77
    chosen = _masked(tokens, rate=rate)["labels"] != -100
    assert chosen.sum(1).tolist() == [1] * 5
    assert chosen[:, 3].all()


def test_special_ids_as_tensor_or_collection():
    tokens = _tokens(3, 50)
    batches = [_masked(tokens, special_ids=special) for special in (SPECIAL, torch.tensor([0, 1, 2, 3]), [3, 2, 1, 0])]
    assert all(torch.equal(batch["input_ids"], batches[0]["input_ids"]) for batch in batches)
    everywhere = _masked(tokens, special_ids=[])
    assert everywhere["labels"].shape == tokens.shape


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(2, 120),
    rate=st.floats(0.01, 0.99),
    mean_span=st.floats(1, 20),
    seed=st.integers(0, 10**6),
)
def test_spans_and_the_rest_give_the_window_back(length, rate, mean_span, seed):
    tokens = _tokens(3, length)
    batch = _spans(tokens, seed, rate=rate, mean_span=mean_span)
    noise = min(max(round(length * rate), 1), length - 1)
    for row, inputs, labels in zip(tokens.tolist(), batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        merged, spans = _merged(inputs, labels)
        assert merged == row
        assert list(spans) == list(SENTINELS[: len(spans)]), "sentinels in order"
        assert all(spans.values()), "no empty span"
        assert sum(map(len, spans.values())) == noise
        assert not any(a in SENTINELS and b in SENTINELS for a, b in itertools.pairwise(inputs))
        assert inputs[0] not in SENTINELS


def test_spans_of_t5():
    """512 tokens at 15 % in spans of 3: 77 tokens in 26 spans."""
    batch = _spans(_tokens(2, 512))
    assert batch["input_ids"].shape == (2, 512 - 77 + 26 + 1)
    assert batch["labels"].shape == batch["decoder_input_ids"].shape == (2, 77 + 26 + 1)
    assert batch["attention_mask"].all()
    assert (batch["decoder_input_ids"][:, 0] == START).all()
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1])


def test_span_divisions_are_equally_likely():
    tokens = _tokens(3000, 6)
    labels = _spans(tokens, rate=0.5, mean_span=1.5)["labels"]
    assert labels.shape[1] == 3 + 2 + 1
    first = (labels == SENTINELS[1]).int().argmax(1) - 1  # length of the first of two spans that share 3 tokens
    assert (first == 1).double().mean() == pytest.approx(0.5, abs=0.03)
    assert set(first.tolist()) == {1, 2}


def test_shorter_rows_are_padded():
    tokens = _tokens(3, 40)
    tokens[1, 20:] = PAD
    batch = _spans(tokens)
    inputs, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    assert _merged(inputs[1], labels[1])[0] == tokens[1, :20].tolist()
    stop, end = inputs[1].index(EOS) + 1, labels[1].index(EOS) + 1
    assert batch["attention_mask"][1].tolist() == [1] * stop + [0] * (len(inputs[1]) - stop)
    assert set(inputs[1][stop:]) == {PAD}
    assert set(labels[1][end:]) == {-100}
    assert (batch["decoder_input_ids"] >= 0).all()


@pytest.mark.parametrize("make", [_masked, _spans])
def test_randomness_is_the_generators_alone(make):
    tokens = _tokens(4, 100)
    torch.manual_seed(0)
    before, copy = torch.random.get_rng_state(), tokens.clone()
    first = make(tokens, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was touched"
    assert torch.equal(tokens, copy), "the window was changed"
    torch.manual_seed(1)
    again, other = make(tokens, seed=5), make(tokens, seed=6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])


@pytest.mark.parametrize("make", [_masked, _spans])
def test_bad_batches(make):
    for rate in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"rate=.* inside \(0, 1\)"):
            make(_tokens(2, 20), rate=rate)
    for tokens in (_tokens(2, 20)[0], _tokens(2, 20).int(), _tokens(2, 20)[:0]):
        with pytest.raises(InputError, match=r"no batch; give \(B, T\) ids in int64"):
            make(tokens)


def test_bad_masking():
    tokens = _tokens(3, 20)
    tokens[1] = 2
    with pytest.raises(InputError, match="row 1 has no token to mask"):
        _masked(tokens)
    with pytest.raises(InputError, match="mask_id=1000 is outside the vocabulary"):
        _masked(_tokens(3, 20), mask_id=VOCAB)
    with pytest.raises(InputError, match="leave the vocabulary of 50"):
        _masked(_tokens(3, 20), vocab_size=50)


def test_bad_spans():
    with pytest.raises(InputError, match="26 spans need as many sentinels, not 25"):
        _spans(_tokens(1, 512), sentinel_ids=SENTINELS[:25])
    with pytest.raises(InputError, match="a window of 1 tokens is too short"):
        _spans(_tokens(2, 1))
    with pytest.raises(InputError, match=r"mean_span=0\.5 is below one token"):
        _spans(_tokens(2, 20), mean_span=0.5)
    with pytest.raises(InputError, match="already hold sentinel tokens"):
        _spans(_tokens(2, 20, high=1000).fill_(950))
