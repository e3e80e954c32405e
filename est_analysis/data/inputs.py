"""What a language model of each kind is given of a token stream: windows in random order, as the model's own inputs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from est_analysis import rng
from est_analysis.data.batches import Batches
from est_analysis.data.denoise import IGNORED, masked_batch, span_corruption_batch
from est_analysis.data.objective import Objective
from est_analysis.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Inputs = dict[str, Tensor]


class ModelInputs(Sequence):
    """Batches of distinct windows of a text, each window once, as mappings for a `transformers` model.

    Batch i is a pure function of (text, sizes, seed, i): another process or another model with the same tokenizer gets
    the same one. Causal models get `input_ids` and `targets`, the next token of each; others denoise and get `labels`.
    Sequences begin and end as the models' own do in training.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        kind: Literal["causal", "masked", "seq2seq"],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        begin: Sequence[int] = (),
        objective: Objective | None = None,
    ):
        """Windows of `tokens`.

        Args:
            tokens: 1-D token ids.
            kind: of model.
            tokenizer: names the special tokens that a denoising model needs.
            seq_len: tokens a window, special tokens included.
            batch_size: windows a batch.
            seed: of the order of windows, and of what is masked.
            begin: what each sequence of a causal model begins with.
            objective: what a denoising model was trained on, in place of what its kind usually is.

        Raises:
            InputError: the text is too short, even for one batch, or the tokenizer lacks a special token.
        """
        if objective is not None:
            make, text_len = _trained(objective, kind), seq_len
        elif kind == "causal":
            make, text_len = _causal(begin), seq_len + 1 - max(1, len(begin))
        else:
            make, text_len = _maker(kind, tokenizer, seq_len)
        self._windows = Batches(tokens, seq_len=text_len, batch_size=batch_size, seed=seed)
        self._make, self._seed = make, seed
        if batch_size > self.num_windows:
            raise InputError(
                f"{len(tokens)} tokens of text are {self.num_windows} sequences of {text_len}, fewer than a batch of "
                f"{batch_size}; use a --micro-batch of at most {self.num_windows}, or more text"
            )

    @property
    def num_windows(self) -> int:
        """Sequences in the text; those that fill no batch are left out."""
        return self._windows.num_windows

    def __len__(self) -> int:
        return self.num_windows // self._windows.batch_size

    def __getitem__(self, index: int) -> Inputs:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._make(*self._windows.batch(index), rng.stream(self._seed, "inputs", index))


def _causal(begin: Sequence[int]) -> Callable[..., Inputs]:
    def make(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Inputs:
        if begin:
            tokens = torch.cat([tokens.new_tensor(begin).expand(len(tokens), -1), tokens], 1)
            tokens, targets = tokens[:, :-1], tokens[:, 1:].clone()
            targets[:, : len(begin) - 1] = IGNORED  # of what every sequence begins with nothing is to be predicted
        return {"input_ids": tokens, "targets": targets}

    return make


def _trained(objective: Objective, kind: str) -> Callable[..., Inputs]:
    """As in training."""
    seq2seq = ("input_ids", "attention_mask", "decoder_input_ids", "labels")
    names = ("input_ids", "labels") if kind == "masked" else seq2seq

    def make(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Inputs:
        batch = objective.batch(tokens, targets, generator=generator)
        return {name: values.long() for name, values in zip(names, batch, strict=True)}

    return make


def has_sentinels(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether it marks hidden spans as T5 does."""
    return tokenizer.convert_tokens_to_ids("<extra_id_0>") not in (None, tokenizer.unk_token_id)


def _maker(kind: str, tokenizer: "PreTrainedTokenizerBase", seq_len: int) -> tuple[Callable[..., Inputs], int]:
    """What makes a denoiser's batch from (tokens, next tokens, generator), and how long its windows of text are."""
    if kind == "masked":
        return _masked(tokenizer, seq_len)
    if not has_sentinels(tokenizer):
        return _infilling(tokenizer, seq_len)
    return _spans(tokenizer), seq_len


def _masked(tokenizer: "PreTrainedTokenizerBase", seq_len: int) -> tuple[Callable[..., Inputs], int]:
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token, so nothing can be masked; give one with --tokenizer")
    frame = _frame(tokenizer.cls_token_id, tokenizer.sep_token_id, seq_len)
    special = set(tokenizer.all_special_ids)

    def make(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Inputs:
        return masked_batch(
            _framed(tokens, frame),
            mask_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_ids=special,
            generator=generator,
        )

    return make, seq_len - len(frame)


def _frame(first: int | None, last: int | None, seq_len: int) -> tuple[int, ...]:
    """What stands around a text in training, [CLS] and [SEP]; nothing where one of them is missing or has no room."""
    return (first, last) if first is not None and last is not None and seq_len > 2 else ()


def _framed(tokens: Tensor, frame: tuple[int, ...]) -> Tensor:
    if not frame:
        return tokens
    first, last = (tokens.new_full((len(tokens), 1), i) for i in frame)
    return torch.cat([first, tokens, last], 1)


def _spans(tokenizer: "PreTrainedTokenizerBase") -> Callable[..., Inputs]:
    sentinels = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(100)]
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has sentinels but no end-of-sequence token; give one with --tokenizer")
    pad = tokenizer.pad_token_id or 0

    def make(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Inputs:
        return span_corruption_batch(
            tokens,
            sentinel_ids=[i for i in sentinels if i not in (None, tokenizer.unk_token_id)],
            eos_id=tokenizer.eos_token_id,
            pad_id=pad,
            decoder_start_id=pad,  # T5 starts with its padding token
            generator=generator,
        )

    return make


def _infilling(tokenizer: "PreTrainedTokenizerBase", seq_len: int) -> tuple[Callable[..., Inputs], int]:
    """Without sentinels, token masking, one of BART's noises (Lewis et al. 2019, section 2.2): all text is restored."""
    if tokenizer.mask_token_id is None:
        raise InputError(
            "the tokenizer has neither sentinel tokens (<extra_id_0>) nor a mask token, so an encoder-decoder has "
            "nothing to restore; give one with --tokenizer"
        )
    frame = _frame(tokenizer.bos_token_id, tokenizer.eos_token_id, seq_len)

    def make(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Inputs:
        chosen = torch.rand(tokens.shape, generator=generator) < 0.15
        masked = tokens.masked_fill(chosen, tokenizer.mask_token_id)
        return {"input_ids": _framed(masked, frame), "labels": _framed(tokens, frame)}

    return make, seq_len - len(frame)
