import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from est_analysis.models.bert.config import BertConfig, MegatronBertConfig
from est_analysis.models.families import build_model
from est_analysis.models.gpt2.config import GPT2Config
from est_analysis.models.hf import load_folder
from est_analysis.models.llama.config import LlamaConfig
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
    return GPT2Config(num_layers=4, hidden=12, num_heads=3, mlp_columns=10, vocab_size=17, context_length=9)


_LLAMA = {"num_layers": 4, "hidden": 24, "num_heads": 6, "mlp_columns": 10, "vocab_size": 17, "context_length": 9}
_BERT = {"num_layers": 4, "hidden": 12, "num_heads": 3, "mlp_columns": 10, "vocab_size": 17, "context_length": 9}


@pytest.fixture(scope="session")
def configs(config):
    """GPT-2, Llamas with 2, 1 and all 6 query heads a group, and BERTs with their norms behind and before."""
    return {
        "gpt2": config,
        "llama": LlamaConfig(**_LLAMA, num_kv_heads=3, rope_theta=50.0, norm_epsilon=1e-3),
        "llama, own keys": LlamaConfig(**_LLAMA, num_kv_heads=6, rope_theta=50.0, norm_epsilon=1e-3),
        "llama, one key, tied": LlamaConfig(**_LLAMA, num_kv_heads=1, norm_epsilon=1e-3, tied_head=True),
        "bert": BertConfig(**_BERT, norm_epsilon=1e-3),
        "megatron-bert": MegatronBertConfig(**_BERT, norm_epsilon=1e-3, token_types=3, activation="gelu_new"),
    }


@pytest.fixture(scope="session")
def make(configs):
    """A random model by name."""
    return lambda name: _randomise(build_model(configs[name]))


@pytest.fixture
def model(make):
    return make("gpt2")


@pytest.fixture(scope="session")
def tokens(config):
    return torch.randint(config.vocab_size, (2, 7), generator=stream(0, "tokens"))


@pytest.fixture
def nan_filled():
    """Memory that nobody has written to is NaN: what happens to be zero elsewhere is not here."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def _edit_config(folder, **changes):
    """Change fields of a folder's config.json; "REMOVED" takes one out."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value != "REMOVED"}))


def _load(folder):
    return load_folder(folder, dtype=torch.float64)


def _equal_states(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _copy(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def _lifted(model):
    """Their model with RMS norms in its own precision: theirs round to float32, whatever the model's is."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in ("LlamaRMSNorm", "T5LayerNorm"):
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=child.weight.dtype)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model


@pytest.fixture(scope="session")
def hf():
    """What the tests of every family do with models and folders of transformers."""
    return SimpleNamespace(edit_config=_edit_config, load=_load, equal_states=_equal_states, copy=_copy, lifted=_lifted)
