"""T5's weights to and from Hugging Face: equal logits both ways, and variants that we do not compute are refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration
from transformers import T5Config as TheirConfig

from est_analysis.errors import InputError
from est_analysis.models.conversion import SpecialIds
from est_analysis.models.families import FAMILIES, build_model
from est_analysis.models.hf import WEIGHTS, from_hf, from_hf_config, hf_config, save_folder, to_hf_state
from est_analysis.models.t5.config import T5Config
from est_analysis.models.t5.model import T5
from est_analysis.rng import stream

CONFIG = T5Config(
    num_layers=4,
    hidden=10,
    num_heads=3,
    head_width=4,
    mlp_columns=8,
    vocab_size=17,
    context_length=12,
    relative_buckets=8,
    relative_distance=7,
    norm_epsilon=1e-3,
)
INPUTS = torch.randint(17, (3, 11), generator=stream(0, "inputs"))
DECODER_INPUTS = torch.randint(17, (3, 6), generator=stream(0, "decoder"))
LABELS = torch.randint(17, (3, 6), generator=stream(0, "labels")).index_put((torch.tensor(1),), torch.tensor(-100))
ALL = torch.ones(3, 11).bool()
SOME = torch.arange(11) < torch.tensor([11, 7, 2])[:, None]
both_paddings = pytest.mark.parametrize("present", [ALL, SOME], ids=["nothing padded", "padded"])

# Two implementations of 2 x 3 layers in float64 differ by the order of their sums: about 1e-13.
CLOSE = {"atol": 1e-10, "rtol": 0}
SIZES = {
    "vocab_size": 17,
    "d_model": 10,
    "d_kv": 4,
    "d_ff": 8,
    "num_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 7,
    "layer_norm_epsilon": 1e-3,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "dropout_rate": 0.0,
}


def _theirs(attention="eager", **changes):
    """A random T5 v1.1 of transformers in float64 with a head of its own; the global generator is put back."""
    config = TheirConfig(**SIZES | changes, attn_implementation=attention)
    with torch.random.fork_rng():
        model = T5ForConditionalGeneration(config).double().eval()
    # transformers 5 ties the head of a new model, whatever is asked for, and unties it when the weights differ.
    model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.4, generator=stream(0, name))
    return model


def _their_logits(model, present):
    return model(
        input_ids=INPUTS, attention_mask=present.long(), decoder_input_ids=DECODER_INPUTS, use_cache=False
    ).logits


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


@both_paddings
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "sdpa"},
        {"num_layers": 1, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    ],
    ids=str,
)
def test_their_logits_are_ours(hf, changes, present):
    theirs = _theirs(**changes)
    ours = from_hf(theirs)
    assert isinstance(ours, T5)
    torch.testing.assert_close(
        ours(INPUTS, present, DECODER_INPUTS), _their_logits(hf.lifted(theirs), present), **CLOSE
    )
    loss = F.cross_entropy(_their_logits(theirs, present).flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(ours.loss(INPUTS, present, DECODER_INPUTS, LABELS), loss, **CLOSE)
    # As it comes, in the precision it is used in: a few roundings of 6e-8 of activations up to about 50.
    single = _their_logits(_theirs(**changes).float(), present)
    torch.testing.assert_close(ours.float()(INPUTS, present, DECODER_INPUTS), single, atol=1e-3, rtol=0)


def test_gradients_agree_too(hf):
    theirs = _theirs()
    ours = from_hf(theirs)
    for logits in (ours(INPUTS, SOME, DECODER_INPUTS), _their_logits(hf.lifted(theirs), SOME)):
        (logits.square().sum() / 100).backward()
    decoder, block = theirs.decoder.block[1].layer, ours.blocks[1].decoder
    first = theirs.encoder.block[0].layer[0].SelfAttention
    cross, mlp = decoder[1].EncDecAttention, decoder[2].DenseReluDense
    for gradient, parameter in (
        (ours.encoder_positions.weight.grad.T, first.relative_attention_bias.weight),
        (ours.token_embedding.grad, theirs.shared.weight),
        (block.attention.qkv_weight.grad[:, 1].flatten(0, 1), decoder[0].SelfAttention.k.weight),
        (block.cross_attention.key_value_weight.grad[:, 1].flatten(0, 1), cross.v.weight),
        (block.mlp.gate_weight.grad, mlp.wi_0.weight),
        (block.cross_norm.weight.grad, decoder[1].layer_norm.weight),
    ):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-9, rtol=1e-9)


@both_paddings
def test_our_folder_opens_in_transformers_with_our_logits(hf, randomise, tmp_path, present):
    model = randomise(build_model(CONFIG))
    save_folder(model, tmp_path, special=SpecialIds(end=3, pad=4, eos=5))
    auto = FAMILIES["t5"].conversion.auto_class
    assert auto == AutoModelForSeq2SeqLM.__name__
    theirs, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert isinstance(theirs, T5ForConditionalGeneration)
    assert not any(report.values())
    assert theirs.lm_head.weight is not theirs.shared.weight
    ids = theirs.config.pad_token_id, theirs.config.decoder_start_token_id, theirs.config.eos_token_id
    assert ids == (4, 4, 5)
    ours = model(INPUTS, present, DECODER_INPUTS)
    torch.testing.assert_close(_their_logits(hf.lifted(theirs.eval()), present), ours, **CLOSE)
    assert hf.equal_states(hf.load(tmp_path), model)
    assert hf.load(tmp_path).config == CONFIG


def test_config_round_trip():
    for config in (CONFIG, replace(CONFIG, relative_buckets=32, relative_distance=128, context_length=512)):
        assert from_hf_config(hf_config(config, special=SpecialIds(end=0)).to_dict(), source="x") == config


def test_their_folder_loads_old_ones_too(hf, folder):
    theirs = from_hf(_theirs())
    assert hf.equal_states(hf.load(folder), theirs)
    assert (theirs.config.context_length, theirs.config.head_width) == (512, 4)
    state = load_file(folder / WEIGHTS)
    copies = {f"{stack}.embed_tokens.weight": state["shared.weight"].clone() for stack in ("encoder", "decoder")}
    unread = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(8, 3)}
    save_file(state | copies | unread, folder / WEIGHTS)
    removed = ("scale_decoder_outputs", "num_decoder_layers", "relative_attention_max_distance", "is_gated_act")
    hf.edit_config(folder, **dict.fromkeys(removed, "REMOVED"), tie_word_embeddings=False, n_positions=64)
    assert hf.load(folder).config == replace(theirs.config, relative_distance=128, context_length=64)
    assert hf.equal_states(hf.load(folder), theirs)


REFUSED = [
    ({"feed_forward_proj": "relu"}, "sets feed_forward_proj=relu; our t5 is v1.1 and computes only gated-gelu"),
    ({"feed_forward_proj": "REMOVED"}, "sets feed_forward_proj=relu"),
    ({"feed_forward_proj": "gated-silu"}, "sets feed_forward_proj=gated-silu"),
    ({"dense_act_fn": "silu"}, "sets dense_act_fn=silu; our t5 computes only dense_act_fn=gelu_new"),
    ({"is_encoder_decoder": False}, "sets is_encoder_decoder=False"),
    ({"scale_decoder_outputs": True}, "scales what the head sees, as T5 v1.0 with its tied head"),
    ({"scale_decoder_outputs": "REMOVED"}, "scales what the head sees"),  # and tie_word_embeddings is true
    ({"num_decoder_layers": 2}, "has 3 layers before 2; our t5 has as many in both stacks"),
    ({"d_kv": "REMOVED"}, "lacks d_kv; it is no complete t5 configuration"),
    ({"n_positions": 2.5}, "n_positions=2.5; use a whole number"),
    ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon='1e-6'; use a number"),
    ({"relative_attention_num_buckets": 5}, "relative_buckets=5 make no halves"),
    ({"num_layers": 4, "num_decoder_layers": 4}, "lacks the weight '"),
    ({"num_layers": 2, "num_decoder_layers": 2}, "coder.block.2.layer."),
    ({"d_kv": 5}, "its config.json asks for"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=str)
def test_what_we_do_not_compute_is_refused_by_name(hf, folder, changes, words):
    hf.edit_config(folder, **changes)
    with pytest.raises(InputError) as caught:
        hf.load(folder)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_tied_head_is_refused(hf, folder):
    state = load_file(folder / WEIGHTS)
    del state["lm_head.weight"]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"lacks the weight 'lm_head.weight'"):
        hf.load(folder)


def test_t5_small_has_the_names_and_shapes_of_its_checkpoint():
    """On the meta device: nothing is computed or held."""
    config = FAMILIES["t5"].presets["t5-v1.1-small"]
    with torch.device("meta"):
        ours, theirs = to_hf_state(build_model(config)), T5ForConditionalGeneration(hf_config(config)).state_dict()
    theirs = {name: tuple(w.shape) for name, w in theirs.items() if "embed_tokens" not in name}
    assert {name: tuple(w.shape) for name, w in ours.items()} == theirs
