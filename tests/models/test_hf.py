"""Weights to and from Hugging Face: equal logits both ways, and nothing damaged or foreign is ever accepted."""

import contextlib
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from est_analysis.errors import InputError
from est_analysis.models.conversion import SpecialIds
from est_analysis.models.gpt2.model import GPT2
from est_analysis.models.hf import WEIGHTS, from_hf, from_hf_config, hf_config, load_folder, save_folder
from est_analysis.rng import stream

# Two implementations of 4 float64 layers differ by the order of their sums: about 1e-14.
CLOSE = {"atol": 1e-10, "rtol": 0}
SIZES = {"vocab_size": 17, "n_positions": 9, "n_embd": 12, "n_layer": 4, "n_head": 3, "n_inner": 10}


def _theirs(**changes):
    """A random GPT-2 of transformers in float64, biases and norms random too; the global generator is put back."""
    with torch.random.fork_rng():
        model = GPT2LMHeadModel(GPT2Config(**SIZES | {"bos_token_id": 0, "eos_token_id": 0} | changes)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if ".ln_" in name and "weight" in name else 0.0, 0.4, generator=stream(0, name))
    return model


@pytest.fixture(scope="module")
def theirs():
    return _theirs()


@pytest.fixture(scope="module")
def good(theirs, tmp_path_factory):
    """A folder saved by transformers."""
    folder = tmp_path_factory.mktemp("good")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy to damage."""
    return shutil.copytree(good, tmp_path / "copy")


def _refusal(folder, naming):
    """The one line with which a folder is refused."""
    with pytest.raises(InputError) as caught:
        load_folder(folder, dtype=torch.float64)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(naming) in message
    return message


# --- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_head": 1},
        {"n_head": 12},
        {"n_inner": None},
        {"n_layer": 1},
        {"activation_function": "gelu_pytorch_tanh"},
    ],
    ids=str,
)
def test_their_logits_are_ours(changes, tokens):
    theirs = _theirs(**changes)
    torch.testing.assert_close(from_hf(theirs)(tokens), theirs(tokens).logits, **CLOSE)


def test_our_folder_opens_in_transformers_with_our_logits(model, tokens, tmp_path):
    save_folder(model, tmp_path, special=SpecialIds(end=3))
    theirs, report = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(theirs.eval()(tokens).logits, model(tokens), **CLOSE)
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (3, 3)


def test_gradients_agree_too(theirs, tokens):
    ours = from_hf(theirs)
    theirs.zero_grad()
    for logits in (ours(tokens), theirs(tokens).logits):
        (logits.square().sum() / 100).backward()
    expected = theirs.transformer
    torch.testing.assert_close(ours.token_embedding.grad, expected.wte.weight.grad, atol=1e-9, rtol=1e-9)
    up = ours.blocks[0].mlp.up_weight.grad.T
    torch.testing.assert_close(up, expected.h[0].mlp.c_fc.weight.grad, atol=1e-9, rtol=1e-9)


def test_round_trip_is_bitwise(hf, model, tmp_path):
    save_folder(model, tmp_path)
    assert hf.equal_states(hf.load(tmp_path), model)
    assert hf.load(tmp_path).config == model.config


def test_a_folder_of_theirs_loads(hf, good, theirs, tokens):
    assert hf.equal_states(hf.load(good), from_hf(theirs))
    assert load_folder(str(good)).token_embedding.dtype == torch.float32


def test_a_sharded_folder_loads(hf, theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert not (tmp_path / WEIGHTS).exists()
    assert hf.equal_states(hf.load(tmp_path), from_hf(theirs))


def test_weights_without_the_transformer_prefix_load(hf, theirs, tmp_path):
    """As the published gpt2 stores them: base model names, with the causal mask as a buffer."""
    theirs.transformer.save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    save_file(state | {"h.0.attn.bias": torch.ones(1, 1, 9, 9).tril()}, tmp_path / WEIGHTS)
    assert hf.equal_states(hf.load(tmp_path), from_hf(theirs))


def test_config_round_trip(config):
    assert from_hf_config(hf_config(config, special=SpecialIds(end=0)).to_dict(), source="x") == config


# --- bad input --------------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path):
    assert "it has no config.json" in _refusal(tmp_path / "nowhere", tmp_path / "nowhere")


def test_missing_config(folder):
    (folder / "config.json").unlink()
    assert "it has no config.json" in _refusal(folder, folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}", b"[]", b"3", b"null"])
def test_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_bytes(text)
    _refusal(folder, folder / "config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "opt"}, "holds a 'opt' model; only gpt2, llama"),
        ({"model_type": "REMOVED"}, "only gpt2, llama"),
        ({"model_type": "llama"}, "lacks num_hidden_layers, hidden_size, num_attention_heads, intermediate_size; "),
        ({"activation_function": "relu"}, "uses the activation 'relu'; only gelu_new is supported"),
        ({"activation_function": "gelu"}, "uses the activation 'gelu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "sets scale_attn_by_inverse_layer_idx=True"),
        ({"add_cross_attention": True}, "sets add_cross_attention=True"),
        ({"scale_attn_weights": False}, "sets scale_attn_weights=False"),
        ({"tie_word_embeddings": False}, "sets tie_word_embeddings=False"),
        ({"layer_norm_epsilon": 1e-3}, "sets layer_norm_epsilon=0.001"),
        ({"n_layer": "REMOVED"}, "lacks n_layer"),
        ({"n_embd": "REMOVED", "n_head": "REMOVED"}, "lacks n_embd, n_head"),
        ({"n_layer": "4"}, "n_layer='4'; use a whole number"),
        ({"n_layer": 2.5}, "n_layer=2.5; use a whole number"),
        ({"vocab_size": None}, "vocab_size=None; use a whole number"),
        ({"n_head": True}, "n_head=True; use a whole number"),
        ({"n_inner": [10]}, "n_inner=[10]; use a whole number"),
        ({"n_layer": 5}, "lacks the weight 'transformer.h.4."),
        ({"n_layer": 3}, "has the weight 'transformer.h.3."),
        ({"n_inner": 12}, "its config.json asks for"),
        ({"vocab_size": 18}, "'transformer.wte.weight' has shape (17, 12), its config.json asks for (18, 12)"),
    ],
    ids=str,
)
def test_a_config_we_do_not_compute_or_that_does_not_fit_the_weights(hf, folder, changes, words):
    hf.edit_config(folder, **changes)
    assert words in _refusal(folder, folder)


@pytest.mark.parametrize(("axis", "value"), [("n_layer", 0), ("n_embd", -12), ("n_head", 5)])
def test_a_config_of_impossible_sizes(hf, folder, axis, value):
    hf.edit_config(folder, **{axis: value})
    with pytest.raises(InputError):
        hf.load(folder)


def test_another_family(tmp_path):
    with torch.random.fork_rng():
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
        other = MistralForCausalLM(MistralConfig(vocab_size=11, num_key_value_heads=2, **sizes))
    other.save_pretrained(tmp_path)
    assert "holds a 'mistral' model" in _refusal(tmp_path, tmp_path)


def test_an_untied_head_is_refused_whichever_way_it_comes():
    with pytest.raises(InputError, match="tie_word_embeddings=False"):
        from_hf(_theirs(tie_word_embeddings=False))


def test_a_head_of_its_own_under_a_config_that_ties_it(folder):
    """`transformers` warns, and uses it."""
    held = load_file(folder / WEIGHTS)
    embedding = held["transformer.wte.weight"]
    save_file(held | {"lm_head.weight": embedding.clone()}, folder / WEIGHTS, metadata={"format": "pt"})
    load_folder(folder)
    save_file(held | {"lm_head.weight": embedding + 1}, folder / WEIGHTS, metadata={"format": "pt"})
    assert "'lm_head.weight' is not 'transformer.wte.weight', to which its config.json ties it" in _refusal(
        folder, folder
    )


def test_weights_of_another_family_under_our_config(folder):
    save_file({"model.embed_tokens.weight": torch.zeros(17, 12)}, folder / WEIGHTS)
    _refusal(folder, folder)


def test_a_pickle_is_never_read(folder, theirs):
    (folder / WEIGHTS).unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    assert f"no weights in '{folder}'; it needs {WEIGHTS} (or its" in _refusal(folder, folder)


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.01, 0.1, 0.5, 0.99, "one byte less"])
def test_truncated_weights(folder, share):
    path = folder / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:-1] if share == "one byte less" else data[: int(share * len(data))])
    assert "is damaged or half-written" in _refusal(folder, path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "gone.safetensors"}}',
    ],
)
def test_a_bad_shard_index(folder, text):
    (folder / WEIGHTS).unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    _refusal(folder, folder if "gone" in text else index)


def test_a_missing_shard(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    shard = min(tmp_path.glob("*.safetensors"))
    shard.unlink()
    assert f"lacks the shard '{shard.name}' that its index lists" in _refusal(tmp_path, tmp_path)


def test_an_index_does_not_lead_out_of_the_folder(folder):
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    names = dict.fromkeys(["transformer.wte.weight"], "../outside.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": names}))
    assert "lacks the shard 'outside.safetensors'" in _refusal(folder, folder)


@pytest.fixture(scope="module")
def flippable(hf, good, tmp_path_factory):
    folder = shutil.copytree(good, tmp_path_factory.mktemp("flip") / "copy")
    data = (folder / WEIGHTS).read_bytes()
    return folder, data, 8 + int.from_bytes(data[:8], "little"), hf.load(folder)


@settings(max_examples=80, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_header_is_refused_or_harmless(hf, flippable, position, bit):
    folder, data, header, intact = flippable
    damaged = bytearray(data)
    damaged[int(position * header)] ^= 1 << bit
    (folder / WEIGHTS).write_bytes(damaged)
    with contextlib.suppress(InputError):
        assert hf.equal_states(hf.load(folder), intact)
        return
    _refusal(folder, folder)


def test_loading_leaves_global_rng_and_their_model_alone(good, theirs):
    rng, before = torch.get_rng_state(), {k: v.clone() for k, v in theirs.state_dict().items()}
    ours = from_hf(theirs)
    load_folder(good)
    with torch.no_grad():
        ours.token_embedding.zero_()
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(before[name], tensor) for name, tensor in theirs.state_dict().items())
    assert isinstance(ours, GPT2)
