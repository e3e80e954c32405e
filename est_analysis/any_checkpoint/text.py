"""The text that a checkpoint is measured on: its tokens, their length a sequence, and batches on the model's device."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from est_analysis.curvature.checkpoint import Loaded
from est_analysis.data.corpus import open_corpus
from est_analysis.data.inputs import ModelInputs
from est_analysis.data.tokens import TokenData, load_tokens
from est_analysis.errors import InputError

_LONGEST = 1024  # tokens a sequence, unless the model takes fewer


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """The text that the loss is measured on.

    Attributes:
        corpora: as `open_corpus` names them, read one after the other.
        split: `validation`, the part that our training holds out; or `all` of it.
        dataset_config: configuration of a Hugging Face data set.
        text_column: its column with the text.
        max_bytes: of each text; 0 for all.
        tokenizer: instead of the checkpoint's own.
    """

    corpora: tuple[str, ...] = ("python",)
    split: str = "validation"
    dataset_config: str = ""
    text_column: str = "text"
    max_bytes: int = 0
    tokenizer: str = ""


def read_text(loaded: Loaded, text: TextSource) -> tuple[np.ndarray, str, Any]:
    """Token ids of a text, the hash of all that decides them, and the tokenizer.

    Raises:
        InputError: there is no tokenizer, or not the model's.
    """
    # The checkpoint's own as it has been loaded: its files may need code that only the user allows to run.
    tokenizer = text.tokenizer or loaded.tokenizer
    if tokenizer is None:
        raise InputError(f"{loaded.located.name} has no tokenizer; give one with --tokenizer, such as bytes")
    if text.tokenizer.startswith("bpe:"):
        raise InputError(
            f"--tokenizer {text.tokenizer} would learn one on this text, whose tokens mean nothing to "
            f"{loaded.located.name}; give the tokenizer that it was trained with"
        )
    parts = []
    for name in text.corpora:
        corpus = open_corpus(
            name,
            dataset_config=text.dataset_config or None,
            text_column=text.text_column,
            max_bytes=text.max_bytes or None,
        )
        parts.append(load_tokens(corpus, tokenizer))
    tokens = np.concatenate([_split(part, text.split) for part in parts])
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    used = parts[0].tokenizer if text.tokenizer else loaded.tokenizer
    largest = int(tokens.max(initial=0))
    if loaded.loss != "causal":  # denoising puts masks, sentinels and random tokens in the text's place
        largest = max(largest, *used.get_vocab().values())
    if largest >= vocabulary:
        raise InputError(
            f"the tokenizer does not fit {loaded.located.name}: it gives token {largest}, the model knows "
            f"{vocabulary}; give the model's own with --tokenizer"
        )
    described = hashlib.sha256(repr(([part.hash for part in parts], text.split)).encode()).hexdigest()
    return tokens, described, used


def _split(data: TokenData, split: str) -> np.ndarray:
    if split == "all":
        return np.concatenate([data.train, data.validation])
    return np.asarray(data.validation)


def sequence_length(loaded: Loaded, asked: int | None, tokens: int) -> int:
    """Tokens a sequence: as asked, or else as trained for a run of ours and the model's longest for others.

    Args:
        loaded: the model.
        asked: None leaves the choice here.
        tokens: in the text.

    Raises:
        InputError: more than the model reads, or than the text has.
    """
    longest = _context_length(loaded.model)
    if asked is not None:
        if longest is not None and asked > longest:
            raise InputError(f"seq_len={asked} is more than {loaded.located.name} reads; use at most {longest}")
        return asked
    found = _trained_length(loaded.located.folder) or min(longest or 512, _LONGEST)
    if tokens <= found:
        raise InputError(
            f"the text has {tokens} tokens, less than one sequence of {found} and the token after it; give more text, "
            f"or --seq-len {max(1, tokens // 20)}"
        )
    return found


def _trained_length(folder: Path) -> int | None:
    """Tokens a sequence in the run of ours that the checkpoint is of; positions beyond may never have been trained."""
    spec = folder.parent.parent / "spec.json"
    try:
        return int(json.loads(spec.read_text())["spec"]["seq_len"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _context_length(model: torch.nn.Module) -> int | None:
    """Positions a model knows; None where any number will do."""
    for name, module in model.named_modules():
        # RoBERTa counts positions from the one after its padding's.
        if "position_embeddings" in name and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def few_tokens(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first tokens of a batch's first sequence, all of them targets: enough to see what a model does."""
    few = {key: value[:1, :8] for key, value in batch.items()}
    targets = "targets" if "targets" in few else "labels"
    few[targets] = few[targets].where(few[targets] >= 0, 0)  # some target, whatever was masked
    return few


class OnDevice(Sequence):
    """Batches, each moved to a device when it is asked for."""

    def __init__(self, inputs: ModelInputs, device: torch.device):
        self._inputs, self._device = inputs, device

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value.to(self._device) for name, value in self._inputs[index].items()}
