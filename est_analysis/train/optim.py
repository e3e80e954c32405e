"""AdamW as the papers use it, and the learning-rate schedule over the whole run.

The learning rate is one schedule over all steps: neither EST nor RaPTr changes parameter shapes, so nothing is reset or
warmed up again at a transition unless it is asked for (`Settings.rewarm`).
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn

from est_analysis.errors import InputError
from est_analysis.train.settings import Settings

_COSINE_FLOOR = 0.1


def learning_rate(step: int, settings: Settings, transitions: Iterable[int] = ()) -> float:
    """Learning rate of step number `step` (from 1); `transitions` are the steps after which a stage begins.

    >>> settings = Settings(steps=10, lr=1.0, warmup=2)
    >>> [round(learning_rate(s, settings), 3) for s in (1, 2, 3, 10)]
    [0.5, 1.0, 1.0, 0.125]
    """
    since = step - max((end for end in transitions if end < step), default=-settings.rewarm)
    climbed = min(1.0, since / settings.rewarm) if settings.rewarm else 1.0
    return climbed * _scheduled(step, settings)


def require_room_to_rewarm(settings: Settings, transitions: Iterable[int]) -> None:
    """Refuse a warm-up after every transition that is longer than a stage that begins with one.

    Raises:
        InputError: the rate would never climb back.
    """
    stages = [(end - start, start) for start, end in pairwise([*transitions, settings.steps])]
    if stages and settings.rewarm > min(stages)[0]:
        length, start = min(stages)
        raise InputError(
            f"rewarm={settings.rewarm} is longer than the stage of {length} steps that begins after step {start}; use "
            f"at most {length}"
        )


def _scheduled(step: int, settings: Settings) -> float:
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    progress = (step - 1 - settings.warmup) / (settings.steps - settings.warmup)
    if settings.decay == "linear":
        return settings.lr * (1 - progress)
    if settings.decay == "cosine":
        return settings.lr * (_COSINE_FLOOR + (1 - _COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))
    return settings.lr


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices and embeddings only."""
    kinds: dict[str, list[nn.Parameter]] = {"matrices": [], "plain": [], "embeddings": []}
    apart = settings.embedding_decay is not None
    for name, parameter in model.named_parameters():
        kind = "plain" if name.endswith("bias") or "norm" in name else "matrices"
        kinds["embeddings" if apart and name.endswith("embedding") else kind].append(parameter)
    decays = {"matrices": settings.weight_decay, "plain": 0.0, "embeddings": settings.embedding_decay}
    groups = [{"params": held, "weight_decay": decays[kind]} for kind, held in kinds.items() if held]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
