"""BERT's names, layouts and switches at Hugging Face, where its pre-norm form is called Megatron-BERT."""

from collections.abc import Mapping
from typing import Any

import torch

from est_analysis.errors import InputError
from est_analysis.models.bert.config import BertConfig, MegatronBertConfig
from est_analysis.models.conversion import (
    Conversion,
    SpecialIds,
    State,
    read_number,
    require_computed,
    require_whole_numbers,
)

# Same tensors under another name; the same for weights and biases.
_LAYER_NAMES = {
    "mlp.up_weight": "intermediate.dense.weight",
    "mlp.up_bias": "intermediate.dense.bias",
    "mlp.down_bias": "output.dense.bias",
    "attention.out_bias": "attention.output.dense.bias",
}
_POST_NORMS = {"attention_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}
_PRE_NORMS = {"attention_norm": "attention.ln", "mlp_norm": "ln"}
_TOP_NAMES = {
    "token_embedding": "bert.embeddings.word_embeddings.weight",
    "position_embedding": "bert.embeddings.position_embeddings.weight",
    "type_embedding": "bert.embeddings.token_type_embeddings.weight",
    "transform_weight": "cls.predictions.transform.dense.weight",
    "transform_bias": "cls.predictions.transform.dense.bias",
    "transform_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "transform_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "head_bias": "cls.predictions.bias",
}
_TOP_POST_NORM = {"embedding_norm": "bert.embeddings.LayerNorm"}
_TOP_PRE_NORM = {"final_norm": "bert.encoder.ln"}
# What other tasks hang on: the pooler and the next-sentence head. The rest are buffers and the tied head.
_IGNORED_PREFIXES = ("bert.pooler.", "cls.seq_relationship.", "cls.predictions.decoder.")
_IGNORED_SUFFIXES = (".position_ids", ".token_type_ids")
# The variant of BERT that we compute; any other value of these would silently change the logits.
_COMPUTED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}


def _both(norms: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in norms.items() for part in ("weight", "bias")}


def _top_names(config: BertConfig) -> dict[str, str]:
    return _TOP_NAMES | _both(_TOP_POST_NORM if config.post_norm else _TOP_PRE_NORM)


def _layer_names(config: BertConfig) -> dict[str, str]:
    return _LAYER_NAMES | _both(_POST_NORMS if config.post_norm else _PRE_NORMS)


def _to_theirs(ours: State, config: BertConfig) -> State:
    """(out, in) matrices; queries, keys and values apart, head after head."""
    state = {theirs: ours[name] for name, theirs in _top_names(config).items()}
    for i in range(config.num_layers):
        here, there = f"blocks.{i}.", f"bert.encoder.layer.{i}."
        state |= {there + theirs: ours[here + name] for name, theirs in _layer_names(config).items()}
        weights, biases = ours[here + "attention.qkv_weight"], ours[here + "attention.qkv_bias"]
        for index, name in enumerate(("query", "key", "value")):
            state[f"{there}attention.self.{name}.weight"] = weights[:, index].flatten(0, 1)
            state[f"{there}attention.self.{name}.bias"] = biases[:, index].flatten()
        state[there + "attention.output.dense.weight"] = ours[here + "attention.out_weight"].flatten(0, 1).T
        state[there + "output.dense.weight"] = ours[here + "mlp.down_weight"].T
    return state


def _to_ours(state: State, config: BertConfig) -> State:
    heads, width, hidden = config.num_heads, config.head_dim, config.hidden
    ours = {name: state[theirs] for name, theirs in _top_names(config).items()}
    for i in range(config.num_layers):
        here, there = f"blocks.{i}.", f"bert.encoder.layer.{i}."
        ours |= {here + name: state[there + theirs] for name, theirs in _layer_names(config).items()}
        parts = [f"{there}attention.self.{name}" for name in ("query", "key", "value")]
        weights = [state[f"{part}.weight"].view(heads, width, hidden) for part in parts]
        ours[here + "attention.qkv_weight"] = torch.stack(weights, dim=1)
        biases = [state[f"{part}.bias"].view(heads, width) for part in parts]
        ours[here + "attention.qkv_bias"] = torch.stack(biases, dim=1)
        out = state[there + "attention.output.dense.weight"]
        ours[here + "attention.out_weight"] = out.T.reshape(heads, width, hidden)
        ours[here + "mlp.down_weight"] = state[there + "output.dense.weight"].T
    return ours


def _to_their_config(config: BertConfig, special: SpecialIds):
    """No dropout."""
    from transformers import BertConfig as PostNorm
    from transformers import MegatronBertConfig as PreNorm

    return (PostNorm if config.post_norm else PreNorm)(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.context_length,
        hidden_size=config.hidden,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_columns,
        type_vocab_size=config.token_types,
        layer_norm_eps=config.norm_epsilon,
        hidden_act=config.activation,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=special.pad,
        bos_token_id=special.end,
        eos_token_id=special.end,
        architectures=["BertForMaskedLM" if config.post_norm else "MegatronBertForMaskedLM"],
        dtype="float32",
    )


def _to_our_config(theirs: Mapping[str, Any], source: str) -> BertConfig:
    kind = {kind.family: kind for kind in (BertConfig, MegatronBertConfig)}[theirs["model_type"]]
    activation = theirs.get("hidden_act", "gelu")
    if activation not in tuple(_ACTIVATIONS):
        raise InputError(f"{source} uses the activation '{activation}'; only {', '.join(_ACTIVATIONS)} are supported")
    require_computed(theirs, _COMPUTED, family=kind.family, source=source)
    require_whole_numbers(theirs, _SIZES, family=kind.family, source=source)
    return kind(
        num_layers=theirs["num_hidden_layers"],
        hidden=theirs["hidden_size"],
        num_heads=theirs["num_attention_heads"],
        mlp_columns=theirs["intermediate_size"],
        vocab_size=theirs["vocab_size"],
        context_length=theirs["max_position_embeddings"],
        token_types=theirs["type_vocab_size"],
        norm_epsilon=read_number(theirs, "layer_norm_eps", 1e-12, source=source),
        activation=_ACTIVATIONS[activation],
    )


def _ignored(name: str, _: BertConfig) -> bool:
    return name.startswith(_IGNORED_PREFIXES) or name.endswith(_IGNORED_SUFFIXES)


def _renamed(name: str) -> str:
    """Checkpoints from before PyTorch call weight and bias of a norm gamma and beta, as TensorFlow did."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


CONVERSION = Conversion(
    to_theirs=_to_theirs,
    to_ours=_to_ours,
    to_their_config=_to_their_config,
    to_our_config=_to_our_config,
    auto_class="AutoModelForMaskedLM",
    base_prefix="bert.",
    head_prefix="cls.",
    renamed=_renamed,
    ignored=_ignored,
    tied={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
)
