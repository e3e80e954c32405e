"""Checkpoints: files -> model, tokenizer, kind of loss, identity. Runs nothing that files hold."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from est_analysis.checkpoint_files import read_json
from est_analysis.curvature.locate import Located, quiet
from est_analysis.curvature.loss import LossKind
from est_analysis.curvature.weights import hash_of, read_weights
from est_analysis.errors import InputError, reason, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AUTO_CLASS: dict[LossKind, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
# Of a config what says nothing of what the model computes.
_NO_PART_OF_THE_MODEL = (
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "architectures",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.*", "*.model", "*.tiktoken")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model as its checkpoint has it.

    Attributes:
        model: in evaluation mode, with its class's own default attention and its tied weights tied.
        tokenizer: None where the folder has none.
        loss: what it was trained on.
        located: where it came from.
        weight_hash: see `weights.weight_hash`.
        config_hash: of config.json, but for what says nothing of what the model computes.
    """

    model: nn.Module
    tokenizer: "PreTrainedTokenizerBase | None"
    loss: LossKind
    located: Located
    weight_hash: str
    config_hash: str


def load(
    located: Located,
    *,
    loss: Literal["auto"] | LossKind = "auto",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Loaded:
    """Read a checkpoint, or refuse it if the model would not be exactly the one that was saved.

    Args:
        located: from `locate`.
        loss: kind of loss; `auto` reads it off config.json.
        dtype: of the parameters.
        device: of the parameters.
        trust_remote_code: run the Python code that comes with the checkpoint.

    Raises:
        InputError: unknown or quantised architecture, no such loss, or weights that are missing, damaged or not finite.
    """
    with quiet():
        config = _config(located, trust_remote_code)
        config_hash = _hash_of_config(config)
        kind = _loss_kind(located.name, config, loss)
        weights = read_weights(located.folder)
        model = _build(located.name, config, kind, weights, dtype, trust_remote_code)
        tokenizer = _tokenizer(located, trust_remote_code)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"'{located.name}': weight '{name}' is not finite in {dtype}; give another checkpoint")
    return Loaded(
        model=model.to(device),
        tokenizer=tokenizer,
        loss=kind,
        located=located,
        weight_hash=hash_of(weights, read_json(located.folder / "config.json")),
        config_hash=config_hash,
    )


def _config(located: Located, trust_remote_code: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    name, raw = located.name, read_json(located.folder / "config.json")
    if raw.get("quantization_config") or raw.get("compression_config"):
        raise InputError(f"'{name}' is quantised (config.json says so); dequantise first, or give the original")
    known = str(raw.get("model_type")) in CONFIG_MAPPING
    if not trust_remote_code and (raw.get("auto_map") or not known):
        raise InputError(
            f"'{name}' is of a type that needs its own code ({raw.get('model_type', 'no model_type')}); "
            "pass --trust-remote-code if you trust it"
        )
    try:
        config = AutoConfig.from_pretrained(located.folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # every architecture checks its fields in its own way
        raise InputError(f"config.json of '{name}' cannot be used ({reason(error)}); correct it") from error
    # Where a config may name a kernel on the hub, which would be downloaded and run, and another file of weights.
    config._attn_implementation = config.transformers_weights = None
    return config


def _hash_of_config(config: Any) -> str:
    """The same weights under another epsilon, window or activation are another model."""
    told = {key: value for key, value in config.to_dict().items() if key not in _NO_PART_OF_THE_MODEL}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _loss_kind(name: str, config: Any, asked: Literal["auto"] | LossKind) -> LossKind:
    from transformers.models.auto import modeling_auto as auto

    types: dict[LossKind, Any] = {
        "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "masked": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "seq2seq": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    own_code = getattr(config, "auto_map", None) or {}
    possible = [kind for kind in types if config.model_type in types[kind] or _AUTO_CLASS[kind] in own_code]
    if asked != "auto" and asked not in types:
        raise unknown_name("loss", asked, ("auto", *get_args(LossKind)))
    kind = asked if asked != "auto" else _kind_trained(config) or next(iter(possible), None)
    if kind is None:
        raise InputError(f"model with no loss: '{name}' ({config.model_type}); use --loss causal|masked|seq2seq")
    if kind not in possible:
        fix = f"use --loss {'|'.join(possible)}" if possible else "give a language model"
        raise InputError(f"--loss {kind}: no such class for '{name}' ({config.model_type}); {fix}")
    return kind


def _kind_trained(config: Any) -> LossKind | None:
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    for architecture in config.architectures or ():
        if architecture.endswith(("ForMaskedLM", "ForPreTraining")):
            return "masked"
        if architecture.endswith(("ForCausalLM", "LMHeadModel")):
            return "causal"
    return None


def _build(
    name: str, config: Any, kind: LossKind, weights: dict[str, Tensor], dtype: torch.dtype, trust_remote_code: bool
) -> nn.Module:
    import transformers

    auto_class = getattr(transformers, _AUTO_CLASS[kind])
    _refuse_endless_layers(name, config, len(weights))
    try:
        with torch.device("meta"):  # sizes without memory
            sizes = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config may describe a model that cannot be built, in any way
        raise _cannot_build(name, error) from error
    _refuse_far_larger(name, sizes, weights)
    model_class = type(sizes)
    try:
        # Without a folder there is nothing that it could read but the weights given.
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            dtype=dtype,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
    except Exception as error:
        raise _cannot_build(name, error) from error
    for weight, stored, expected in sorted(report["mismatched_keys"]):
        shapes = f"{tuple(stored)} where config.json wants {tuple(expected)}"
        raise InputError(f"'{name}': weight '{weight}' has the shape {shapes}; its config.json is another model's")
    # transformers draws missing weights at random and only logs it: the curvature would be that of another model.
    for weight in sorted(report["missing_keys"]):
        raise InputError(f"'{name}' lacks the weight '{weight}'; it is incomplete, or use the --loss it was trained on")
    _refuse_more_layers(name, model, report["unexpected_keys"])
    return model.eval()


def _cannot_build(name: str, error: Exception) -> InputError:
    return InputError(f"cannot build '{name}' ({reason(error)}); its config.json or its weights are wrong")


def _refuse_endless_layers(name: str, config: Any, num_weights: int) -> None:
    """Building layers takes time even without memory; shared ones (ALBERT) are few."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > 100 + 10 * num_weights:
        raise InputError(f"'{name}': config.json has {layers:,} layers, the file {num_weights} weights; repair it")


def _refuse_far_larger(name: str, sizes: nn.Module, weights: dict[str, Tensor]) -> None:
    """Weights that a file lacks are made before they can be reported: memory that a wrong config.json may ask for."""
    wanted, stored = (sum(one.numel() for one in held.values()) for held in (sizes.state_dict(), weights))
    if wanted > 10_000_000 + 4 * stored:
        raise InputError(
            f"'{name}': config.json wants {wanted:,} numbers, the file has {stored:,}; it is another model's"
        )


def _refuse_more_layers(name: str, model: nn.Module, unexpected: set[str]) -> None:
    """Weights of another task's head are no part of this model, but another layer of the same kind would be."""
    kinds = {re.sub(r"\d+", "#", own) for own in model.state_dict()}
    for weight in sorted(unexpected):
        if re.search(r"\d", weight) and re.sub(r"\d+", "#", weight) in kinds:
            raise InputError(
                f"'{name}': no place for weight '{weight}'; its config.json has fewer layers than the file"
            )


def _tokenizer(located: Located, trust_remote_code: bool) -> "PreTrainedTokenizerBase | None":
    from transformers import AutoTokenizer

    # Asked for one that is not there, transformers makes up an empty one.
    if not any(any(located.folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(located.folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # it raises nearly anything for a broken one
        why = reason(error)
        raise InputError(
            f"cannot load the tokenizer of '{located.name}' ({why}); repair or delete its files"
        ) from error
