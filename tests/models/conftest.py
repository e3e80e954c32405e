import pytest
import torch

from est_analysis.models.config import ModelConfig
from est_analysis.models.gpt2 import GPT2
from est_analysis.rng import stream


def _randomise(module, seed=0):
    """Every parameter random and of order one, biases and norms too, in float64: nothing is zero by construction."""
    module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.4, generator=stream(seed, "fill", name))
    return module


@pytest.fixture(scope="session")
def randomise():
    return _randomise


@pytest.fixture(scope="session")
def config():
    """Odd sizes: no two axes of the same length, and an MLP that is not four times as wide."""
    return ModelConfig(num_layers=4, hidden=12, num_heads=3, mlp_columns=10, vocab_size=17, context_length=9)


@pytest.fixture
def model(config):
    return _randomise(GPT2(config))


@pytest.fixture(scope="session")
def tokens(config):
    return torch.randint(config.vocab_size, (2, 7), generator=stream(0, "tokens"))
