"""Metrics by hand, GLUE and SQuAD on small tables in their format, the harness as it is called."""

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from est_analysis.downstream import harness, metrics, squad
from est_analysis.downstream.fine_tune import FineTuning
from est_analysis.downstream.glue import GLUE, encode_pair, mean_glue, measure_glue
from est_analysis.downstream.score import Score
from est_analysis.downstream.squad import best_span, measure_squad, windows_of
from est_analysis.downstream.tables import read_split
from est_analysis.errors import InputError

HOW = FineTuning(lr=3e-3, batch_size=8, epochs=6)


def test_metrics_equal_values_worked_out_by_hand():
    predicted, true = np.array([1, 1, 1, 0, 0, 0, 1, 0]), np.array([1, 1, 0, 0, 0, 1, 1, 1])
    # tp 3, fp 1, fn 2, tn 2
    assert metrics.accuracy(predicted, true) == 5 / 8
    assert metrics.f1(predicted, true) == pytest.approx(6 / 9)
    assert metrics.matthews(predicted, true) == pytest.approx((3 * 2 - 1 * 2) / np.sqrt(4 * 5 * 3 * 4))
    assert metrics.matthews(np.ones(8), true) == 0
    assert metrics.f1(np.zeros(4), np.zeros(4)) == 0
    x, y = np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert metrics.pearson(x, y) == pytest.approx(13 / np.sqrt(50 * 5))  # deviations -3 -2 -1 6 and -1.5 .5 -.5 1.5
    assert metrics.spearman(x, y) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)


def test_metrics_agree_with_scikit_learn():
    theirs = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    predicted, true = draw.integers(0, 2, 50), draw.integers(0, 2, 50)
    assert metrics.f1(predicted, true) == pytest.approx(theirs.f1_score(true, predicted))
    assert metrics.matthews(predicted, true) == pytest.approx(theirs.matthews_corrcoef(true, predicted))


@pytest.mark.parametrize(
    ("said", "answers", "exact", "overlap"),
    [
        ("the Broncos!", ["Broncos", "x"], 1, 1),
        ("Denver Broncos", ["Broncos"], 0, 2 / 3),
        ("a cat and a dog", ["a dog and a bird"], 0, 2 * 2 / 6),
        ("", ["Broncos"], 0, 0),
        ("no no", ["no"], 0, 2 / 3),  # a word counts as often as both have it
    ],
)
def test_answers_are_compared_as_squad_does(said, answers, exact, overlap):
    assert metrics.exact_match(said, answers) == exact
    assert metrics.word_f1(said, answers) == pytest.approx(overlap)


def test_the_mean_is_that_of_the_paper():
    """EST's Table 6, row ORIGINAL, against the 79.84 of its Table 2."""
    row = [43.21, 77.27, 90.02, 80.15, 86.39, 86.63, 86.25, 89.50, 85.83, 79.14, 79.59, 86.07, 67.87]
    scores = [Score(task="t", metric="m", value=value, stderr=None, chance=None, items=1) for value in row]
    assert sum(len(task.metrics) * len(task.validation) for task in GLUE.values()) == len(row)
    assert round(mean_glue(scores), 2) == 79.84


def write(folder, rows, suffix=".csv"):
    folder.mkdir(parents=True)
    for split in ("train", "validation", "validation_matched", "validation_mismatched"):
        if suffix == ".csv":
            pd.DataFrame(rows).to_csv(folder / f"{split}.csv", index=False)
        else:
            (folder / f"{split}{suffix}").write_text("\n".join(map(json.dumps, rows)))


def test_a_planted_label_is_learned_from_a_folder(subject, tmp_path):
    rows = [{"sentence": f"{'x' * (i % 5)} {'good' if i % 2 else 'bad'}", "label": i % 2} for i in range(40)]
    write(tmp_path / "cola", rows)
    found = measure_glue(subject, "cola", data=tmp_path, how=HOW, seeds=(0, 1))
    assert [(score.task, score.metric, score.over, score.items) for score in found] == [
        ("cola", "matthews", "seeds", 40), ("cola", "accuracy", "seeds", 40),
    ]  # fmt: skip
    assert found[0].value > 0.9
    assert found[1].value > 0.95
    assert (found[0].chance, found[1].chance) == (0, 0.5)


def test_numbers_are_regressed_and_both_parts_of_mnli_are_tested(subject, tmp_path):
    rows = [{"sentence1": "same", "sentence2": "ab"[i % 2] * 3, "label": 5.0 * (i % 2)} for i in range(24)]
    write(tmp_path / "stsb", rows, ".jsonl")
    found = measure_glue(subject, "stsb", data=tmp_path, how=HOW, seeds=(0,))
    assert [score.metric for score in found] == ["pearson", "spearman"]
    assert found[0].value > 0.8
    assert found[0].stderr is None
    rows = [{"premise": "p", "hypothesis": "abc"[i % 3], "label": i % 3} for i in range(24)]
    write(tmp_path / "mnli", rows)
    found = measure_glue(subject, "mnli", data=tmp_path, how=HOW, seeds=(0,))
    assert [score.task for score in found] == ["mnli-matched", "mnli-mismatched"]


def test_pairs_are_cut_where_they_are_long_and_keep_both(subject):
    tokens = bytes(encode_pair(subject, ["a" * 100, "b" * 5])).decode()
    assert tokens == "a" * 42 + "\n" + "b" * 5
    assert bytes(encode_pair(subject, ["", "b"])).decode() == "\n\nb"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": 0}], "has no column 'sentence'; it needs sentence, label"),
        ([{"sentence": "a", "label": 2}], "label '2' is none of 0, 1"),
        ([{"sentence": "a", "label": "yes"}], "label 'yes' is none of 0, 1"),
    ],
)
def test_a_table_of_another_kind_is_refused_in_one_line(subject, tmp_path, rows, message):
    write(tmp_path / "sst2", rows)
    with pytest.raises(InputError, match=message) as error:
        measure_glue(subject, "sst2", data=tmp_path, how=HOW, seeds=(0,))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [None, 12, float("nan")])
def test_what_is_no_text_is_refused_with_its_row(subject, tmp_path, text):
    write(tmp_path / "sst2", [{"sentence": "a", "label": 0}, {"sentence": text, "label": 1}], ".jsonl")
    with pytest.raises(InputError, match=r"train.jsonl', row 2: sentence is .*, no text; mend it or leave the row out"):
        measure_glue(subject, "sst2", data=tmp_path, how=HOW, seeds=(0,))


@pytest.mark.parametrize("label", [None, float("nan")])
def test_a_score_that_is_missing_is_refused(subject, tmp_path, label):
    rows = [{"sentence1": "a", "sentence2": "b", "label": one} for one in (1.0, label)]
    write(tmp_path / "stsb", rows, ".jsonl")
    with pytest.raises(InputError, match="stsb, train: a label is"):
        measure_glue(subject, "stsb", data=tmp_path, how=HOW, seeds=(0,))


def test_a_missing_table_names_its_folder(subject, tmp_path):
    with pytest.raises(InputError, match=r"no train data in .*rte.*give it as train\.csv"):
        measure_glue(subject, "rte", data=tmp_path, how=HOW, seeds=(0,))


def test_what_stands_around_a_text_stands_around_pairs_too(subject):
    framed = replace(subject, before=(1,), after=(2,))
    assert encode_pair(framed, ["a", "b"]) == [1, *b"a", 2, *b"b", 2]
    assert encode_pair(framed, ["a"]) == [1, *b"a", 2]
    windows = windows_of(framed, ROW, 0)
    for window in windows:
        assert (window.tokens[0], window.tokens[-1]) == (1, 2)
        assert bytes(window.tokens[1:5]) == b"who?"
        assert window.tokens[window.first - 1] == 2
        start, stop = window.spans[0][0], window.spans[-1][1]
        assert bytes(window.tokens[window.first : -1]).decode() == ROW["context"][start:stop]


ROW = {"question": "who?", "context": "In 1990 Ada met Bob. " * 5, "answers": {"text": ["Ada"], "answer_start": [50]}}


def test_windows_cover_the_paragraph_and_find_the_answer(subject):
    windows = windows_of(subject, ROW, 7)
    assert len(windows) > 1
    covered = {place for window in windows for start, stop in window.spans for place in range(start, stop)}
    assert covered == set(range(len(ROW["context"])))
    for window in windows:
        assert len(window.tokens) <= subject.window
        assert window.example == 7
        start, stop = ROW["context"].index("Ada", 45), ROW["context"].index("Ada", 45) + 3
        if (place := window.positions(start, stop)) is not None:
            assert bytes(window.tokens[place[0] : place[1] + 1]).decode() == "Ada"
    assert any(window.positions(50, 53) for window in windows)
    assert windows[0].positions(0, len(ROW["context"])) is None  # not all of it is here


def test_the_answer_is_the_best_span_over_all_windows(subject):
    windows = windows_of(subject, ROW, 0)
    outputs = [torch.zeros(len(window.tokens), 2) for window in windows]
    at = next(i for i, window in enumerate(windows) if window.positions(50, 53))
    first, last = windows[at].positions(50, 53)
    outputs[at][first, 0], outputs[at][last, 1] = 5.0, 4.0
    outputs[at][0, 0] = 99.0  # a token of the question is no answer
    assert squad._answers([ROW], windows, outputs) == [ROW["context"][50:53]]
    assert best_span(torch.arange(40.0), torch.arange(40.0).flip(0)) == (39.0, 0, 0)
    starts, stops = torch.zeros(60), torch.zeros(60)
    starts[0] = stops[40] = 1.0
    assert best_span(starts, stops)[0] == 1  # 41 tokens are too many


def test_a_window_without_the_answer_is_trained_to_say_so(subject):
    examples, targets = squad._training(subject, [ROW])
    windows = windows_of(subject, ROW, 0)
    assert examples == [window.tokens for window in windows]
    said = [tuple(one) for one in targets.tolist()]
    for window, place in zip(windows, said, strict=True):
        assert place == (window.positions(50, 53) or (window.first - 1,) * 2)
    assert len(set(said)) > 1
    assert bytes([windows[0].tokens[windows[0].first - 1]]) == b"\n", "the end of the question stands for no answer"
    # A window that is sure that it has none does not count, however high its scores are.
    outputs = [torch.zeros(len(window.tokens), 2) for window in windows]
    outputs[0] += 9
    at = next(i for i, window in enumerate(windows) if i and window.positions(50, 53))
    first, last = windows[at].positions(50, 53)
    outputs[at][first, 0], outputs[at][last, 1] = 2.0, 2.0
    assert squad._answers([ROW], windows, outputs) == ["Ada"]


def test_squad_runs_from_a_folder_and_learns_where_the_answer_is(subject, tmp_path):
    answer = [{"text": ["xyz"[i % 3]], "answer_start": [i % 9 + 1]} for i in range(36)]
    texts = [f"{'-' * (i % 9)}<{'xyz'[i % 3]}>---" for i in range(36)]
    rows = [{"question": "q", "context": text, "answers": one} for text, one in zip(texts, answer, strict=True)]
    write(tmp_path / "squad", rows, ".jsonl")
    exact, overlap = measure_squad(subject, data=tmp_path, how=FineTuning(lr=3e-3, batch_size=6, epochs=8), seeds=(0,))
    assert (exact.metric, overlap.metric, exact.items) == ("exact match", "f1", 36)
    assert exact.value > 0.8
    assert overlap.value >= exact.value
    for bad in (
        "x",
        {"text": "x", "answer_start": [1]},
        {"text": ["x"], "answer_start": 1},
        {"text": ["x"]},
        {"text": ["x"], "answer_start": ["1"]},
        {"text": [None], "answer_start": [1]},
        {"text": [], "answer_start": []},
    ):
        (tmp_path / "squad" / "train.jsonl").write_text(json.dumps({**rows[0], "answers": bad}))
        with pytest.raises(InputError, match="answers must be"):
            measure_squad(subject, data=tmp_path, how=HOW, seeds=(0,))


def test_without_the_harness_one_line_says_how_to_install_it(subject, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(
        InputError, match=r"task lambada needs the lm-evaluation-harness .*pip install 'lm-eval"
    ) as error:
        harness.measure_suite(subject, "lambada", batch_size=4)
    assert "\n" not in str(error.value)


def fake_harness(monkeypatch, evaluate):
    made = {}
    package, models, huggingface = (
        ModuleType("lm_eval"),
        ModuleType("lm_eval.models"),
        ModuleType("lm_eval.models.huggingface"),
    )
    huggingface.HFLM = lambda **options: made.update(options) or SimpleNamespace()
    package.simple_evaluate = evaluate
    for module in (package, models, huggingface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def test_the_harness_is_given_our_model_and_its_scores_are_read(subject, monkeypatch):
    """Names and forms of lm-eval 0.4.13: normalised accuracy where there is one, N/A where there is no error."""
    results = {task: {"alias": task, "acc,none": 0.5, "acc_stderr,none": 0.01} for task in harness.GPT4ALL}
    results["hellaswag"] |= {"acc_norm,none": 0.33, "acc_norm_stderr,none": 0.02}
    results["boolq"] |= {"acc_stderr,none": "N/A"}
    asked = {}

    def evaluate(**options):
        asked.update(options)
        return {"results": results, "n-samples": {task: {"original": 9, "effective": 8} for task in results}}

    made = fake_harness(monkeypatch, evaluate)
    found = {score.task: score for score in harness.measure_suite(subject, "gpt4all", batch_size=4, context=48)}
    assert made["pretrained"] is subject.model
    assert (made["max_length"], made["add_bos_token"]) == (48, False)
    assert made["tokenizer"] is not subject.tokenizer, "the harness adds a padding token to it"
    assert {asked[f"{name}random_seed"] for name in ("", "numpy_", "torch_")} == {None}
    assert asked["tasks"] == list(harness.GPT4ALL)
    assert (found["hellaswag"].metric, found["hellaswag"].value) == ("normalised accuracy", 0.33)
    assert (found["boolq"].metric, found["boolq"].stderr, found["boolq"].items) == ("accuracy", None, 8)
    assert harness.mean_score(list(found.values())) == pytest.approx((0.33 + 6 * 0.5) / 7)


def test_a_failure_of_the_harness_is_one_line(subject, monkeypatch):
    def evaluate(**options):
        raise ConnectionError("no network\nand more")

    fake_harness(monkeypatch, evaluate)
    with pytest.raises(InputError, match=r"the harness failed \(no network\); it needs the network"):
        harness.measure_suite(subject, "lambada", batch_size=4)


def test_an_answer_longer_than_the_context_is_not_taken_for_a_missing_network(subject, monkeypatch):
    def evaluate(**options):
        raise AssertionError

    made = fake_harness(monkeypatch, evaluate)
    with pytest.raises(
        InputError, match=r"most likely at an answer longer than the 48 tokens that the checkpoint reads"
    ):
        harness.measure_suite(replace(subject, before=(1,)), "gpt4all", batch_size=4, context=48)
    assert made["add_bos_token"] is True


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".tsv", 'sentence\tlabel\n"smart" and sharp\t1\n"a bad one\t0\n0012\t1\n'),
        (".csv", 'sentence,label\n"""smart"" and sharp",1\n"""a bad one",0\n0012,1\n'),
        (
            ".jsonl",
            '{"sentence": "\\"smart\\" and sharp", "label": 1}\n{"sentence": "\\"a bad one", "label": 0}\n'
            '{"sentence": "0012", "label": 1}\n',
        ),
    ],
)
def test_text_is_read_as_it_is_written_and_no_row_is_lost(tmp_path, suffix, text):
    (tmp_path / f"train{suffix}").write_text(text)
    rows = read_split(tmp_path, "train", ("sentence", "label"))
    assert [row["sentence"] for row in rows] == ['"smart" and sharp', '"a bad one', "0012"]
    assert [int(row["label"]) for row in rows] == [1, 0, 1]
