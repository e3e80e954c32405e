"""Llama's names, layouts and switches at Hugging Face."""

from collections.abc import Mapping
from typing import Any

import torch

from est_analysis.errors import InputError
from est_analysis.models.conversion import (
    Conversion,
    SpecialIds,
    State,
    read_number,
    require_computed,
    require_whole_numbers,
)
from est_analysis.models.llama.config import LlamaConfig

_LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate_weight": "mlp.gate_proj.weight",
    "mlp.up_weight": "mlp.up_proj.weight",
}
_TOP_NAMES = {"token_embedding": "model.embed_tokens.weight", "final_norm.weight": "model.norm.weight"}
_HEAD = {"head_weight": "lm_head.weight"}
# The variant of Llama that we compute. Tensor-parallel pre-training is a way to compute, not another model.
_COMPUTED = {"attention_bias": False, "mlp_bias": False, "rope_scaling": None}
_ACTIVATIONS = ("silu", "swish")


def _top_names(config: LlamaConfig) -> dict[str, str]:
    return _TOP_NAMES if config.tied_head else _TOP_NAMES | _HEAD


def _to_theirs(ours: State, config: LlamaConfig) -> State:
    """(out, in) matrices; queries, keys and values apart, head after head."""
    state = {theirs: ours[name] for name, theirs in _top_names(config).items()}
    for i in range(config.num_layers):
        here, there = f"blocks.{i}.", f"model.layers.{i}."
        state |= {there + theirs: ours[here + name] for name, theirs in _LAYER_NAMES.items()}
        key, value = ours[here + "attention.key_value_weight"].unbind(1)  # (G, E, D) each
        state[there + "self_attn.q_proj.weight"] = ours[here + "attention.query_weight"].flatten(0, 1)
        state[there + "self_attn.k_proj.weight"] = key.flatten(0, 1)
        state[there + "self_attn.v_proj.weight"] = value.flatten(0, 1)
        state[there + "self_attn.o_proj.weight"] = ours[here + "attention.out_weight"].flatten(0, 1).T
        state[there + "mlp.down_proj.weight"] = ours[here + "mlp.down_weight"].T
    return state


def _to_ours(state: State, config: LlamaConfig) -> State:
    width, hidden = config.head_dim, config.hidden
    ours = {name: state[theirs] for name, theirs in _top_names(config).items()}
    for i in range(config.num_layers):
        here, there = f"blocks.{i}.", f"model.layers.{i}."
        ours |= {here + name: state[there + theirs] for name, theirs in _LAYER_NAMES.items()}
        projections = {name: state[f"{there}self_attn.{name}_proj.weight"] for name in "qkvo"}
        pairs = [projections[name].view(-1, width, hidden) for name in "kv"]
        ours[here + "attention.key_value_weight"] = torch.stack(pairs, dim=1)
        ours[here + "attention.query_weight"] = projections["q"].view(-1, width, hidden)
        ours[here + "attention.out_weight"] = projections["o"].T.reshape(-1, width, hidden)
        ours[here + "mlp.down_weight"] = state[there + "mlp.down_proj.weight"].T
    return ours


def _to_their_config(config: LlamaConfig, special: SpecialIds):
    from transformers import LlamaConfig as TheirConfig

    return TheirConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.context_length,
        hidden_size=config.hidden,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=config.mlp_columns,
        hidden_act="silu",
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tied_head,
        bos_token_id=special.end,
        eos_token_id=special.end,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _to_our_config(theirs: Mapping[str, Any], source: str) -> LlamaConfig:
    if theirs.get("hidden_act", "silu") not in _ACTIVATIONS:
        raise InputError(f"{source} uses the activation '{theirs['hidden_act']}'; only silu is supported")
    require_computed(theirs, _COMPUTED, family="llama", source=source)
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    optional = ("max_position_embeddings", "num_key_value_heads", "head_dim")
    require_whole_numbers(theirs, sizes, optional, family="llama", source=source)
    hidden, heads = theirs["hidden_size"], theirs["num_attention_heads"]
    width = theirs.get("head_dim")
    if width is not None and width * heads != hidden:
        raise InputError(f"{source} sets head_dim={width}; our llama computes only head_dim=hidden_size/heads")
    tied = theirs.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise InputError(f"{source}/config.json has tie_word_embeddings={tied!r}; use true or false")
    return LlamaConfig(
        num_layers=theirs["num_hidden_layers"],
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=_or(theirs.get("num_key_value_heads"), heads),
        mlp_columns=theirs["intermediate_size"],
        vocab_size=theirs["vocab_size"],
        context_length=_or(theirs.get("max_position_embeddings"), 2048),  # the defaults of their LlamaConfig
        rope_theta=_rope_theta(theirs, source),
        norm_epsilon=read_number(theirs, "rms_norm_eps", 1e-6, source=source),
        tied_head=tied,
    )


def _rope_theta(theirs: Mapping[str, Any], source: str) -> float:
    """Older files have it at the top, newer ones inside `rope_parameters`."""
    rope = _or(theirs.get("rope_parameters"), {})
    if not isinstance(rope, Mapping):
        raise InputError(f"{source}/config.json has rope_parameters={rope!r}; use an object")
    kind = _or(rope.get("rope_type"), "default")
    if kind != "default":
        raise InputError(f"{source} sets rope_type={kind}; our llama computes only rope_type=default")
    for key, value in rope.items():
        if key not in ("rope_type", "rope_theta") and value is not None:
            raise InputError(f"{source} sets {key}={value} of rope_parameters; our llama computes only plain rotations")
    return read_number(rope if rope.get("rope_theta") is not None else theirs, "rope_theta", 10_000.0, source=source)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _ignored(name: str, config: LlamaConfig) -> bool:
    return name.endswith(".rotary_emb.inv_freq") or (config.tied_head and name == "lm_head.weight")


CONVERSION = Conversion(
    to_theirs=_to_theirs,
    to_ours=_to_ours,
    to_their_config=_to_their_config,
    to_our_config=_to_our_config,
    auto_class="AutoModelForCausalLM",
    base_prefix="model.",
    head_prefix="lm_head.",
    ignored=_ignored,
    tied={"lm_head.weight": "model.embed_tokens.weight"},
)
