"""The model families, one line each: what builds it and how it goes to and from Hugging Face.

A new family is a configuration and its presets in `config`, a model, a conversion and a line here; everything else
(runs, checkpoints, commands, contract tests) asks this registry.
"""

from dataclasses import dataclass

from est_analysis.errors import unknown_name
from est_analysis.models import hf_gpt2, hf_llama
from est_analysis.models.config import ModelConfig
from est_analysis.models.conversion import Conversion
from est_analysis.models.gpt2 import GPT2
from est_analysis.models.language_model import LanguageModel
from est_analysis.models.llama import Llama


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models; its presets are `config.PRESETS[name]`.

    Attributes:
        model: the class, built from the family's configuration.
        conversion: to and from Hugging Face.
    """

    model: type[LanguageModel]
    conversion: Conversion


# The keys are Hugging Face's `model_type`.
FAMILIES: dict[str, Family] = {
    "gpt2": Family(model=GPT2, conversion=hf_gpt2.CONVERSION),
    "llama": Family(model=Llama, conversion=hf_llama.CONVERSION),
}


def find_family(name: str) -> Family:
    """The family called `name`.

    Raises:
        InputError: no such family; the message lists those there are.
    """
    if name not in FAMILIES:
        raise unknown_name("family", name, FAMILIES)
    return FAMILIES[name]


def build_model(config: ModelConfig) -> LanguageModel:
    """A model of the sizes and family of `config`, not initialised."""
    return find_family(config.family).model(config)
