"""GPT-2's names, layouts and switches at Hugging Face."""

from collections.abc import Mapping
from typing import Any

from est_analysis.errors import InputError
from est_analysis.models.conversion import Conversion, SpecialIds, State, require_computed, require_whole_numbers
from est_analysis.models.gpt2.config import GPT2Config

# Same tensors under another name. Attention is stored differently and is converted below.
_LAYER_NAMES = {
    "attention_norm.weight": "ln_1.weight",
    "attention_norm.bias": "ln_1.bias",
    "attention.out_bias": "attn.c_proj.bias",
    "mlp_norm.weight": "ln_2.weight",
    "mlp_norm.bias": "ln_2.bias",
    "mlp.up_bias": "mlp.c_fc.bias",
    "mlp.down_weight": "mlp.c_proj.weight",
    "mlp.down_bias": "mlp.c_proj.bias",
}
_TOP_NAMES = {
    "token_embedding": "transformer.wte.weight",
    "position_embedding": "transformer.wpe.weight",
    "final_norm.weight": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
}
# Buffers of older checkpoints and the tied head: not weights of their own.
_IGNORED_SUFFIXES = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
# The variant of GPT-2 that we compute; any other value of these would silently change the logits.
_COMPUTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
}


def _to_theirs(ours: State, config: GPT2Config) -> State:
    """(in, out) matrices, as their Conv1D stores them."""
    state = {theirs: ours[name] for name, theirs in _TOP_NAMES.items()}
    for i in range(config.num_layers):
        here, there = f"blocks.{i}.", f"transformer.h.{i}."
        state |= {there + theirs: ours[here + name] for name, theirs in _LAYER_NAMES.items()}
        # (H, 3, E, D) -> (D, 3 H E): theirs has all queries first, then all keys, then all values.
        qkv, bias = ours[here + "attention.qkv_weight"], ours[here + "attention.qkv_bias"]
        state[there + "attn.c_attn.weight"] = qkv.transpose(0, 1).flatten(0, 2).T
        state[there + "attn.c_attn.bias"] = bias.transpose(0, 1).flatten()
        state[there + "attn.c_proj.weight"] = ours[here + "attention.out_weight"].flatten(0, 1)
        state[there + "mlp.c_fc.weight"] = ours[here + "mlp.up_weight"].T
    return state


def _to_ours(state: State, config: GPT2Config) -> State:
    heads, width, hidden = config.num_heads, config.head_dim, config.hidden
    ours = {name: state[theirs] for name, theirs in _TOP_NAMES.items()}
    for i in range(config.num_layers):
        here, there = f"blocks.{i}.", f"transformer.h.{i}."
        ours |= {here + name: state[there + theirs] for name, theirs in _LAYER_NAMES.items()}
        qkv = state[there + "attn.c_attn.weight"].T.reshape(3, heads, width, hidden)
        ours[here + "attention.qkv_weight"] = qkv.transpose(0, 1)
        bias = state[there + "attn.c_attn.bias"].view(3, heads, width)
        ours[here + "attention.qkv_bias"] = bias.transpose(0, 1)
        ours[here + "attention.out_weight"] = state[there + "attn.c_proj.weight"].view(heads, width, hidden)
        ours[here + "mlp.up_weight"] = state[there + "mlp.c_fc.weight"].T
    return ours


def _to_their_config(config: GPT2Config, special: SpecialIds):
    """No dropout, tanh GELU, tied head."""
    from transformers import GPT2Config as TheirConfig

    return TheirConfig(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.hidden,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=config.mlp_columns,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=special.end,
        eos_token_id=special.end,
        architectures=["GPT2LMHeadModel"],
        dtype="float32",
    )


def _to_our_config(theirs: Mapping[str, Any], source: str) -> GPT2Config:
    if theirs.get("activation_function", "gelu_new") not in _ACTIVATIONS:
        raise InputError(f"{source} uses the activation '{theirs['activation_function']}'; only gelu_new is supported")
    require_computed(theirs, _COMPUTED, family="gpt2", source=source)
    sizes = ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions")
    require_whole_numbers(theirs, sizes, ("n_inner",), family="gpt2", source=source)
    return GPT2Config(
        num_layers=theirs["n_layer"],
        hidden=theirs["n_embd"],
        num_heads=theirs["n_head"],
        mlp_columns=theirs.get("n_inner") or 4 * theirs["n_embd"],
        vocab_size=theirs["vocab_size"],
        context_length=theirs["n_positions"],
    )


CONVERSION = Conversion(
    to_theirs=_to_theirs,
    to_ours=_to_ours,
    to_their_config=_to_their_config,
    to_our_config=_to_our_config,
    auto_class="AutoModelForCausalLM",
    base_prefix="transformer.",
    head_prefix="lm_head.",
    ignored=lambda name, _: name.endswith(_IGNORED_SUFFIXES),
    tied={"lm_head.weight": "transformer.wte.weight"},
)
