"""The tasks that need no download, by name, at sizes that take seconds for a small model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from est_analysis.downstream.fine_tune import FineTuning, classes_of, fine_tuned
from est_analysis.downstream.labels import packages, snippets
from est_analysis.downstream.last_word import last_word
from est_analysis.downstream.probes import encode_snippets, kinds, library
from est_analysis.downstream.score import Score, accuracy_score
from est_analysis.downstream.subject import Subject
from est_analysis.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of each task.

    Attributes:
        words: last words.
        kind_train, kind_test: windows.
        kind_each: positions of each kind to train on.
        library_train, library_test: windows of each package.
        tune_train: windows of each package to fine-tune on.
        tune_epochs, tune_lr: of fine-tuning, the same for every checkpoint.
    """

    words: int = 1000
    kind_train: int = 500
    kind_test: int = 400
    kind_each: int = 400
    library_train: int = 120
    library_test: int = 60
    tune_train: int = 48
    tune_epochs: int = 2
    tune_lr: float = 1e-3


LONGEST = 128  # tokens of text at once: the installed Python has too few pieces for the windows of larger models
USUAL = Sizes()
SMOKE = Sizes(
    words=30, kind_train=200, kind_test=200, kind_each=16, library_train=4, library_test=3, tune_train=4, tune_epochs=1
)


def library_fine_tuning(subject: Subject, *, train: int, test: int, epochs: int, lr: float) -> Score:
    """Which package a window of source is from, the whole checkpoint fine-tuned for a fixed number of steps.

    It starts from a linear probe of the frozen checkpoint: in so few steps a random head would be all that learns.

    Args:
        subject: the model.
        train: windows of each package to train on.
        test: windows of each, of other files, to test on.
        epochs: passes over them.
        lr: the highest.
    """
    length = 8 * subject.window
    examples, labels = encode_snippets(subject, snippets("train", train, length))
    model = fine_tuned(
        subject,
        [subject.framed(one) for one in examples],
        torch.from_numpy(labels),
        outputs=len(packages()),
        loss=F.cross_entropy,
        how=FineTuning(lr=lr, epochs=epochs, pool="mean", probe_first=True),
        seed=0,
    )
    tested = snippets("validation", test, length)
    examples, labels = encode_snippets(subject, tested)
    correct = classes_of(model, [subject.framed(one) for one in examples]).numpy() == labels
    files = np.array([text.file for text in tested])
    return accuracy_score("library-finetune", correct, chance=1 / len(packages()), clusters=files)


PROXIES: dict[str, Callable[[Subject, Sizes], Score]] = {
    "last-word": lambda subject, sizes: last_word(subject, items=sizes.words),
    "kinds": lambda subject, sizes: kinds(subject, train=sizes.kind_train, test=sizes.kind_test, each=sizes.kind_each),
    "library": lambda subject, sizes: library(subject, train=sizes.library_train, test=sizes.library_test),
    "library-finetune": lambda subject, sizes: library_fine_tuning(
        subject, train=sizes.tune_train, test=sizes.library_test, epochs=sizes.tune_epochs, lr=sizes.tune_lr
    ),
}


def measure_proxies(subject: Subject, tasks: Iterable[str] = PROXIES, sizes: Sizes = USUAL) -> list[Score]:
    """The scores of `tasks`, the same to the last digit whenever they are measured, on windows of at most `LONGEST`.

    Raises:
        InputError: no such task.
    """
    tasks = list(tasks)
    for name in tasks:
        if name not in PROXIES:
            raise unknown_name("task", name, PROXIES)
    subject = replace(subject, window=min(subject.window, LONGEST))
    return [PROXIES[name](subject, sizes) for name in tasks]
