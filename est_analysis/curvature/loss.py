"""The loss whose curvature is measured: mean token cross entropy of a causal language model, no dropout."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from est_analysis.errors import InputError

Parameters = dict[str, Tensor]


def load_causal_model(folder: str | Path) -> nn.Module:
    """A causal language model from a Hugging Face folder, in evaluation mode and float32, without remote code.

    Its attention is the plain one: the fused kernels have no second derivative.

    Raises:
        InputError: the folder cannot be loaded.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot load a causal model from {folder}: {str(error).splitlines()[0]}") from error
    # transformers draws missing weights at random and only logs it: the trace would be that of another model.
    for name in sorted(report["missing_keys"]):
        raise InputError(f"{folder} lacks the weight '{name}'; it is incomplete or its config.json is another model's")
    return model.eval()


def token_loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Callable[[Parameters], Tensor]:
    """The mean token loss on one batch as a function of the parameters; tied weights count as one parameter.

    Args:
        model: a causal language model that returns logits.
        tokens: (B, T) inputs.
        labels: (B, T) targets, already shifted; -100 is ignored.
    """

    def loss(parameters: Parameters) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (tokens,), {"use_cache": False}, tie_weights=True).logits
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return loss
