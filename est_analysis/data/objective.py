"""What a model is asked of a window of text: its inputs and labels, as a pure function of (seed, step)."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from est_analysis import rng
from est_analysis.data.batches import Batch, Batches, validation_batches
from est_analysis.data.tokens import TokenData
from est_analysis.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long a sequence becomes, in tokens: what decides its cost.

    Attributes:
        inputs: of the model, or of its encoder.
        targets: of its decoder; 0 without one.
        labels: outputs of the head that are computed.
    """

    inputs: int
    targets: int = 0
    labels: int


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """An objective with the ids of the special tokens that it needs.

    Attributes:
        vocab_size: entries of the model's vocabulary, those special tokens included.
        tokenizer: knows them too; saved with every checkpoint.
    """

    name: ClassVar[str]  # its key in `data.objectives.OBJECTIVES`

    vocab_size: int
    tokenizer: "PreTrainedTokenizerFast | None" = None

    @classmethod
    @abstractmethod
    def of(cls, data: TokenData) -> "Objective":
        """The objective on a tokenized corpus, whose tokenizer gets the special tokens that it lacks.

        Raises:
            InputError: the vocabulary does not serve it.
        """

    @classmethod
    @abstractmethod
    def lengths(cls, seq_len: int) -> Lengths:
        """What becomes of a window of `seq_len` tokens of text.

        Raises:
            InputError: the window is too short.
        """

    @abstractmethod
    def batch(self, tokens: Tensor, following: Tensor, *, generator: torch.Generator) -> Batch:
        """The model's inputs and, last, its labels.

        Args:
            tokens: (B, T) windows of text.
            following: (B, T) the token after each.
            generator: source of all randomness.
        """


@dataclass(frozen=True, kw_only=True)
class Causal(Objective):
    """The next token, everywhere."""

    name = "causal"

    @classmethod
    def of(cls, data: TokenData) -> "Causal":
        """Text alone: no special tokens."""
        return cls(vocab_size=data.vocab_size, tokenizer=data.tokenizer)

    @classmethod
    def lengths(cls, seq_len: int) -> Lengths:
        """A label for every token."""
        return Lengths(inputs=seq_len, labels=seq_len)

    def batch(self, tokens: Tensor, following: Tensor, *, generator: torch.Generator) -> Batch:
        """The windows as they are."""
        return tokens, following


def with_special_tokens(
    tokenizer: "PreTrainedTokenizerFast", roles: Mapping[str, str], others: Iterable[str] = ()
) -> "PreTrainedTokenizerFast":
    """A copy of `tokenizer` that has every special token of these.

    Args:
        tokenizer: left as it is.
        roles: role, such as `mask_token`, -> the token to play it where the tokenizer has none for it.
        others: tokens without a role of their own.

    Raises:
        InputError: the tokenizer's ids have gaps, so that a new token would get the id of another.
    """
    extended = copy.deepcopy(tokenizer)
    extended.add_special_tokens({role: token for role, token in roles.items() if getattr(extended, role) is None})
    extended.add_tokens(list(others), special_tokens=True)
    ids = extended.get_vocab()
    if len(set(ids.values())) < len(ids):  # new ones are numbered by how many there are
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise InputError(
            f"tokenizer '{name}' has ids that are not in use: a special token would get a word's; give another"
        )
    return extended


def vocabulary_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """One more than the largest id that `tokenizer` can give."""
    return 1 + max(tokenizer.get_vocab().values())


class ObjectiveBatches:
    """Training batches of an objective; the same on every rank and after a resume."""

    def __init__(self, windows: Batches, objective: Objective) -> None:
        self.batch_size, self.seq_len = windows.batch_size, windows.seq_len
        self.lengths = objective.lengths(windows.seq_len)
        self._windows, self._objective = windows, objective

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """The batch of `step`, or this rank's rows of it (`Batches.batch`).

        Every rank makes the whole batch and takes its rows: what is drawn does not depend on how many ranks there are.
        """
        rows = self._windows.rows(rank, world_size)
        generator = rng.stream(self._windows.seed, "objective", step)
        batch = self._objective.batch(*self._windows.batch(step), generator=generator)
        return tuple(tensor[rows] for tensor in batch)


def objective_validation(
    objective: Objective, tokens: np.ndarray, *, seq_len: int, batch_size: int, max_tokens: int
) -> list[Batch]:
    """Fixed batches for evaluation (`validation_batches`), drawn alike for every seed and rank.

    What a denoising objective hides is drawn batch by batch: runs with batches of another size have other labels.
    """
    windows = validation_batches(tokens, seq_len=seq_len, batch_size=batch_size, max_tokens=max_tokens)
    return [
        objective.batch(*window, generator=rng.stream(0, "validation", index)) for index, window in enumerate(windows)
    ]
