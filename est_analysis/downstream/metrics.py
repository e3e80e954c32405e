"""The numbers that GLUE and SQuAD report, as these benchmarks define them."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of equal entries."""
    return float(np.mean(predicted == true))


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of class 1: 2 tp / (2 tp + fp + fn); 0 where nothing is or is called 1.

    >>> f1(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]))
    0.5
    """
    hits = int(np.sum((predicted == 1) & (true == 1)))
    calls = int(np.sum(predicted == 1) + np.sum(true == 1))
    return 2 * hits / calls if calls else 0.0


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews's correlation of two classes: Pearson's of the labels; 0 where one of both is constant.

    >>> round(matthews(np.array([1, 1, 0, 0]), np.array([1, 1, 0, 1])), 4)  # 1/sqrt(3)
    0.5774
    """
    return pearson(predicted.astype(float), true.astype(float))


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of both is constant."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(stats.pearsonr(predicted, true).statistic)


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank."""
    return pearson(stats.rankdata(predicted), stats.rankdata(true))


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016).

    >>> normalised("The  Quick, brown fox!")
    'quick brown fox'
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, once normalised, else 0."""
    return float(normalised(predicted) in map(normalised, answers))


def word_f1(predicted: str, answers: Sequence[str]) -> float:
    """F1 of the words of prediction and answer, the best over answers.

    >>> word_f1("the brown fox", ["quick brown fox", "cat"])  # 2 common of 2 and of 3
    0.8
    """
    return max(_overlap(normalised(predicted).split(), normalised(answer).split()) for answer in answers)


def _overlap(predicted: list[str], true: list[str]) -> float:
    if not predicted or not true:
        return float(predicted == true)
    common = sum((Counter(predicted) & Counter(true)).values())
    return 2 * common / (len(predicted) + len(true))
