"""What is in the files of a checkpoint: its weights, read without running anything, and their identity.

The weights are read here rather than by `transformers`, which would draw missing ones at random, run a conversion
service for pickles and take file names from config.json: what is hashed is what is loaded.
"""

import hashlib
import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from est_analysis.checkpoint_files import read_json, weight_files
from est_analysis.errors import InputError, reason

SAFE, PICKLE = "model.safetensors", "pytorch_model.bin"


def weight_hash(folder: str | Path) -> str:
    """sha256 (hex) over the name, dtype, shape and bytes of every stored tensor, in order of name.

    Path, sharding and file format do not matter: a tensor that the architecture ties to an equal one counts once.

    Raises:
        InputError: the folder has no readable weights.
    """
    return hash_of(read_weights(Path(folder)), read_json(Path(folder) / "config.json"))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every stored tensor by name.

    Raises:
        InputError: no weights, damaged ones, or a pickle that wants more than weights.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder, SAFE, PICKLE):
        read = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
        for name, value in read.items():
            if value.is_quantized or value.layout != torch.strided or (_is_packed(value) and "weight" in name):
                raise InputError(
                    f"weight '{name}' in '{file}' is quantised or packed ({value.dtype}); dequantise first"
                )
        weights |= read
    return weights


def _is_packed(value: Tensor) -> bool:
    return not value.is_floating_point() or value.dtype.itemsize == 1


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"'{file}' is damaged ({reason(error)}); download or save the checkpoint again") from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            wants = f"is a pickle that wants to run '{refused[1]}'"
        else:
            wants = f"is damaged, or a pickle that wants more than weights ({reason(error, 'Unpickler error:')})"
        raise InputError(f"'{file}' {wants}; refused; convert it to safetensors") from error
    except Exception as error:  # a damaged pickle can make the unpickler fail in any way
        raise InputError(f"'{file}' is damaged ({reason(error)}); download or save the checkpoint again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"'{file}' holds more than weights by name; save the model's state_dict alone")
    return content


def hash_of(weights: dict[str, Tensor], config: dict[str, Any]) -> str:
    """`weight_hash` of weights read already; `config` names the architecture, which names the ties."""
    import transformers

    stored = dict(weights)
    architecture = next(iter(config.get("architectures") or ()), "")
    ties = getattr(getattr(transformers, str(architecture), None), "_tied_weights_keys", None)
    ties = ties if isinstance(ties, dict) else {}
    for copy, original in ties.items():
        if copy in stored and original not in stored:
            stored[original] = stored.pop(copy)
    # safetensors keeps one of several tied weights, a pickle all of them.
    for original in sorted(stored.keys() & ties.values()):
        for name in [name for name in stored if name != original and _same(stored[name], stored[original])]:
            del stored[name]
    digest = hashlib.sha256()
    for name in sorted(stored):
        value = stored[name].detach()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
