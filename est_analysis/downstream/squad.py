"""SQuAD (Rajpurkar et al. 2016): a checkpoint fine-tuned to point at the answer in a paragraph.

The question comes first, so that every token of the paragraph can see it in a causal model. EST gives no settings;
windows that overlap by 128 tokens and answers of at most 30 are those of the common example scripts, and so is that a
window without the answer is trained to point at the question's last token: an answer counts by how far it is above it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from est_analysis.downstream import metrics
from est_analysis.downstream.fine_tune import FineTuning, fine_tuned, outputs_of
from est_analysis.downstream.score import Score, over_runs
from est_analysis.downstream.subject import Subject
from est_analysis.downstream.tables import Row, download_split, read_split
from est_analysis.errors import InputError

_HUB = "rajpurkar/squad"
_LONGEST = 384  # tokens of question and paragraph
_OVERLAP = 128
_LONGEST_ANSWER = 30
_COLUMNS = ("question", "context", "answers")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A question with a part of its paragraph.

    Attributes:
        tokens: of both.
        first: position of the paragraph's first token; the one before stands for no answer.
        spans: characters (start, stop) of the paragraph's tokens.
        example: index of the question.
    """

    tokens: list[int]
    first: int
    spans: list[tuple[int, int]]
    example: int

    def positions(self, start: int, stop: int) -> tuple[int, int] | None:
        """The first and last position of the characters from `start` to `stop`; None if they are not all here."""
        if not self.spans or start < self.spans[0][0] or stop > self.spans[-1][1]:
            return None
        inside = [at for at, (low, high) in enumerate(self.spans) if low < stop and high > start]
        return (self.first + inside[0], self.first + inside[-1]) if inside else None


def windows_of(subject: Subject, row: Row, example: int) -> list[Window]:
    """The windows of one question over its paragraph.

    Raises:
        InputError: the model's window is too short for the question.
    """
    longest = min(subject.window, _LONGEST)
    question = subject.ids(row["question"] if subject.after else f"{row['question']}\n")[-(longest // 2) :]
    question = [*question, *subject.after]
    found = subject.tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = subject.known(found["input_ids"]), [tuple(span) for span in found["offset_mapping"]]
    room = longest - len(question)
    step = max(1, room - min(_OVERLAP, room // 2))
    windows = []
    for start in range(0, len(ids), step):
        part = slice(start, start + room)
        tokens = subject.framed([*question, *ids[part]])
        first = len(subject.before) + len(question)
        windows.append(Window(tokens=tokens, first=first, spans=spans[part], example=example))
        if start + room >= len(ids):
            break
    return windows


def measure_squad(subject: Subject, *, data: Path | None, how: FineTuning, seeds: Sequence[int]) -> list[Score]:
    """Exact match and F1 on the validation split, the mean over `seeds`.

    Args:
        subject: the checkpoint.
        data: folder with squad/train.json and squad/validation.json (or .jsonl): question, context, and answers with
            text and answer_start, as the hub has them; the hub's data unless given.
        how: of fine-tuning.
        seeds: of fine-tuning.
    """
    train, test = (_read(split, data) for split in ("train", "validation"))
    examples, targets = _training(subject, train)
    windows = [window for index, row in enumerate(test) for window in windows_of(subject, row, index)]
    found: dict[str, list[float]] = {"exact match": [], "f1": []}
    for seed in seeds:
        model = fine_tuned(
            subject, examples, targets, outputs=2, loss=_span_loss, how=replace(how, pool="tokens"), seed=seed
        )
        outputs = outputs_of(model, [window.tokens for window in windows])
        answers = _answers(test, windows, outputs)
        true = [row["answers"]["text"] for row in test]
        pairs = list(zip(answers, true, strict=True))
        found["exact match"].append(sum(metrics.exact_match(*pair) for pair in pairs) / len(pairs))
        found["f1"].append(sum(metrics.word_f1(*pair) for pair in pairs) / len(pairs))
    return [over_runs("squad", name, values, chance=None, items=len(test)) for name, values in found.items()]


def _read(split: str, data: Path | None) -> list[Row]:
    if data is None:
        return download_split(_HUB, None, split, _COLUMNS)
    rows = read_split(data / "squad", split, _COLUMNS)
    for row in rows:
        if not _well_formed(row["answers"]):
            form = "{'text': [...], 'answer_start': [...]}, texts and whole numbers"
            raise InputError(f"squad, {split}: answers must be {form}, not {row['answers']}")
    return rows


def _well_formed(answers: Any) -> bool:
    if not isinstance(answers, dict):
        return False
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not (isinstance(texts, list) and isinstance(starts, list) and 0 < len(texts) == len(starts)):
        return False
    return all(isinstance(text, str) for text in texts) and all(isinstance(start, int) for start in starts)


def _training(subject: Subject, rows: Sequence[Row]) -> tuple[list[list[int]], Tensor]:
    """All windows; first and last position of the whole answer, twice that of no answer where it is not there."""
    examples, targets, found = [], [], False
    for index, row in enumerate(rows):
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        for window in windows_of(subject, row, index):
            place = window.positions(start, start + len(text))
            found |= place is not None
            examples.append(window.tokens)
            targets.append(place or (window.first - 1, window.first - 1))
    if not found:
        raise InputError(f"no answer of the training data fits into a window of {subject.window} tokens")
    return examples, torch.tensor(targets)


def _span_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (F.cross_entropy(outputs[..., 0], targets[:, 0]) + F.cross_entropy(outputs[..., 1], targets[:, 1])) / 2


def _answers(rows: Sequence[Row], windows: Sequence[Window], outputs: Any) -> list[str]:
    """The text of the span whose sum of both scores is the highest above that of no answer, over all windows."""
    best = [(-math.inf, "")] * len(rows)
    for window, scores in zip(windows, outputs, strict=True):
        inside = scores[window.first : window.first + len(window.spans)]
        score, start, stop = best_span(inside[:, 0], inside[:, 1])
        score -= float(scores[window.first - 1].sum())
        if score > best[window.example][0]:
            text = rows[window.example]["context"][window.spans[start][0] : window.spans[stop][1]]
            best[window.example] = (score, text)
    return [text for _, text in best]


def best_span(starts: Tensor, stops: Tensor) -> tuple[float, int, int]:
    """The best sum of a start's and a stop's score, the stop not before the start nor 30 tokens after it.

    >>> best_span(torch.tensor([0.0, 2.0, 1.0]), torch.tensor([3.0, 0.0, 1.0]))  # 3 + 2 would run backwards
    (3.0, 0, 0)
    """
    sums = starts[:, None] + stops[None, :]
    allowed = torch.ones_like(sums).triu().tril(_LONGEST_ANSWER - 1).bool()
    sums = sums.masked_fill(~allowed, -math.inf)
    start, stop = divmod(int(sums.argmax()), len(stops))
    return float(sums[start, stop]), start, stop
