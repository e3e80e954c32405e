"""GLUE (Wang et al. 2018): a checkpoint fine-tuned on each of its sentence tasks, and their mean as EST takes it.

The EST paper names the metrics (Table 6) but no setting of fine-tuning: those of `FineTuning` are ours. WNLI is left
out, as in the paper. Scores are of the validation splits: the test labels are not public.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from est_analysis.downstream import metrics
from est_analysis.downstream.fine_tune import FineTuning, fine_tuned, outputs_of
from est_analysis.downstream.score import Score, over_runs
from est_analysis.downstream.subject import Subject
from est_analysis.downstream.tables import Row, download_split, find_table, read_split
from est_analysis.errors import InputError

_HUB = "nyu-mll/glue"
_LONGEST = 128  # tokens of an example

Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One task.

    Attributes:
        columns: of its one or two sentences.
        metrics: by name, in the order of EST's Table 6.
        classes: how many; 0 for a number to be predicted.
        validation: splits to test on.
    """

    columns: tuple[str, ...]
    metrics: Mapping[str, Metric]
    classes: int = 2
    validation: tuple[str, ...] = ("validation",)


_ACCURACY = {"accuracy": metrics.accuracy}
_PAIR = ("sentence1", "sentence2")
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(columns=("sentence",), metrics={"matthews": metrics.matthews, **_ACCURACY}),
    "sst2": GlueTask(columns=("sentence",), metrics=_ACCURACY),
    "mrpc": GlueTask(columns=_PAIR, metrics={**_ACCURACY, "f1": metrics.f1}),
    "stsb": GlueTask(columns=_PAIR, classes=0, metrics={"pearson": metrics.pearson, "spearman": metrics.spearman}),
    "qqp": GlueTask(columns=("question1", "question2"), metrics={**_ACCURACY, "f1": metrics.f1}),
    "mnli": GlueTask(
        columns=("premise", "hypothesis"),
        metrics=_ACCURACY,
        classes=3,
        validation=("validation_matched", "validation_mismatched"),
    ),
    "qnli": GlueTask(columns=("question", "sentence"), metrics=_ACCURACY),
    "rte": GlueTask(columns=_PAIR, metrics=_ACCURACY),
}


def measure_glue(
    subject: Subject, name: str, *, data: Path | None, how: FineTuning, seeds: Sequence[int]
) -> list[Score]:
    """The scores of one task: the mean over `seeds`, one score a split and metric.

    Args:
        subject: the checkpoint.
        name: a key of `GLUE`.
        data: folder with a subfolder of that name holding train.csv and validation.csv (or .tsv, .json, .jsonl); the
            hub's data unless given.
        how: of fine-tuning.
        seeds: of fine-tuning.

    Raises:
        InputError: the data cannot be had, or has labels that the task has not.
    """
    task = GLUE[name]
    rows = {split: _read(name, task, split, data) for split in ("train", *task.validation)}
    examples = {split: [encode_pair(subject, [row[c] for c in task.columns]) for row in rows[split]] for split in rows}
    labels = {split: _labels(name, task, split, rows[split]) for split in rows}
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        model = fine_tuned(
            subject,
            examples["train"],
            labels["train"],
            outputs=task.classes or 1,
            loss=F.cross_entropy if task.classes else _squared,
            how=how,
            seed=seed,
        )
        for split in task.validation:
            outputs = torch.stack(list(outputs_of(model, examples[split])))
            predicted = (outputs.argmax(dim=1) if task.classes else outputs[:, 0]).numpy()
            for metric, score in task.metrics.items():
                found.setdefault((split, metric), []).append(score(predicted, labels[split].numpy()))
    return [
        over_runs(
            name + split.removeprefix("validation").replace("_", "-"),
            metric,
            values,
            chance=_chance(metric, labels[split].numpy()),
            items=len(labels[split]),
        )
        for (split, metric), values in found.items()
    ]


def mean_glue(scores: Iterable[Score]) -> float:
    """The mean that EST's Table 2 prints: of all thirteen scores of Table 6, two metrics counting twice.

    (The benchmark's own mean is over tasks.)
    """
    return float(np.mean([score.value for score in scores]))


def encode_pair(subject: Subject, sentences: Sequence[str]) -> list[int]:
    """The tokens of one or two sentences, a line each; the longer one is cut until they fit.

    A causal checkpoint has no separator of its own that it was trained on, and a line break is in any text. What ends a
    text of a masked one, as [SEP] does for BERT, stands between two.
    """
    longest = min(subject.window, _LONGEST)
    between = list(subject.after) or subject.ids("\n")
    parts = [subject.ids(text) or between for text in sentences]
    while sum(map(len, parts)) + (len(parts) - 1) * len(between) > longest:
        max(parts, key=len).pop()
    return subject.framed(parts[0] if len(parts) == 1 else [*parts[0], *between, *parts[1]])


def require_tables(name: str, data: Path) -> None:
    """Look for all tables of a task.

    Raises:
        InputError: one is missing.
    """
    for split in ("train", *GLUE[name].validation):
        find_table(data / name, split)


def _read(name: str, task: GlueTask, split: str, data: Path | None) -> list[Row]:
    columns = (*task.columns, "label")
    if data is None:
        return download_split(_HUB, name, split, columns)
    return read_split(data / name, split, columns)


def _labels(name: str, task: GlueTask, split: str, rows: Sequence[Row]) -> Tensor:
    values = [row["label"] for row in rows]
    if not task.classes:
        try:
            scores = torch.tensor([float(value) for value in values])
        except (ValueError, TypeError) as error:
            raise InputError(f"{name}, {split}: a label is no number ({error})") from error
        if not scores.isfinite().all():
            raise InputError(f"{name}, {split}: a label is missing or not finite")
        return scores
    known = [str(number) for number in range(task.classes)]
    for value in values:
        if str(value) not in known:
            raise InputError(f"{name}, {split}: label '{value}' is none of {', '.join(known)}")
    return torch.tensor([int(value) for value in values])


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs[:, 0], targets)


def _chance(metric: str, labels: np.ndarray) -> float:
    """Of always the commonest class; 0 for correlations; F1 of always calling 1."""
    if metric == "accuracy":
        return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return metrics.f1(np.ones_like(labels), labels) if metric == "f1" else 0.0
