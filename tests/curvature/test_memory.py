"""Memory: what was predicted is kept, sizes shrink to what is free, and what the user fixed stays."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import BertForMaskedLM

from est_analysis.curvature import memory
from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.curvature.memory import available_bytes, peak_rss_bytes, plan
from est_analysis.errors import InputError

MEASURE = """
import json, sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.curvature.memory import peak_rss_bytes, plan
from est_analysis.curvature.probes import Probes
from est_analysis.any_checkpoint.trace import ENGINES

torch.set_num_threads(1)
torch.manual_seed(0)
config = GPT2Config(vocab_size=5000, n_embd=256, n_layer=4, n_head=4, n_positions=256)
objective = LanguageModelObjective(GPT2LMHeadModel(config).eval(), "causal")
sizes = plan(objective, engine=sys.argv[1], seq_len=256, micro_batch=None, probes=None)
tokens = torch.randint(5000, (sizes.micro_batch, 256))
ENGINES[sys.argv[1]]().measure(objective, {"input_ids": tokens, "targets": tokens}, Probes(0, range(sizes.probes)))
print(json.dumps([sizes.peak_bytes, peak_rss_bytes()]))
"""


@pytest.fixture(scope="module")
def objective(language_models):
    return LanguageModelObjective(language_models["gpt2"], "causal")


@pytest.fixture
def free(monkeypatch):
    """Sets how much memory there is."""
    return lambda count: monkeypatch.setattr(memory, "available_bytes", lambda device: count)


@pytest.mark.parametrize("engine", ["taylor", "hvp"])
def test_the_predicted_peak_is_kept_and_no_idle_threat(engine):
    """In a process of its own: the peak of this one was reached long ago."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, engine],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    predicted, peak = json.loads(run.stdout)
    assert peak <= predicted <= 3 * peak


def test_with_room_a_micro_batch_is_of_256_tokens(objective, free):
    free(1 << 40)
    for seq_len, micro_batch in ((8, 32), (16, 16), (100, 2), (1000, 1)):
        found = plan(objective, engine="taylor", seq_len=seq_len, micro_batch=None, probes=None)
        assert (found.micro_batch, found.probes) == (micro_batch, 2)


@pytest.mark.parametrize("engine", ["taylor", "hvp", "fisher"])
def test_sizes_shrink_to_what_is_free(objective, free, engine):
    def extra(batch, probes):
        widths = memory._Widths.of(objective)
        return memory._extra_bytes(objective, widths, engine=engine, tokens=16 * batch, probes=probes)

    sizes = {"engine": engine, "seq_len": 16, "micro_batch": None, "probes": None}
    order = [(16, 2), (16, 1), (1, 2), (1, 1)]
    needs = [extra(*size) for size in order]
    assert needs[0] > needs[-1]
    for need in needs:
        free(int(need / 0.9) + 16)
        found = plan(objective, **sizes)
        assert (found.micro_batch, found.probes) == next(s for s, n in zip(order, needs, strict=True) if n <= need)
        assert found.peak_bytes >= need
    free(int(min(needs) / 0.9) - 16)
    with pytest.raises(InputError, match="use a smaller --seq-len, --micro-batch or --probes") as caught:
        plan(objective, **sizes)
    assert "\n" not in str(caught.value)


def test_what_the_user_fixed_is_kept(objective, free):
    free(1 << 40)
    found = plan(objective, engine="hvp", seq_len=16, micro_batch=7, probes=5)
    assert (found.micro_batch, found.probes) == (7, 5)
    free(400 << 20)
    found = plan(objective, engine="taylor", seq_len=16, micro_batch=None, probes=1)
    assert found.probes == 1
    free(1)
    with pytest.raises(InputError, match=r"measuring 7 x 16 tokens along 5 probes takes .* GiB .* 0\.0 GiB are free"):
        plan(objective, engine="hvp", seq_len=16, micro_batch=7, probes=5)


@pytest.mark.parametrize("kind", ["bert", "bart", "llama"])
def test_every_kind_of_model_can_be_planned(language_models, kind):
    loss = {"bert": "masked", "llama": "causal"}.get(kind, "seq2seq")
    model = language_models[kind] if kind != "bert" else BertForMaskedLM(language_models[kind].config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = plan(LanguageModelObjective(model, loss), engine="taylor", seq_len=16, micro_batch=None, probes=None)
    assert found.micro_batch == 16
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_memory_of_this_machine():
    assert 0 < available_bytes(torch.device("cpu")) < 1 << 50
    before = peak_rss_bytes()
    assert 10 << 20 < before < 1 << 45
    torch.ones(before // 4 + (64 << 20)).sum()
    assert peak_rss_bytes() >= before + (64 << 20)
