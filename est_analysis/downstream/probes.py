"""Linear probes of the final hidden states, the model frozen: kinds of Python tokens, and packages."""

from collections.abc import Sequence

import numpy as np
import torch

from est_analysis.data.corpus import Split
from est_analysis.downstream.labels import KINDS, KindText, Snippet, kind_texts, packages, snippets
from est_analysis.downstream.logistic import fit
from est_analysis.downstream.score import Score, accuracy_score
from est_analysis.downstream.subject import Subject
from est_analysis.errors import InputError
from est_analysis.rng import stream


def _characters(subject: Subject) -> int:
    """A length of text that fills the window for any tokenizer."""
    return 8 * subject.window


def kinds(subject: Subject, *, train: int, test: int, each: int) -> Score:
    """Which of `KINDS` the token at a position belongs to: a probe of the state there, classes about balanced.

    Positions are of the window's second half, so that there is context. The state is that of the token itself, but
    whether `if` is a name, a keyword or a word of a comment is told by context only.

    Args:
        subject: the model.
        train: windows to train on.
        test: windows of other files to test on.
        each: positions of each kind to train on, and half as many to test on, or all there are of a rare kind.
    """
    features, labels, _ = _states(subject, kind_texts("train", train, _characters(subject)), "train", each)
    probe = fit(features, labels, classes=len(KINDS))
    texts = kind_texts("validation", test, _characters(subject))
    features, labels, windows = _states(subject, texts, "validation", each // 2)
    chance = np.bincount(labels).max() / len(labels)
    files = np.array([text.file for text in texts])[windows]
    return accuracy_score("kinds", probe.predict(features) == labels, chance=float(chance), clusters=files)


def _states(
    subject: Subject, texts: Sequence[KindText], split: Split, each: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and windows of at most `each` positions of every kind."""
    windows, ends = [], []
    for text in texts:
        ids, stops = subject.ends(text.text)
        windows.append(ids[: subject.window])
        ends.append([text.kinds[stop - 1] for stop in stops[: subject.window]])
    if any(len(window) < subject.window for window in windows):
        raise InputError(f"{_characters(subject)} characters do not fill a window of {subject.window} tokens")
    labels = np.array(ends)
    labels[:, : subject.window // 2] = len(KINDS)  # little context: not taken
    chosen = [_some(np.flatnonzero(labels == kind), each, split, kind) for kind in range(len(KINDS))]
    if sum(len(found) > 0 for found in chosen) < 2:
        raise InputError(f"{len(texts)} windows of {subject.window} tokens hold fewer than two kinds of tokens")
    window, place = np.divmod(np.concatenate(chosen), subject.window)
    states = torch.stack(list(subject.hidden(windows))).numpy()
    return states[window, place], labels[window, place], window


def _some(indices: np.ndarray, count: int, split: Split, kind: int) -> np.ndarray:
    order = torch.randperm(len(indices), generator=stream(0, "downstream", "positions", split, kind))
    return indices[order[:count].numpy()]


def library(subject: Subject, *, train: int, test: int) -> Score:
    """Which package of the standard library a window of source is from: a probe of mean and spread of its states.

    Args:
        subject: the model.
        train: windows of each package to train on.
        test: windows of each, of other files, to test on.
    """
    features = {}
    for part, count in (("train", train), ("validation", test)):
        texts = snippets(part, count, _characters(subject))
        windows, labels = encode_snippets(subject, texts)
        states = torch.stack([torch.cat([s.mean(dim=0), s.std(dim=0)]) for s in subject.hidden(windows)])
        features[part] = states.numpy(), labels
    probe = fit(*features["train"], classes=len(packages()))
    states, labels = features["validation"]
    files = np.array([text.file for text in texts])  # of the part that is tested
    return accuracy_score("library", probe.predict(states) == labels, chance=1 / len(packages()), clusters=files)


def encode_snippets(subject: Subject, found: Sequence[Snippet]) -> tuple[list[list[int]], np.ndarray]:
    """The first `window` tokens of every snippet, and the labels."""
    windows = [subject.ids(snippet.text)[: subject.window] for snippet in found]
    return windows, np.array([snippet.label for snippet in found])
