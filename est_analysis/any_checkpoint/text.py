"""The text that a checkpoint is measured on: its tokens, their length a sequence, and batches on the model's device."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from est_analysis.curvature.checkpoint import Loaded
from est_analysis.data.corpus import open_corpus
from est_analysis.data.inputs import ModelInputs, has_sentinels
from est_analysis.data.objective import Objective
from est_analysis.data.objectives import OBJECTIVES
from est_analysis.data.tokens import TokenData, load_tokens
from est_analysis.errors import InputError

_LONGEST = 1024  # tokens a sequence, unless the model takes fewer
_KINDS = {"masked": "masked", "span_corruption": "seq2seq", "ul2": "seq2seq"}  # objectives whose labels are hidden text


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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text as a checkpoint reads it.

    Attributes:
        tokens: ids of all of it.
        hash: of all that decides them.
        tokenizer: that made them.
        kind: of model.
        begin: ids that every sequence begins with.
        objective: what a denoising run of ours was trained on; None for others.
    """

    tokens: np.ndarray
    hash: str
    tokenizer: Any
    kind: str
    begin: tuple[int, ...] = ()
    objective: Objective | None = None

    def inputs(self, *, seq_len: int, batch_size: int, seed: int) -> ModelInputs:
        """Batches of it."""
        return ModelInputs(
            self.tokens, self.kind, self.tokenizer, seq_len=seq_len, batch_size=batch_size, seed=seed,
            begin=self.begin, objective=self.objective,
        )  # fmt: skip

    @property
    def identity(self) -> dict[str, Any]:
        """What it adds to all that decides a measurement."""
        found: dict[str, Any] = {"text": self.hash}
        if self.begin:
            found["begin"] = list(self.begin)
        if self.objective is not None:
            found["objective"] = self.objective.name
        elif self.kind == "seq2seq" and not has_sentinels(self.tokenizer):
            found["inputs"] = 2  # 1 had no frame around what BART reads
        return found


def read_text(loaded: Loaded, text: TextSource) -> Reading:
    """A text as the checkpoint was trained to read it.

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
    used = parts[0].tokenizer if text.tokenizer else loaded.tokenizer
    _require_known(loaded, tokens, used)
    trained = trained_spec(loaded).get("objective", "") if not text.tokenizer else ""
    return Reading(
        tokens=tokens,
        hash=hashlib.sha256(repr(([part.hash for part in parts], text.split)).encode()).hexdigest(),
        tokenizer=used,
        kind=loaded.loss,
        begin=frame_of(loaded, used)[0] if loaded.loss == "causal" else (),
        objective=OBJECTIVES[trained].of(parts[0]) if _KINDS.get(trained) == loaded.loss else None,
    )


def _require_known(loaded: Loaded, tokens: np.ndarray, tokenizer: Any) -> None:
    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    largest = int(tokens.max(initial=0))
    if loaded.loss != "causal":  # denoising puts masks, sentinels and random tokens in the text's place
        largest = max(largest, *tokenizer.get_vocab().values())
    if largest >= vocabulary:
        raise InputError(
            f"the tokenizer does not fit {loaded.located.name}: it gives token {largest}, the model knows "
            f"{vocabulary}; give the model's own with --tokenizer"
        )


def frame_of(loaded: Loaded, tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text, as models are trained to see it.

    Nothing for a run of ours: it was trained on windows cut from a stream. Some models are lost without it (Gemma's).
    """
    if trained_spec(loaded):
        return (), ()
    whole, plain = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    at = next((i for i in range(len(whole)) if plain and whole[i : i + len(plain)] == plain), None)
    return ((), ()) if at is None else (tuple(whole[:at]), tuple(whole[at + len(plain) :]))


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
    longest = context_length(loaded.model)
    if asked is not None:
        if longest is not None and asked > longest:
            raise InputError(f"seq_len={asked} is more than {loaded.located.name} reads; use at most {longest}")
        return asked
    found = trained_spec(loaded).get("seq_len") or min(longest or 512, _LONGEST)
    if tokens <= found:
        raise InputError(
            f"the text has {tokens} tokens, less than one sequence of {found} and the token after it; give more text, "
            f"or --seq-len {max(1, tokens // 20)}"
        )
    return found


def trained_spec(loaded: Loaded) -> dict[str, Any]:
    """The spec of the run of ours that the checkpoint is of, empty for others.

    Its `seq_len` counts: positions beyond may never have been trained.
    """
    path = loaded.located.folder.parent.parent / "spec.json"
    try:
        spec = json.loads(path.read_text())["spec"]
        return {**spec, "seq_len": int(spec["seq_len"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def context_length(model: torch.nn.Module) -> int | None:
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
