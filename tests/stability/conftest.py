"""Tiny language models: those of the curvature tests, three layers deep, and linear ones that a hand can compute."""

from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.rng import stream

FAMILIES = SimpleNamespace(**run_path(str(Path(__file__).parents[1] / "curvature" / "families.py")))
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
# Where each keeps its layers, and the field of its config that counts them, by the name that they are given.
STACKS = {
    "GPT2": {"h": ("transformer.h", "n_layer")},
    "Llama": {"layers": ("model.layers", "num_hidden_layers")},
    "GPTNeoX": {"layers": ("gpt_neox.layers", "num_hidden_layers")},
    "Mistral": {"layers": ("model.layers", "num_hidden_layers")},
    "Qwen2": {"layers": ("model.layers", "num_hidden_layers")},
    "Mixtral": {"layers": ("model.layers", "num_hidden_layers")},
    "OPT": {"layers": ("model.decoder.layers", "num_hidden_layers")},
    "Mamba": {"layers": ("backbone.layers", "num_hidden_layers")},
    "Bloom": {"h": ("transformer.h", "n_layer")},
    "Bert": {"layer": ("bert.encoder.layer", "num_hidden_layers")},
    "Roberta": {"layer": ("roberta.encoder.layer", "num_hidden_layers")},
    "DistilBert": {"layer": ("distilbert.transformer.layer", "n_layers")},
    "T5": {"encoder": ("encoder.block", "num_layers"), "decoder": ("decoder.block", "num_decoder_layers")},
    "Bart": {
        "encoder": ("model.encoder.layers", "encoder_layers"),
        "decoder": ("model.decoder.layers", "decoder_layers"),
    },
}


def pytest_generate_tests(metafunc):
    """A test that takes `family` runs once for each."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", STACKS)


class Block(nn.Module):
    """after(x + W x)."""

    def __init__(self, matrix, after):
        super().__init__()
        self.inner, self.after = nn.Linear(*matrix.shape, bias=False).double(), after
        with torch.no_grad():
            self.inner.weight.copy_(matrix)

    def forward(self, number, hidden):
        return self.after(hidden + self.inner(hidden))


class LinearNet(nn.Module):
    """Table, blocks, output matrix."""

    def __init__(self, matrices, after):
        super().__init__()
        self.config, width = SimpleNamespace(), len(matrices[0])
        self.table, self.head = nn.Embedding(5, width).double(), nn.Linear(width, 5, bias=False).double()
        for name, table in (("table", self.table), ("head", self.head)):
            with torch.no_grad():
                table.weight.copy_(torch.randn(5, width, generator=stream(0, name)))
        self.blocks = nn.ModuleList(map(Block, matrices, after))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids):
        hidden = self.table(input_ids)
        for number, block in enumerate(self.blocks):
            hidden = block(torch.tensor([number]), hidden=hidden)  # by keyword, after something else
            if not isinstance(hidden, torch.Tensor):
                hidden = hidden["new"] if isinstance(hidden, dict) else hidden[-1]
        return SimpleNamespace(logits=self.head(hidden))


@pytest.fixture(scope="session")
def linear_net():
    """`linear_net(matrices, after)`: the objective of a net of blocks after[i](x + matrices[i] x)."""

    def make(matrices, after=None):
        return LanguageModelObjective(LinearNet(matrices, after or [lambda hidden: hidden] * len(matrices)), "causal")

    return make


@pytest.fixture(scope="session")
def stacks():
    """Of each family, the path of its layers and its config's field, by the name that they are given."""
    return STACKS


@pytest.fixture(scope="session")
def deep():
    """`deep("GPT2")`: (kind, model, batch), the model of three layers (in encoder and decoder each)."""

    def make(name, layers=3):
        known = FAMILIES.FAMILIES[name][3]
        kind, model = FAMILIES.make(name, **{field: layers for field in DEPTH if field in known})
        return kind, model, FAMILIES.batch(kind)

    return make
