"""Last-word accuracy in LAMBADA's form (Paperno et al. 2016): the whole word, predicted greedily from what precedes it.

The words are identifiers that end a line of code in held-out files. Decoding greedily gives the word exactly where
every one of its tokens is the most probable given the true ones before it, so that one forward pass tells.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from est_analysis.downstream.labels import LastWord, last_words
from est_analysis.downstream.score import Score, accuracy_score
from est_analysis.downstream.subject import Subject
from est_analysis.errors import InputError

_CHARACTERS_PER_TOKEN = 8  # more than any tokenizer's on source


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    window: list[int]
    target: list[int]
    file: int


def encode_words(subject: Subject, words: Sequence[LastWord]) -> list[_Encoded]:
    """The last `window` tokens of context and word, and the word's own.

    White space that ends the context goes with the word, as tokenizers join the two; the word's tokens are those of
    the whole text that end beyond the context, also one that begins before it (`._` of `self._flush`).
    """
    found = []
    for item in words:
        whole, stops = subject.ends(item.context + item.word)
        given = len(item.context.rstrip())
        target = whole[sum(stop <= given for stop in stops) :]
        window = whole[-subject.window :]
        if 0 < len(target) < len(window):
            found.append(_Encoded(window=window, target=target, file=item.file))
    return found


def last_word(subject: Subject, *, items: int) -> Score:
    """Accuracy on `items` last words; chance is to say the commonest of them always.

    A word that does not fit into the window with a token of context counts as missed.

    Raises:
        InputError: the model's window is too short for words and context.
    """
    words = last_words(items, _CHARACTERS_PER_TOKEN * subject.window)
    encoded = encode_words(subject, words)
    if len(encoded) < len(words) / 2:
        raise InputError(f"a window of {subject.window} tokens is too short for words with context; give --seq-len")
    by_length: dict[int, list[_Encoded]] = {}
    for one in encoded:
        by_length.setdefault(len(one.window), []).append(one)
    fits = Counter(one.file for one in encoded)
    missed = Counter(item.file for item in words) - fits
    files = list(missed.elements())
    correct = [False] * len(files)
    for group in by_length.values():
        longest = max(len(one.target) for one in group)
        for one, greedy in zip(group, subject.greedy([one.window for one in group], longest), strict=True):
            correct.append(greedy[-len(one.target) :].tolist() == one.target)
            files.append(one.file)
    commonest = Counter(item.word for item in words).most_common(1)[0][1]
    return accuracy_score("last-word", np.array(correct), chance=commonest / len(words), clusters=np.array(files))
