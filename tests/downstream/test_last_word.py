"""Last words: one forward pass gives what decoding word by word gives."""

import torch

from est_analysis.downstream import last_word as module
from est_analysis.downstream.labels import LastWord
from est_analysis.downstream.last_word import encode_words, last_word
from est_analysis.downstream.subject import Subject


def decoded(subject, context, length):
    """What the model says next, one token after the other."""
    tokens = torch.tensor([context])
    for _ in range(length):
        tokens = torch.cat([tokens, subject.model(tokens).logits[:, -1:].argmax(dim=-1)], dim=1)
    return tokens[0].tolist()


def test_windows_end_with_the_word_and_white_space_goes_with_it(subject):
    word = LastWord(context="x" * 100 + "return ", word="value")
    (found,) = encode_words(subject, [word])
    assert bytes(found.window).decode() == ("x" * 100 + "return value")[-48:]
    assert bytes(found.target).decode() == " value"


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
        found = [module._Encoded(window=tokens, target=tokens[-3:]) for tokens in answers]
        monkeypatch.setattr(module, "last_words", lambda items, reach: [LastWord(context="", word="w")] * items)
        monkeypatch.setattr(module, "encode_words", lambda subject, words: found)
        return last_word(subject, items=len(found)).value

    assert score(said) == 1
    assert score(said[:2] + wrong[2:]) == 0.5
    # A mutant that looks at the last letter only would call some of these right.
    assert score(wrong) == 0


def test_words_that_do_not_fit_are_missed(subject, monkeypatch):
    words = [LastWord(context="a" * 300, word="b" * size) for size in (3, 4, 90)]
    monkeypatch.setattr(module, "last_words", lambda items, reach: words)
    assert len(encode_words(subject, words)) == 2
    assert last_word(subject, items=3).items == 3


def test_the_context_reaches_back_to_the_whole_window(subject):
    narrow = Subject(model=subject.model, tokenizer=subject.tokenizer, window=8)
    (found,) = encode_words(narrow, [LastWord(context="abcdefghij(", word="name")])
    assert bytes(found.window).decode() == "hij(name"
