"""Last words: one forward pass gives what decoding word by word gives."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from est_analysis.downstream import last_word as module
from est_analysis.downstream.labels import LastWord
from est_analysis.downstream.last_word import encode_words, last_word
from est_analysis.downstream.subject import Subject
from est_analysis.errors import InputError


def decoded(subject, context, length):
    """What the model says next, one token after the other."""
    tokens = torch.tensor([context])
    for _ in range(length):
        tokens = torch.cat([tokens, subject.model(tokens).logits[:, -1:].argmax(dim=-1)], dim=1)
    return tokens[0].tolist()


def test_windows_end_with_the_word_and_white_space_goes_with_it(subject):
    word = LastWord(context="x" * 100 + "return ", word="value", file=0)
    (found,) = encode_words(subject, [word])
    assert bytes(found.window).decode() == ("x" * 100 + "return value")[-48:]
    assert bytes(found.target).decode() == " value"


def test_a_token_that_begins_in_the_context_is_of_the_word():
    """Of `self._flush` a tokenizer may make `self`, `._`, `flush`: all but the first has to be said."""
    pieces = {"self": 1, "._": 2, "flush": 3, ".": 4, "_": 5}
    parts = ["self", "._", "flush"]
    stops = [sum(map(len, parts[: place + 1])) for place in range(3)]
    merging = SimpleNamespace(window=8, ends=lambda text: ([pieces[part] for part in parts], stops))
    (found,) = encode_words(merging, [LastWord(context="self.", word="_flush", file=7)])
    assert (found.window, found.target, found.file) == ([1, 2, 3], [2, 3], 7)


def test_greedy_agrees_with_the_logits_of_a_whole_forward(subject):
    windows = torch.randint(32, 120, (5, 48), generator=torch.Generator().manual_seed(1)).tolist()
    expected = subject.model(torch.tensor(windows)).logits[:, -5:-1].argmax(dim=-1)
    assert torch.equal(torch.stack(list(subject.greedy(windows, 4))), expected)


def test_what_the_model_would_say_counts_and_one_wrong_letter_does_not(subject, monkeypatch):
    contexts = [list(f"context {i} of so many letters, enough".encode()) for i in range(4)]
    said = [decoded(subject, context, 3) for context in contexts]
    # The bytes it says are no text, so that they go in as tokens.
    wrong = [[*tokens[:-2], (tokens[-2] + 1) % 256, tokens[-1]] for tokens in said]

    def score(answers):
        found = [module._Encoded(window=tokens, target=tokens[-3:], file=0) for tokens in answers]
        monkeypatch.setattr(module, "last_words", lambda items, reach: [LastWord(context="", word="w", file=0)] * items)
        monkeypatch.setattr(module, "encode_words", lambda subject, words: found)
        return last_word(subject, items=len(found)).value

    assert score(said) == 1
    assert score(said[:2] + wrong[2:]) == 0.5
    # A mutant that looks at the last letter only would call some of these right.
    assert score(wrong) == 0


def test_words_that_do_not_fit_are_missed(subject, monkeypatch):
    words = [LastWord(context="a" * 300, word="b" * size, file=size) for size in (3, 4, 90)]
    monkeypatch.setattr(module, "last_words", lambda items, reach: words)
    assert len(encode_words(subject, words)) == 2
    assert last_word(subject, items=3).items == 3


def test_words_of_one_file_are_one_cluster_also_those_that_do_not_fit(subject, monkeypatch):
    seen = {}
    words = [LastWord(context="a" * 300, word="b" * size, file=file) for size, file in ((3, 5), (90, 5), (4, 6))]
    monkeypatch.setattr(module, "last_words", lambda items, reach: words)
    monkeypatch.setattr(module, "accuracy_score", lambda *args, **more: seen.update(more))
    last_word(subject, items=3)
    assert sorted(seen["clusters"]) == [5, 5, 6]


def test_the_context_reaches_back_to_the_whole_window(subject):
    narrow = Subject(model=subject.model, tokenizer=subject.tokenizer, window=8)
    (found,) = encode_words(narrow, [LastWord(context="abcdefghij(", word="name", file=0)])
    assert bytes(found.window).decode() == "hij(name"


def test_tokens_that_the_model_does_not_know_are_refused(subject):
    model = copy.deepcopy(subject.model)
    model.resize_token_embeddings(100)
    small = replace(subject, model=model)
    assert small.ids("ABC") == [65, 66, 67]
    for read in (small.ids, small.ends):
        with pytest.raises(InputError, match="it gives token 122, the model knows 100; replace it"):
            read("xyz")
