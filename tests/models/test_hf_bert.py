"""BERT's and Megatron-BERT's weights to and from Hugging Face: equal logits both ways, other variants refused.

Reading folders, damaged ones too, is the same code for every family: `test_hf`.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
)

from est_analysis.errors import InputError
from est_analysis.models.bert.model import Bert
from est_analysis.models.conversion import SpecialIds
from est_analysis.models.families import FAMILIES, build_model
from est_analysis.models.hf import WEIGHTS, from_hf, from_hf_config, hf_config, save_folder, to_hf_state
from est_analysis.rng import stream

# Two implementations of 3 float64 layers differ by the order of their sums: about 1e-14.
CLOSE = {"atol": 1e-10, "rtol": 0}
SIZES = {
    "vocab_size": 17,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 10,
    "max_position_embeddings": 9,
}
CLASSES = {"bert": (BertForMaskedLM, BertConfig), "megatron-bert": (MegatronBertForMaskedLM, MegatronBertConfig)}
# transformers has no fused attention for Megatron-BERT.
ATTENTION = {"bert": "sdpa", "megatron-bert": "eager"}
VARIANTS = {
    "as published": {},
    "one head": {"num_attention_heads": 1},
    "tanh": {"hidden_act": "gelu_new"},
    "tanh by another name": {"hidden_act": "gelu_pytorch_tanh"},
    "large epsilon": {"layer_norm_eps": 0.1},
    "one layer, one type": {"num_hidden_layers": 1, "type_vocab_size": 1},
    "chunked": {"chunk_size_feed_forward": 1},
    "another padding": {"pad_token_id": 5},
}
every_bert = pytest.mark.parametrize("family", CLASSES)


def _random(model):
    """Every tensor random, biases and norms too."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith(("LayerNorm.weight", "ln.weight"))
            parameter.normal_(1.0 if norm else 0.0, 0.4, generator=stream(0, name))
    return model


def _theirs(family, kind=None, **changes):
    """A random BERT of transformers in float64 as it evaluates; the global generator is put back."""
    model, config = CLASSES[family]
    config = config(**SIZES | changes)
    config._attn_implementation = ATTENTION[family]
    with torch.random.fork_rng():
        return _random((kind or model)(config).double().eval())


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Folders saved by transformers."""
    folders = {family: tmp_path_factory.mktemp(family) for family in CLASSES}
    for family, folder in folders.items():
        _theirs(family).save_pretrained(folder)
    return folders


@every_bert
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_their_logits_are_ours(family, changes, tokens):
    theirs = _theirs(family, **changes)
    ours = from_hf(theirs)
    assert isinstance(ours, Bert)
    assert ours.config.family == family
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, **CLOSE)
    labels = tokens.masked_fill(tokens % 3 == 0, -100)
    torch.testing.assert_close(ours.loss(tokens, labels), theirs(tokens, labels=labels).loss, **CLOSE)


@every_bert
def test_our_folder_opens_in_transformers_with_our_logits(hf, family, make, tokens, tmp_path):
    model = make(family)
    save_folder(model, tmp_path, special=SpecialIds(end=3, pad=2))
    theirs, report = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert type(theirs) is CLASSES[family][0]
    assert not any(report.values())
    # In training mode: what we export has no dropout.
    torch.testing.assert_close(theirs.train()(tokens).logits, model(tokens), **CLOSE)
    assert theirs.cls.predictions.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    assert (theirs.config.pad_token_id, theirs.config.eos_token_id) == (2, 3)
    assert hf.equal_states(hf.load(tmp_path), model)
    assert hf.load(tmp_path).config == model.config


@every_bert
def test_gradients_agree_too(family, tokens):
    theirs = _theirs(family, pad_token_id=None)  # theirs leave the row of the padding without gradient
    ours = from_hf(theirs)
    for logits in (ours(tokens), theirs(tokens).logits):
        (logits.square().sum() / 100).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    here = {name: parameter.grad for name, parameter in ours.named_parameters()}
    to_theirs = FAMILIES[family].conversion.to_theirs
    for name, gradient in to_theirs(here, ours.config).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-9, rtol=1e-9, msg=name)


@every_bert
def test_config_round_trip(family, configs):
    for config in (configs[family], replace(configs[family], activation="gelu", norm_epsilon=1e-12, token_types=1)):
        for special in (SpecialIds(), SpecialIds(end=0, pad=1)):
            assert from_hf_config(hf_config(config, special=special).to_dict(), source="x") == config


@pytest.mark.parametrize("name", ["bert-base", "bert-large"])
def test_published_sizes_have_the_names_and_shapes_of_their_checkpoints(name):
    """On the meta device: nothing is computed or held."""
    config = FAMILIES["bert"].presets[name]
    with torch.device("meta"):
        ours, theirs = to_hf_state(build_model(config)), BertForMaskedLM(hf_config(config))
    shapes = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
    assert {name: tuple(weight.shape) for name, weight in ours.items()} == shapes


# --- folders as others write them -------------------------------------------------------------------------------------


@every_bert
def test_a_folder_of_theirs_loads(hf, family, good):
    assert hf.equal_states(hf.load(good[family]), from_hf(_theirs(family)))


def test_what_other_tasks_hang_on_is_left_out(hf, tmp_path):
    """As the published ones were saved: a pooler, a next-sentence head, the tied decoder and a buffer besides."""
    theirs = _theirs("bert", BertForPreTraining)
    theirs.save_pretrained(tmp_path)
    held = load_file(tmp_path / WEIGHTS)
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.bias"} <= held.keys()
    buffers = {"bert.embeddings.position_ids": torch.arange(9)[None], "cls.predictions.decoder.bias": torch.ones(17)}
    save_file(held | buffers, tmp_path / WEIGHTS)
    state = theirs.state_dict()
    ours = to_hf_state(hf.load(tmp_path))
    assert all(torch.equal(weight, state[name]) for name, weight in ours.items())


def test_norms_under_their_old_names_load(hf, tmp_path):
    """As bert-base-uncased on the hub has them."""
    theirs = _theirs("bert")
    theirs.save_pretrained(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    held = load_file(tmp_path / WEIGHTS)
    for new, name in old.items():
        held = {key.replace(new, name): weight for key, weight in held.items()}
    assert sum("gamma" in key for key in held) == sum("beta" in key for key in held) > 1
    save_file(held, tmp_path / WEIGHTS)
    assert hf.equal_states(hf.load(tmp_path), from_hf(theirs))


def test_a_sharded_folder_loads(hf, tmp_path):
    theirs = _theirs("bert")
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert not (tmp_path / WEIGHTS).exists()
    assert hf.equal_states(hf.load(tmp_path), from_hf(theirs))


REFUSED = [
    ({"hidden_act": "relu"}, "uses the activation 'relu'; only gelu, gelu_new, gelu_pytorch_tanh are supported"),
    ({"hidden_act": ["gelu"]}, "uses the activation '['gelu']'"),
    ({"position_embedding_type": "relative_key"}, "sets position_embedding_type=relative_key; our bert computes only"),
    ({"is_decoder": True}, "sets is_decoder=True; our bert computes only is_decoder=False"),
    ({"add_cross_attention": True}, "sets add_cross_attention=True"),
    ({"tie_word_embeddings": False}, "sets tie_word_embeddings=False"),
    ({"layer_norm_eps": "1e-12"}, "layer_norm_eps='1e-12'; use a number"),
    ({"layer_norm_eps": -1}, "norm_epsilon=-1.0 must be above 0"),
    ({"num_hidden_layers": "REMOVED"}, "lacks num_hidden_layers; it is no complete bert configuration"),
    ({"type_vocab_size": 2.5}, "type_vocab_size=2.5; use a whole number"),
    ({"type_vocab_size": 0}, "token_types=0 is not a size"),
    ({"type_vocab_size": 3}, "'bert.embeddings.token_type_embeddings.weight' has shape (2, 24)"),
    ({"num_hidden_layers": 4}, "lacks the weight 'bert.encoder.layer.3."),
    ({"num_hidden_layers": 2}, "has the weight 'bert.encoder.layer.2."),
    ({"model_type": "roberta"}, "holds a 'roberta' model"),
    ({"model_type": "megatron-bert"}, "of another family"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=str)
def test_what_we_do_not_compute_is_refused_by_name(hf, good, tmp_path, changes, words):
    folder = hf.copy(good["bert"], tmp_path)
    hf.edit_config(folder, **changes)
    with pytest.raises(InputError) as caught:
        hf.load(folder)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_refusal_names_the_family(hf, good, tmp_path):
    folder = hf.copy(good["megatron-bert"], tmp_path)
    hf.edit_config(folder, is_decoder=True)
    with pytest.raises(InputError, match="our megatron-bert computes only is_decoder=False"):
        hf.load(folder)


def test_a_model_without_the_head_is_refused(hf, tmp_path):
    _theirs("bert").bert.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks the weight 'cls.predictions."):
        hf.load(tmp_path)
