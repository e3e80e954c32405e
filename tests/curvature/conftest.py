import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from est_analysis.rng import stream


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
