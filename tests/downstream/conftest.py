import huggingface_hub.constants
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from est_analysis.data.tokenizer import build_tokenizer
from est_analysis.downstream.subject import Subject


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def subject():
    """A small GPT-2 at random, with bytes for tokens, dropout as GPT-2's is."""
    config = GPT2Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data *= 5 if "wte" in name or "wpe" in name else 3  # what precedes a token matters
    return Subject(model=model, tokenizer=build_tokenizer("bytes", None), window=48)
