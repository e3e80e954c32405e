"""Llama's weights to and from Hugging Face: equal logits both ways, and variants that we do not compute are refused.

Reading folders, damaged ones too, is the same code for every family: `test_hf`.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from est_analysis.errors import InputError
from est_analysis.models.conversion import SpecialIds
from est_analysis.models.families import build_model
from est_analysis.models.hf import WEIGHTS, from_hf, from_hf_config, hf_config, save_folder
from est_analysis.models.llama.model import Llama
from est_analysis.rng import stream

# Two implementations of 3 float64 layers differ by the order of their sums: about 1e-14.
CLOSE = {"atol": 1e-10, "rtol": 0}
SIZES = {
    "vocab_size": 17,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 9,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    "bos_token_id": 0,
    "eos_token_id": 0,
}
VARIANTS = {
    "grouped": {},
    "one group": {"num_key_value_heads": 1},
    "own keys": {"num_key_value_heads": 6},
    "tied": {"tie_word_embeddings": True},
    "one layer, other base": {"num_hidden_layers": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}


def _theirs(**changes):
    """A random Llama of transformers in float64, norms random too; the global generator is put back."""
    with torch.random.fork_rng():
        model = LlamaForCausalLM(LlamaConfig(**SIZES | changes)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.4, generator=stream(0, name))
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    _theirs().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy to change."""
    for path in good.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_their_logits_are_ours(hf, changes, tokens):
    theirs = _theirs(**changes)
    ours = from_hf(theirs)
    assert isinstance(ours, Llama)
    torch.testing.assert_close(ours(tokens), hf.lifted(theirs)(tokens).logits, **CLOSE)
    # As it comes, in the precision it is used in: a few roundings of 6e-8 through three layers.
    torch.testing.assert_close(ours.float()(tokens), _theirs(**changes).float()(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("which", ["llama", "llama, own keys", "llama, one key, tied"])
def test_our_folder_opens_in_transformers_with_our_logits(hf, make, tokens, which, tmp_path):
    model = make(which)
    save_folder(model, tmp_path, special=SpecialIds(end=3))
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert isinstance(theirs, LlamaForCausalLM)
    assert not any(report.values())
    torch.testing.assert_close(hf.lifted(theirs.eval())(tokens).logits, model(tokens), **CLOSE)
    assert (theirs.lm_head.weight is theirs.model.embed_tokens.weight) == model.config.tied_head
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (3, 3)
    assert hf.equal_states(hf.load(tmp_path), model)
    assert hf.load(tmp_path).config == model.config


def test_gradients_agree_too(hf, tokens):
    theirs = _theirs()
    ours = from_hf(theirs)
    for logits in (ours(tokens), hf.lifted(theirs)(tokens).logits):
        (logits.square().sum() / 100).backward()
    layer, block = theirs.model.layers[1], ours.blocks[1]
    for name, ours_grad in {
        "self_attn.q_proj": block.attention.query_weight.grad.flatten(0, 1),
        "self_attn.k_proj": block.attention.key_value_weight.grad[:, 0].flatten(0, 1),
        "self_attn.v_proj": block.attention.key_value_weight.grad[:, 1].flatten(0, 1),
        "self_attn.o_proj": block.attention.out_weight.grad.flatten(0, 1).T,
        "mlp.gate_proj": block.mlp.gate_weight.grad,
        "input_layernorm": block.attention_norm.weight.grad,
    }.items():
        torch.testing.assert_close(ours_grad, layer.get_submodule(name).weight.grad, atol=1e-9, rtol=1e-9, msg=name)


def test_config_round_trip(configs):
    for name in ("llama", "llama, own keys", "llama, one key, tied"):
        for config in (configs[name], replace(configs[name], rope_theta=5e5)):
            assert from_hf_config(hf_config(config, special=SpecialIds(end=0)).to_dict(), source="x") == config


# --- folders as others write them -------------------------------------------------------------------------------------


def test_a_config_of_before_transformers_5_loads(hf, folder):
    """`rope_theta` at the top, no `rope_parameters`; keys of one's own may go without saying."""
    hf.edit_config(
        folder, rope_parameters="REMOVED", rope_theta=50.0, rope_scaling=None, head_dim="REMOVED", pretraining_tp=1
    )
    assert hf.load(folder).config == from_hf(_theirs()).config
    own = from_hf_config({"model_type": "llama", "num_key_value_heads": None} | _without_groups(), source="x")
    assert own.num_kv_heads == own.num_heads == 6
    assert (own.rope_theta, own.norm_epsilon, own.tied_head) == (50.0, 1e-3, False)


def _without_groups():
    return {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}


def test_sharded_headless_and_buffered_folders_load(hf, tmp_path):
    theirs = _theirs()
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert hf.equal_states(hf.load(tmp_path / "sharded"), from_hf(theirs))
    tied = _theirs(tie_word_embeddings=True)
    tied.model.save_pretrained(tmp_path / "headless")
    assert hf.equal_states(hf.load(tmp_path / "headless"), from_hf(tied))
    weights = tmp_path / "headless" / WEIGHTS
    buffer = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    save_file(load_file(weights) | buffer, weights)
    assert hf.equal_states(hf.load(tmp_path / "headless"), from_hf(tied))


REFUSED = [
    ({"hidden_act": "gelu"}, "uses the activation 'gelu'; only silu is supported"),
    ({"attention_bias": True}, "sets attention_bias=True; our llama computes only attention_bias=False"),
    ({"mlp_bias": True}, "sets mlp_bias=True"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "sets rope_scaling={'type': 'linear'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 50.0, "factor": 2.0}}, "sets rope_type=yarn"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "sets partial_rotary_factor=0.5"),
    ({"rope_parameters": 3}, "rope_parameters=3; use an object"),
    ({"rope_parameters": {"rope_theta": "50"}}, "rope_theta='50'; use a number"),
    ({"rope_parameters": {"rope_theta": -1}}, "rope_theta=-1.0 must be above 0"),
    ({"rms_norm_eps": True}, "rms_norm_eps=True; use a number"),
    ({"head_dim": 8}, "sets head_dim=8; our llama computes only head_dim=hidden_size/heads"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'; use true or false"),
    ({"num_hidden_layers": "REMOVED"}, "lacks num_hidden_layers; it is no complete llama configuration"),
    ({"num_key_value_heads": 2.5}, "num_key_value_heads=2.5; use a whole number"),
    ({"num_key_value_heads": 4}, "6 heads do not divide into 4 key/value groups"),
    ({"num_key_value_heads": 6}, "self_attn.k_proj.weight' has shape (12, 24), its config.json asks for (24, 24)"),
    ({"num_hidden_layers": 4}, "lacks the weight 'model.layers.3."),
    ({"num_hidden_layers": 2}, "has the weight 'model.layers.2."),
    ({"model_type": "mistral"}, "holds a 'mistral' model; only gpt2, llama"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=str)
def test_what_we_do_not_compute_is_refused_by_name(hf, folder, changes, words):
    hf.edit_config(folder, **changes)
    with pytest.raises(InputError) as caught:
        hf.load(folder)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_head_of_its_own_may_not_be_missing(hf, folder):
    state = load_file(folder / WEIGHTS)
    del state["lm_head.weight"]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"lacks the weight 'lm_head.weight'"):
        hf.load(folder)


def test_tinyllama_has_the_names_and_shapes_of_its_checkpoint():
    """On the meta device: nothing is computed or held."""
    from est_analysis.models.families import FAMILIES
    from est_analysis.models.hf import to_hf_state

    config = FAMILIES["llama"].presets["tinyllama"]
    with torch.device("meta"):
        ours, theirs = to_hf_state(build_model(config)), LlamaForCausalLM(hf_config(config)).state_dict()
    assert {name: tuple(w.shape) for name, w in ours.items()} == {name: tuple(w.shape) for name, w in theirs.items()}
