"""The stability of a checkpoint on a text: what `est stability` does, for programs and notebooks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from est_analysis.any_checkpoint.text import OnDevice, TextSource, few_tokens, read_text, sequence_length
from est_analysis.curvature.checkpoint import Loaded
from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.errors import InputError
from est_analysis.stability.layers import ResidualLayer, residual_layers
from est_analysis.stability.measure import BatchStability, Stability, measure_stability

_TOKENS = 1024  # a micro-batch: enough for fast products, few enough for many batches


@dataclass(frozen=True, kw_only=True)
class StabilitySettings:
    """What is measured.

    Attributes:
        text: the text.
        seq_len: tokens a sequence; None: as in training for a run of ours, else the model's longest, at most 1,024.
        micro_batch: sequences a batch; None: some 1,024 tokens.
        max_batches: batches to measure; fewer if the text has no more.
        tolerance: change of the loss that is small, nats.
        seed: of windows, and of what is masked.
    """

    text: TextSource = field(default_factory=TextSource)
    seq_len: int | None = None
    micro_batch: int | None = None
    max_batches: int = 16
    tolerance: float = 0.05
    seed: int = 0

    def __post_init__(self):
        for name in ("seq_len", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} is not positive; use at least 1, or leave it out")
        if self.max_batches < 2:
            raise InputError(f"max_batches={self.max_batches} gives no standard error; use at least 2")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise InputError(f"tolerance={self.tolerance} is no change of the loss; use a positive number of nats")


@dataclass(frozen=True, kw_only=True)
class PreparedStability:
    """A checkpoint ready to be measured.

    Attributes:
        loaded: the checkpoint.
        objective: its loss.
        layers: its residual layers.
        batches: that will be measured.
        identity: all that decides the numbers.
    """

    loaded: Loaded
    objective: LanguageModelObjective
    layers: tuple[ResidualLayer, ...]
    batches: Sequence[dict[str, torch.Tensor]]
    identity: dict[str, Any]


def prepare_stability(loaded: Loaded, settings: StabilitySettings) -> PreparedStability:
    """Read the text with the checkpoint's tokenizer, find the layers.

    Raises:
        InputError: text, tokenizer or sizes do not fit the model, or it has no layers that could be bypassed.
    """
    objective = LanguageModelObjective(loaded.model, loaded.loss)
    some = next(iter(objective.parameters.values()))
    text = read_text(loaded, settings.text)
    seq_len = sequence_length(loaded, settings.seq_len, len(text.tokens))
    # Eight batches at least where the text has as many sequences.
    micro_batch = settings.micro_batch or max(1, min(_TOKENS, len(text.tokens) // 8) // seq_len)
    inputs = text.inputs(seq_len=seq_len, batch_size=micro_batch, seed=settings.seed)
    batches = _First(OnDevice(inputs, some.device), settings.max_batches)
    identity = {
        "weights": loaded.weight_hash,
        "config": loaded.config_hash,
        "commit": loaded.located.commit,
        **text.identity,
        "loss": loaded.loss,
        "seq_len": seq_len,
        "micro_batch": micro_batch,
        "dtype": str(some.dtype).removeprefix("torch."),
        "seed": settings.seed,
    }
    return PreparedStability(
        loaded=loaded, objective=objective, layers=_layers(objective, batches[0]), batches=batches, identity=identity
    )


def stability_of(
    prepared: PreparedStability, *, on_batch: Callable[[int, BatchStability], None] = lambda number, found: None
) -> Stability:
    """Measure what was prepared.

    Args:
        prepared: from `prepare_stability`.
        on_batch: told after each batch, with how many there were.

    Raises:
        InputError: too little text, or a result that is not finite.
    """
    return measure_stability(prepared.objective, prepared.layers, prepared.batches, on_batch=on_batch)


def _layers(objective: LanguageModelObjective, batch: dict[str, torch.Tensor]) -> tuple[ResidualLayer, ...]:
    few = few_tokens(batch)
    return residual_layers(objective.model, lambda: objective.token_states(objective.parameters, few))


class _First(Sequence):
    def __init__(self, batches: Sequence, most: int):
        self._batches, self._most = batches, most

    def __len__(self) -> int:
        return min(self._most, len(self._batches))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._batches[index]
