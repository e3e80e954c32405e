"""Tiny models, saved ones, and damage to those."""

import json
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate
from est_analysis.errors import InputError
from est_analysis.rng import stream

FAMILIES = SimpleNamespace(**run_path(str(Path(__file__).parent / "families.py")))


def pytest_generate_tests(metafunc):
    """A test that takes `any_family` runs once for each."""
    if "any_family" in metafunc.fixturenames:
        metafunc.parametrize("any_family", FAMILIES.FAMILIES)


@pytest.fixture(scope="session")
def families():
    """Tiny models of `transformers`: `make(name)`, `batch(kind)`."""
    return FAMILIES


@pytest.fixture(scope="session")
def make_gpt2():
    """A tiny random GPT-2 of transformers (about 200 parameters, tied embedding); the global generator is put back."""

    def make(dtype=torch.float64):
        sizes = {"vocab_size": 7, "n_positions": 6, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_inner": 5}
        with torch.random.fork_rng():
            model = GPT2LMHeadModel(
                GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation="eager")
            ).to(dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if ".ln_" in name and "weight" in name else 0.0, 0.4, generator=stream(0, name))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_batches():
    def make(count, seed=0):
        draws = [torch.randint(7, (2, 7), generator=stream(seed, "batch", i)) for i in range(count)]
        return [(tokens[:, :-1], tokens[:, 1:]) for tokens in draws]

    return make


def _make(kind):
    import transformers as t

    common = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            return t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, **common))
        if kind == "bert":
            return t.BertForPreTraining(t.BertConfig(max_position_embeddings=16, **bert, **common))
        if kind == "bart":
            layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20}
            heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 1}
            return t.BartForConditionalGeneration(
                t.BartConfig(d_model=16, max_position_embeddings=16, forced_eos_token_id=1, **layers, **heads, **common)
            )
        if kind == "t5":
            return t.T5ForConditionalGeneration(
                t.T5Config(d_model=16, d_ff=20, d_kv=8, num_layers=2, num_heads=2, **common)
            )
        return t.LlamaForCausalLM(t.LlamaConfig(max_position_embeddings=16, **bert, **common))


@pytest.fixture(scope="session")
def language_models():
    return {kind: _make(kind).eval() for kind in ("gpt2", "bert", "bart", "t5", "llama")}


@pytest.fixture
def save(language_models, tmp_path):
    """Saves a model and returns its folder."""

    def save(kind="gpt2", name="model", **options):
        language_models[kind].save_pretrained(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture(scope="session")
def pickled():
    def pickled(folder, content=None):
        weights = load_file(folder / "model.safetensors") if content is None else content
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
        return folder

    return pickled


@pytest.fixture(scope="session")
def changed():
    def changed(folder, change):
        """The folder after `change` of the dictionary of its weights."""
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")
        return folder

    return changed


@pytest.fixture(scope="session")
def configured():
    def configured(folder, **changes):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return configured


@pytest.fixture(scope="session")
def refused():
    def refused(folder, pattern, **options):
        with pytest.raises(InputError, match=pattern) as caught:
            load(locate(folder), **options)
        assert "\n" not in str(caught.value)

    return refused
