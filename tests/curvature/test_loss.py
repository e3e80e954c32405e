"""Loading a checkpoint for its curvature: whole, as it was saved, or not at all."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from est_analysis.curvature.loss import load_causal_model, token_loss
from est_analysis.curvature.trace import hutchinson
from est_analysis.errors import InputError


@pytest.fixture(scope="module")
def good(make_gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    make_gpt2(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy to damage."""
    return shutil.copytree(good, tmp_path / "copy")


def test_loads_what_was_saved_in_evaluation_mode_with_plain_attention(good, make_gpt2, make_batches):
    rng = torch.get_rng_state()
    model, original = load_causal_model(good), make_gpt2(torch.float32)
    assert torch.equal(torch.get_rng_state(), rng)
    assert not model.training
    assert model.config._attn_implementation == "eager"
    states = original.state_dict(), model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert hutchinson(model, make_batches(2), seed=0) is not None


def test_half_precision_checkpoints_become_float32(make_gpt2, tmp_path):
    make_gpt2(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_causal_model(str(tmp_path)).parameters()} == {torch.float32}


def test_token_loss_is_the_mean_over_tokens_at_the_given_parameters(make_gpt2, make_batches):
    model, (tokens, labels) = make_gpt2(), make_batches(1)[0]
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    expected = F.cross_entropy(model(tokens).logits.flatten(0, 1), labels.flatten())
    loss = token_loss(model, tokens, labels)
    torch.testing.assert_close(loss(parameters), expected.detach(), atol=1e-13, rtol=0)
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    # All logits equal, the tied head included: ln 7.
    assert loss(zeros).item() == pytest.approx(torch.tensor(7.0).double().log().item(), rel=1e-14)


def _edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _truncate(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


DAMAGE = {
    "no folder": shutil.rmtree,
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "unknown family": lambda folder: _edit_config(folder, model_type="gtp2"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "empty weights": lambda folder: _truncate(folder / "model.safetensors", 0),
    "half the weights": lambda folder: _truncate(folder / "model.safetensors", 0.5),
    "almost all the weights": lambda folder: _truncate(folder / "model.safetensors", 0.999),
    "config of a deeper model": lambda folder: _edit_config(folder, n_layer=2),
    "config of a wider model": lambda folder: _edit_config(folder, n_embd=8),
    "config of a larger vocabulary": lambda folder: _edit_config(folder, vocab_size=8),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_folder_that_is_not_whole_is_refused_in_one_line_that_names_it(folder, damage):
    damage(folder)
    with pytest.raises(InputError) as caught:
        load_causal_model(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
