"""Which model a cost is of: one by its name, the usual one of a family, or a preset that several families have."""

from dataclasses import dataclass, replace
from typing import Any, get_args

from est_analysis.errors import InputError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A model that was asked for.

    Attributes:
        model: its name.
        family: its family; several have presets of the same name.
        architecture: the `Architecture` that decides its cost.
    """

    model: str
    family: str
    architecture: Any

    @property
    def label(self) -> str:
        """Its name, with the family where the name alone leaves it open."""
        return self.model if len(_homes(self.model)) == 1 else f"{self.model} of {self.family}"


def find_sizes(
    model: str, family: str, *, suited: str = "gpt2", seq_len: int, attention: str, head_sampling: str
) -> Sizes:
    """The published model or preset of ours that was asked for, with what the options change of it.

    Args:
        model: its name; empty for `suited`, or the family's usual one.
        family: of the model; empty for the one that has a model of that name.
        suited: the model that what is costed was made for.
        seq_len: tokens a sequence; 0 for the model's own.
        attention: whether all scores count (`full`) or half of them (`causal`).
        head_sampling: how shared keys and values are sampled.

    Raises:
        InputError: no such model, family or option, or the model is not of that family.
    """
    from est_analysis.models.families import find_family
    from est_analysis.subnet.mask import HeadSampling

    if attention not in ("full", "causal"):
        raise unknown_name("attention", attention, ("full", "causal"))
    if head_sampling not in get_args(HeadSampling):
        raise unknown_name("head sampling", head_sampling, get_args(HeadSampling))
    if seq_len < 0:
        raise InputError(f"seq_len={seq_len} must be at least 1")
    model, family = _chosen(model, family, suited)
    if attention == "causal" and find_family(family).objectives[0] == "masked":
        raise InputError(f"attention=causal: a {family} model sees all of a sequence; use full")
    found = replace(_architecture(model, family, seq_len), attention=attention, head_sampling=head_sampling)
    return Sizes(model=model, family=family, architecture=found)


def _chosen(model: str, family: str, suited: str) -> tuple[str, str]:
    """The names of model and family, each found from the other where it was not given."""
    from est_analysis.models.families import FAMILIES, find_family

    if family:
        find_family(family)
        model = model or (suited if suited in _models(family) else _usual(family))
    else:
        model = model or suited
    homes = _homes(model)
    if family in homes:
        return model, family
    if not homes:
        known = _models(family) if family else {name for each in FAMILIES for name in _models(each)}
        raise unknown_name("model", model, known)
    if family:
        raise InputError(
            f"model '{model}' is not of the family '{family}'; give --family {' or '.join(homes)}, or one of its "
            f"models: {', '.join(sorted(_models(family)))}"
        )
    return model, homes[0]


def _models(family: str) -> set[str]:
    """The presets of `family`, and published models, which begin with its name."""
    from est_analysis.models.families import FAMILIES
    from est_analysis.subnet.cost import PUBLISHED_ARCHITECTURES

    return {*FAMILIES[family].presets, *(name for name in PUBLISHED_ARCHITECTURES if name.split("-")[0] == family)}


def _usual(family: str) -> str:
    """The model that a family's cost is of unless one is named: its first published one, or the last of ours.

    >>> [_usual(family) for family in ("gpt2", "llama", "t5", "bert", "megatron-bert")]
    ['gpt2', 'tinyllama', 't5-v1.1-small', 'bert-base', 'mini']
    """
    from est_analysis.models.families import FAMILIES

    presets = list(FAMILIES[family].presets)
    return next((name for name in presets if _published(name, family)), presets[-1])


def _published(model: str, family: str) -> bool:
    """Whether a model of `family` is one that others published, and not a preset of ours."""
    from est_analysis.subnet.cost import PUBLISHED_ARCHITECTURES

    return model in PUBLISHED_ARCHITECTURES or model.startswith(family)


def _homes(model: str) -> list[str]:
    """The families that have a model of that name."""
    from est_analysis.models.families import FAMILIES

    return [family for family in FAMILIES if model in _models(family)]


def _architecture(model: str, family: str, seq_len: int) -> Any:
    from est_analysis.data.objectives import find_objective
    from est_analysis.models.families import FAMILIES
    from est_analysis.subnet.cost import PUBLISHED_ARCHITECTURES

    preset = FAMILIES[family].presets.get(model)
    if preset is None or (model in PUBLISHED_ARCHITECTURES and preset.objectives[0] == "causal"):
        found = PUBLISHED_ARCHITECTURES[model]
        return replace(found, seq_len=seq_len or found.seq_len)
    if not _published(model, family):  # our own presets are made for bytes: a vocabulary of 256
        preset = replace(preset, vocab_size=256)
    return preset.architecture_on(find_objective(preset.objectives[0]).lengths(seq_len or preset.context_length))
