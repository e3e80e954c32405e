"""What the parts of `trace_vs_peers.py` share: the trained model, its text, single steps, and the rows of figures."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from trace_peers import (
    hf_batch,
)
from transformers import GPT2LMHeadModel

from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.curvature.probes import Probes
from est_analysis.curvature.taylor.engine import TaylorEngine
from est_analysis.data.batches import Batches
from est_analysis.experiments.runs.run import prepare_data, run
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.train.settings import Execution, Settings

# shape: how it is trained
SPECS = {
    "tiny": TrainSpec(
        method="full", preset="tiny", batch_size=32, seq_len=128, settings=Settings(steps=1100, lr=8e-3, warmup=55)
    ),
    "mini": TrainSpec(
        method="full", preset="mini", batch_size=16, seq_len=256, settings=Settings(steps=300, lr=2e-3, warmup=15)
    ),
}
MICRO_TOKENS = 256  # of our micro-batches: the least that makes a product fast
TARGET = 0.02
LARGE, SMALL = 1024, 64
LEAST = 4  # samples before a peer's standard error is believed
OURS = "ours"
BASELINE = "gradient (Hugging Face, sdpa)"


class Contest:
    """A trained model and text that it was not trained on."""

    def __init__(self, shape: str, root: Path) -> None:
        self.shape, spec = shape, SPECS[shape]
        self.checkpoint = run(spec, Execution(threads=1), root=root).checkpoint
        self.seq_len = spec.seq_len
        self.micro = max(1, MICRO_TOKENS // spec.seq_len)
        text = Batches(prepare_data(spec).validation, seq_len=spec.seq_len, batch_size=LARGE, seed=1)
        self.tokens, self.labels = text.batch(0)
        self.model, self.eager = self.load("sdpa"), self.load("eager")

    def load(self, attention: str) -> GPT2LMHeadModel:
        return GPT2LMHeadModel.from_pretrained(self.checkpoint, attn_implementation=attention).eval()

    def batches(self, sequences: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The first `sequences` of the text; a smaller number is part of a larger one."""
        parts = (part[:sequences].split(size) for part in (self.tokens, self.labels))
        return list(zip(*parts, strict=True))


def our_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"input_ids": batch[0], "targets": batch[1]}


def our_step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], probes: int, groups: int) -> Callable:
    objective, engine, numbers = LanguageModelObjective(model, "causal"), TaylorEngine(groups), itertools.count()

    def step() -> None:
        first = next(numbers) * probes
        engine.measure(objective, our_batch(batch), Probes(0, range(first, first + probes)))

    return step


def gradient_step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        model(**hf_batch(batch)).loss.backward()
        model.zero_grad()

    return step


class Records:
    """Every figure of a run, as tidy rows."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(self, contestant: str, shape: str, sequences: int, metric: str, value: float, extrapolated=False) -> None:
        row = {"contestant": contestant, "shape": shape, "sequences": sequences, "metric": metric}
        self.rows.append({**row, "value": value, "extrapolated": extrapolated})

    def write(self, path: Path) -> None:
        pd.DataFrame(self.rows).to_csv(path, index=False, float_format="%.6g")
