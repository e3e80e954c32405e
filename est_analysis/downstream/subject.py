"""The model that is examined: text in, token ids, hidden states and logits out."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from est_analysis.errors import InputError

_TOKENS_AT_ONCE = 1024  # a small model computes fastest on about so many


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A causal or masked language model and its tokenizer.

    Attributes:
        model: of `transformers`, in evaluation mode; it is left as it is.
        tokenizer: a fast one.
        window: tokens of text it reads at once: what it was trained on, at most what it can take.
        before, after: tokens that stand around a text in its training.
    """

    model: nn.Module
    tokenizer: Any
    window: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __post_init__(self):
        if self.tokenizer is None:
            raise InputError("the checkpoint has no tokenizer, and the tasks are text; add its tokenizer files")
        if not self.tokenizer.is_fast:
            raise InputError("the checkpoint's tokenizer is not a fast one; save it with a tokenizer.json")
        if self.window < 2:
            raise InputError(f"a window of {self.window} tokens holds no context; use at least 2")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return self.model.get_input_embeddings().weight.shape[1]

    def framed(self, ids: Sequence[int]) -> list[int]:
        """`ids` with what stands around a text."""
        return [*self.before, *ids, *self.after]

    def ids(self, text: str) -> list[int]:
        """The tokens of `text`, without any that the tokenizer would add."""
        return self.known(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def ends(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of `text`, and for each the number of characters up to its end."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return self.known(found["input_ids"]), [stop for _, stop in found["offset_mapping"]]

    def known(self, ids: list[int]) -> list[int]:
        """`ids`, if the model knows all of them.

        Raises:
            InputError: one is beyond its embedding.
        """
        vocabulary, largest = self.model.get_input_embeddings().weight.shape[0], max(ids, default=0)
        if largest >= vocabulary:
            raise InputError(
                f"the tokenizer is not the model's: it gives token {largest}, the model knows {vocabulary}; replace it"
            )
        return ids

    @torch.no_grad()
    def hidden(self, windows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Final hidden states (tokens x width, float32, on the CPU) of each window, all of them equally long."""
        for batch in self._batches(windows):
            states = self.model.base_model(batch).last_hidden_state
            yield from states[:, len(self.before) : states.shape[1] - len(self.after)].float().cpu()

    @torch.no_grad()
    def greedy(self, windows: Sequence[Sequence[int]], last: int) -> Iterator[Tensor]:
        """The most probable token at each of the `last` positions of every window, given those before it."""
        some = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        for batch in self._batches(windows):
            logits = self.model(batch, **({"logits_to_keep": last + 1} if some else {})).logits
            yield from logits[:, -last - 1 : -1].argmax(dim=-1).cpu()

    def _batches(self, windows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        size = max(1, _TOKENS_AT_ONCE // self.window)
        size = size if self.device.type == "cpu" else 16 * size
        for start in range(0, len(windows), size):
            framed = [self.framed(window) for window in windows[start : start + size]]
            yield torch.tensor(framed, device=self.device)
