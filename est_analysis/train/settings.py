"""How a run is trained (`Settings`, part of its identity) and how it is carried out (`Execution`, not part of it)."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from est_analysis.added import ADDED_LATER
from est_analysis.errors import InputError, unknown_name

Decay = Literal["linear", "cosine", "constant"]
Precision = Literal["float32", "bfloat16"]
SkippedGradient = Literal["zero", "none"]
Tracker = Literal["none", "tensorboard", "trackio", "wandb"]


def check_choice(kind: str, value: str, choices) -> None:
    """Refuse a `value` that is none of the strings of the Literal type `choices`."""
    if value not in get_args(choices):
        raise unknown_name(kind, value, get_args(choices))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Optimisation and measurement of one run. Every field changes the numbers, so every field is in its run_id.

    Attributes:
        steps: optimizer steps.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        rewarm: steps in which the rate climbs back to its schedule after every stage transition, from nothing; 0 does
            without. EST and RaPTr have none; stacking is published with it.
        decay: what follows: linear to 0 (EST, GPT-2), cosine to a tenth (EST, TinyLlama) or constant.
        betas, weight_decay: AdamW; decay applies to matrices and embeddings, not to biases and norms. The papers state
            neither; these are nanoGPT's.
        embedding_decay: weight decay of the embeddings in place of `weight_decay`; None for the same.
        clip: largest global gradient norm; 0 switches clipping off.
        accumulation: micro-batches a step; all of them see the same mask.
        precision: `bfloat16` runs forward and backward under autocast, weights and optimizer stay float32.
        skipped_gradient: what a bypassed layer's optimizer sees. `zero`: a zero gradient, so moments decay and stale
            momentum and weight decay still move it. `none`: no gradient, so the layer is left as it is. These are
            different algorithms and neither paper says which it used.
        log_every, eval_every, save_every: steps between rows, full-model validations and checkpoints. All three also
            happen at every stage transition and at the end.
        keep_every: steps between checkpoints whose weights are kept for good, besides those at the start, at every
            transition and at the end; 0 keeps no others.
    """

    steps: int
    lr: float = 6e-4
    warmup: int = 0
    rewarm: int = 0
    decay: Decay = "linear"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulation: int = 1
    precision: Precision = "float32"
    skipped_gradient: SkippedGradient = "zero"
    log_every: int = 10
    eval_every: int = 100
    save_every: int = 200
    embedding_decay: float | None = field(default=None, metadata=ADDED_LATER)
    keep_every: int = field(default=0, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr={self.lr:g} must be above 0 and finite")
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"warmup={self.warmup} must be at least 0 and shorter than the {self.steps} steps")
        for name in ("rewarm", "weight_decay", "embedding_decay", "clip", "keep_every"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name):g} must be at least 0 and finite")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas={self.betas} must each be at least 0 and below 1")
        check_choice("decay", self.decay, Decay)
        check_choice("precision", self.precision, Precision)
        check_choice("skipped gradient", self.skipped_gradient, SkippedGradient)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a run is carried out; the same spec gives the same results up to the device's rounding.

    Attributes:
        device: a torch device.
        threads: CPU threads of torch; 0 leaves torch's own choice.
        compile: `torch.compile` every block (needs a C++ compiler on CPU).
        masks_ahead: masks drawn at a time by a background thread; 0 draws them inline.
        tracker: experiment tracker that receives every row, besides the run's own CSV.
        progress: show a progress bar on a terminal, plain lines elsewhere.
    """

    device: str = "cpu"
    threads: int = 0
    compile: bool = False
    masks_ahead: int = 8
    tracker: Tracker = "none"
    progress: bool = True

    def __post_init__(self) -> None:
        check_choice("logger", self.tracker, Tracker)
        if self.threads < 0 or self.masks_ahead < 0:
            raise InputError(f"threads={self.threads} and masks_ahead={self.masks_ahead} must be at least 0")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise InputError(f"unknown device '{self.device}'; use cpu, cuda or cuda:NUMBER") from error
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"device '{self.device}' is not supported; use cpu, cuda or cuda:NUMBER")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device '{self.device}': torch sees no CUDA device here; use cpu")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise InputError(f"device '{self.device}': torch sees none of that number here; use cuda:0 to cuda:{last}")
