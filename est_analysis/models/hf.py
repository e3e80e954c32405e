"""Weights to and from Hugging Face: a checkpoint of ours *is* a Hugging Face folder.

The `from_pretrained(folder)` of `transformers` (`Conversion.auto_class`) opens what `save_folder` wrote, and
`load_folder` opens any folder of theirs whose family we have (`families.FAMILIES`); logits agree both ways. Only
safetensors files are read, and no code from a checkpoint ever runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from est_analysis.checkpoint_files import read_json, weight_files
from est_analysis.errors import InputError
from est_analysis.models.config import ModelConfig
from est_analysis.models.conversion import Conversion, SpecialIds
from est_analysis.models.families import FAMILIES, build_model
from est_analysis.models.language_model import LanguageModel

WEIGHTS = "model.safetensors"
_NO_IDS = SpecialIds()


def _conversion(config: ModelConfig) -> Conversion:
    return FAMILIES[config.family].conversion


def to_hf_state(model: LanguageModel) -> dict[str, Tensor]:
    """The weights under Hugging Face's names and in its layout, contiguous, detached."""
    state = _conversion(model.config).to_theirs(model.state_dict(), model.config)
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def load_hf_state(model: LanguageModel, state: Mapping[str, Tensor], *, source: str) -> LanguageModel:
    """Copy Hugging Face weights of the model's family into `model`; `source` names the checkpoint in errors.

    Raises:
        InputError: a weight is missing, extra, or of another shape.
    """
    config, conversion = model.config, _conversion(model.config)
    family = config.family
    state = conversion.cleaned(dict(state), config, source)
    # Only names and shapes are wanted, so nothing is copied.
    expected = conversion.to_theirs({name: w.to("meta") for name, w in model.state_dict().items()}, config)
    for name in expected.keys() - state.keys():
        raise InputError(f"{source} lacks the weight '{name}'; it is incomplete or of another family than {family}")
    for name in state.keys() - expected.keys():
        raise InputError(
            f"{source} has the weight '{name}', which no {family} of this size has; it is of another family"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{source}: '{name}' has shape {tuple(tensor.shape)}, its config.json asks for "
                f"{tuple(expected[name].shape)}; the two files do not belong together"
            )
    model.load_state_dict(conversion.to_ours(state, config))
    return model


def hf_config(config: ModelConfig, *, special: SpecialIds = _NO_IDS):
    """The `transformers` configuration of the same model, without dropout.

    Args:
        config: our sizes.
        special: ids of special tokens, used as beginning and end of sequence and as padding.
    """
    return _conversion(config).to_their_config(config, special)


def from_hf_config(theirs: Mapping[str, Any], *, source: str) -> ModelConfig:
    """Our sizes from the fields of a `config.json`.

    Raises:
        InputError: a family that we do not have, or a variant of one that we do not compute.
    """
    family = theirs.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise InputError(f"{source} holds a '{family}' model; only {known} checkpoints can be loaded here")
    return FAMILIES[family].conversion.to_our_config(theirs, source)


def from_hf(hf_model) -> LanguageModel:
    """Our model with the weights and precision of a `transformers` model of one of our families, with its head."""
    source = type(hf_model).__name__
    model = build_model(from_hf_config(hf_model.config.to_dict(), source=source)).to(next(hf_model.parameters()).dtype)
    return load_hf_state(model, hf_model.state_dict(), source=source)


def save_folder(model: LanguageModel, folder: Path, *, special: SpecialIds = _NO_IDS) -> None:
    """Write `config.json` and `model.safetensors`; the caller makes the folder and moves it into place."""
    hf_config(model.config, special=special).save_pretrained(folder)
    state = {name: tensor.cpu() for name, tensor in to_hf_state(model).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def _read_weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in weight_files(folder, WEIGHTS):
        try:
            with safe_open(path, framework="pt") as file:
                state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or half-written ({error}); save or download it again") from error
    return state


def load_folder(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Our model from a Hugging Face folder on disk, ours or theirs.

    Raises:
        InputError: no such folder, damaged or missing files, a family that we do not have.
    """
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise InputError(f"{folder} is not a checkpoint folder: it has no config.json")
    model = build_model(from_hf_config(read_json(config_path), source=str(folder))).to(dtype)
    return load_hf_state(model, _read_weights(folder), source=str(folder))
