"""Weights to and from Hugging Face: a checkpoint of ours *is* a Hugging Face folder.

`GPT2LMHeadModel.from_pretrained(folder)` opens what `save_folder` wrote, and `load_folder` opens any GPT-2 folder of
theirs; logits agree both ways. Only safetensors files are read, and no code from a checkpoint ever runs.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from est_analysis.errors import InputError
from est_analysis.models.config import ModelConfig
from est_analysis.models.gpt2 import GPT2

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
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
# The variant of GPT-2 that we compute; any other value of these would silently change the logits.
_COMPUTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "layer_norm_epsilon": 1e-5,
}


def to_hf_state(model: GPT2) -> dict[str, Tensor]:
    """The weights under Hugging Face's names and in its (in, out) layout, contiguous, detached."""
    ours = model.state_dict()
    state = {theirs: ours[name] for name, theirs in _TOP_NAMES.items()}
    for i in range(model.config.num_layers):
        here, there = f"blocks.{i}.", f"transformer.h.{i}."
        state |= {there + theirs: ours[here + name] for name, theirs in _LAYER_NAMES.items()}
        # (H, 3, E, D) -> (D, 3 H E): theirs has all queries first, then all keys, then all values.
        qkv, bias = ours[here + "attention.qkv_weight"], ours[here + "attention.qkv_bias"]
        state[there + "attn.c_attn.weight"] = qkv.transpose(0, 1).flatten(0, 2).T
        state[there + "attn.c_attn.bias"] = bias.transpose(0, 1).flatten()
        state[there + "attn.c_proj.weight"] = ours[here + "attention.out_weight"].flatten(0, 1)
        state[there + "mlp.c_fc.weight"] = ours[here + "mlp.up_weight"].T
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def load_hf_state(model: GPT2, state: dict[str, Tensor], *, source: str) -> GPT2:
    """Copy Hugging Face GPT-2 weights into `model`; `source` names the checkpoint in errors.

    Raises:
        InputError: a weight is missing, extra, or of another shape.
    """
    state = {(k if k.startswith(("transformer.", "lm_head.")) else "transformer." + k): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not k.endswith(_IGNORED_SUFFIXES)}
    expected = to_hf_state(model)
    for name in expected.keys() - state.keys():
        raise InputError(f"{source} lacks the weight '{name}'; it is incomplete or of another family than gpt2")
    for name in state.keys() - expected.keys():
        raise InputError(f"{source} has the weight '{name}', which no gpt2 of this size has; it is of another family")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{source}: '{name}' has shape {tuple(tensor.shape)}, its config.json asks for "
                f"{tuple(expected[name].shape)}; the two files do not belong together"
            )
    heads, width, hidden = model.config.num_heads, model.config.head_dim, model.config.hidden
    ours = {name: state[theirs] for name, theirs in _TOP_NAMES.items()}
    for i in range(model.config.num_layers):
        here, there = f"blocks.{i}.", f"transformer.h.{i}."
        ours |= {here + name: state[there + theirs] for name, theirs in _LAYER_NAMES.items()}
        qkv = state[there + "attn.c_attn.weight"].T.reshape(3, heads, width, hidden)
        ours[here + "attention.qkv_weight"] = qkv.transpose(0, 1)
        bias = state[there + "attn.c_attn.bias"].view(3, heads, width)
        ours[here + "attention.qkv_bias"] = bias.transpose(0, 1)
        ours[here + "attention.out_weight"] = state[there + "attn.c_proj.weight"].view(heads, width, hidden)
        ours[here + "mlp.up_weight"] = state[there + "mlp.c_fc.weight"].T
    model.load_state_dict(ours)
    return model


def hf_config(config: ModelConfig, *, separator: int | None = None):
    """The `transformers.GPT2Config` of the same model: no dropout, tanh GELU, tied head.

    Args:
        config: our sizes.
        separator: token id that ends a document, used as beginning and end of sequence.
    """
    from transformers import GPT2Config

    return GPT2Config(
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
        bos_token_id=separator,
        eos_token_id=separator,
        architectures=["GPT2LMHeadModel"],
        dtype="float32",
    )


def from_hf_config(theirs: dict, *, source: str) -> ModelConfig:
    """Our sizes from the fields of a GPT-2 `config.json`.

    Raises:
        InputError: another family, or a variant of GPT-2 that we do not compute.
    """
    family = theirs.get("model_type")
    if family != "gpt2":
        raise InputError(f"{source} holds a '{family}' model; only gpt2 checkpoints can be loaded here")
    if theirs.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        raise InputError(f"{source} uses the activation '{theirs['activation_function']}'; only gelu_new is supported")
    for switch, value in _COMPUTED.items():
        if theirs.get(switch, value) != value:
            raise InputError(f"{source} sets {switch}={theirs[switch]}; our gpt2 computes only {switch}={value}")
    missing = [key for key in ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions") if key not in theirs]
    if missing:
        raise InputError(f"{source}/config.json lacks {', '.join(missing)}; it is no complete gpt2 configuration")
    for key in ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "n_inner"):
        if type(theirs.get(key)) is not int and (key, theirs.get(key)) != ("n_inner", None):
            raise InputError(f"{source}/config.json has {key}={theirs[key]!r}; use a whole number")
    return ModelConfig(
        num_layers=theirs["n_layer"],
        hidden=theirs["n_embd"],
        num_heads=theirs["n_head"],
        mlp_columns=theirs.get("n_inner") or 4 * theirs["n_embd"],
        vocab_size=theirs["vocab_size"],
        context_length=theirs["n_positions"],
    )


def from_hf(hf_model) -> GPT2:
    """Our GPT-2 with the weights and precision of a `transformers.GPT2LMHeadModel`."""
    source = type(hf_model).__name__
    model = GPT2(from_hf_config(hf_model.config.to_dict(), source=source)).to(next(hf_model.parameters()).dtype)
    return load_hf_state(model, hf_model.state_dict(), source=source)


def save_folder(model: GPT2, folder: Path, *, separator: int | None = None) -> None:
    """Write `config.json` and `model.safetensors`; the caller makes the folder and moves it into place."""
    hf_config(model.config, separator=separator).save_pretrained(folder)
    state = {name: tensor.cpu() for name, tensor in to_hf_state(model).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def _read_object(path: Path) -> dict:
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); save or download it again") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no JSON object; save or download it again")
    return fields


def _weight_files(folder: Path) -> Iterable[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / _INDEX).exists():
        shards = _read_object(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise InputError(f"{folder / _INDEX} does not map weights to files; save or download it again")
        return [folder / shard for shard in sorted(set(shards.values()))]
    raise InputError(f"{folder} has no {WEIGHTS}; give a complete Hugging Face checkpoint folder")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or half-written ({error}); save or download it again") from error
    return state


def load_folder(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> GPT2:
    """Our GPT-2 from a Hugging Face folder on disk, ours or theirs.

    Raises:
        InputError: no such folder, damaged or missing files, another family.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise InputError(f"{folder} is not a checkpoint folder: it has no config.json")
    model = GPT2(from_hf_config(_read_object(config_path), source=str(folder))).to(dtype)
    return load_hf_state(model, _read_weights(folder), source=str(folder))
