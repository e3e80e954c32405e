"""Probes on a random model: better than chance where bytes tell, at chance where labels are shuffled, repeatable."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from est_analysis.downstream import probes
from est_analysis.downstream.labels import KINDS, KindText, Snippet
from est_analysis.downstream.probes import encode_snippets, kinds, library
from est_analysis.downstream.proxies import LONGEST, PROXIES, SMOKE, measure_proxies
from est_analysis.downstream.score import accuracy_score
from est_analysis.errors import InputError


def test_bytes_alone_tell_kinds_apart_better_than_chance_and_shuffled_labels_do_not(subject, monkeypatch):
    sizes = {"train": 250, "test": 250, "each": 120}
    found = kinds(subject, **sizes)
    assert found.value > found.chance + 5 * found.stderr
    assert found == kinds(subject, **sizes)

    texts = probes.kind_texts

    def shuffled(*arguments):
        """Every text with the kinds of the next one."""
        drawn = texts(*arguments)
        return [replace(one, kinds=other.kinds) for one, other in zip(drawn, drawn[1:] + drawn[:1], strict=True)]

    monkeypatch.setattr(probes, "kind_texts", shuffled)
    spoilt = kinds(subject, **sizes)
    assert spoilt.value < spoilt.chance + 5 * spoilt.stderr


def test_a_state_is_paired_with_the_kind_of_its_own_token(subject):
    text = "a1" * 200  # letter, digit, letter, ...
    one = KindText(text=text, kinds=bytes([0, 3] * 200), file=0)
    every = [replace(one, kinds=bytes(one.kinds[:30]) + bytes(range(6)) * 60)] * 3
    states, labels, windows = probes._states(subject, every, "train", 2)
    assert sorted(np.bincount(labels)) == [2] * len(KINDS)
    whole = next(subject.hidden([list(text.encode())[:48]])).numpy()
    for state, label in zip(states, labels, strict=True):
        places = [place for place in range(24, 48) if every[0].kinds[place] == label]
        assert min(np.abs(whole[places] - state).max(axis=1)) < 1e-5
    assert set(windows) <= {0, 1, 2}


def test_states_are_of_the_text_and_not_of_what_stands_around_it(subject):
    framed, windows = replace(subject, before=(1, 2), after=(3,)), [list(b"abc"), list(b"xyz")]
    whole = list(subject.hidden([framed.framed(window) for window in windows]))
    for state, both in zip(framed.hidden(windows), whole, strict=True):
        torch.testing.assert_close(state, both[2:-1])


def test_long_windows_are_cut_to_what_the_installed_python_has_enough_of(subject, monkeypatch):
    seen = []
    monkeypatch.setitem(PROXIES, "kinds", lambda subject, sizes: seen.append(subject.window))
    for window in (16, LONGEST, 1024):
        measure_proxies(replace(subject, window=window), ["kinds"], SMOKE)
    assert seen == [16, LONGEST, LONGEST]


def test_packages_that_use_other_letters_are_told_apart(subject, monkeypatch):
    letters = ["abc", "xyz", "0123", "()[]"]
    draw = np.random.default_rng(1)

    def planted(part, count, length):
        return [
            Snippet(text="".join(draw.choice(list(letters[label]), length)), label=label, file=label)
            for label in range(4)
            for _ in range(count)
        ]

    monkeypatch.setattr(probes, "snippets", planted)
    monkeypatch.setattr(probes, "packages", lambda: letters)
    found = library(subject, train=10, test=10)
    assert (found.value, found.chance, found.items) == (1.0, 0.25, 40)
    windows, labels = encode_snippets(subject, planted("train", 2, 400))
    assert {len(window) for window in windows} == {48}
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_all_proxies_run_at_smoke_size_and_leave_model_and_random_numbers_alone(subject):
    before = torch.random.get_rng_state(), {name: p.clone() for name, p in subject.model.named_parameters()}
    found = measure_proxies(subject, PROXIES, SMOKE)
    assert [score.task for score in found] == list(PROXIES)
    assert all(0 <= score.value <= 1 and score.stderr is not None and 0 < score.chance < 1 for score in found)
    assert found == measure_proxies(subject, PROXIES, SMOKE)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert all(torch.equal(before[1][name], p) for name, p in subject.model.named_parameters())
    assert not subject.model.training


def test_the_error_of_packages_is_over_files(subject, monkeypatch):
    """Of files whose windows are all right or all wrong."""
    seen = {}
    monkeypatch.setattr(probes, "accuracy_score", lambda *args, **more: seen.update(more))
    monkeypatch.setattr(
        probes,
        "snippets",
        lambda part, count, length: [
            Snippet(text="ab"[label] * length, label=label, file=10 * label + number // 2)
            for label in range(2)
            for number in range(count)
        ],
    )
    monkeypatch.setattr(probes, "packages", lambda: ["a", "b"])
    library(subject, train=4, test=3)
    assert seen["clusters"].tolist() == [0, 0, 1, 10, 10, 11]


def test_clustered_errors_are_larger_where_windows_are_right_or_wrong_as_a_whole():
    correct = np.repeat([True, False, True, False], 25)
    alone = accuracy_score("t", correct, chance=0.5)
    together = accuracy_score("t", correct, chance=0.5, clusters=np.repeat(range(4), 25))
    assert together.stderr == pytest.approx(np.std([1, 0, 1, 0], ddof=1) / 2)  # four independent windows
    assert together.stderr > 5 * alone.stderr


def test_an_unknown_task_is_named(subject):
    with pytest.raises(InputError, match="did you mean 'kinds'"):
        measure_proxies(subject, ["kind"])
