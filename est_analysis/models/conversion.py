"""What a family says to become a Hugging Face checkpoint and back, and the checks that all of them share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from est_analysis.errors import InputError
from est_analysis.models.config import ModelConfig

State = dict[str, Tensor]
_NONE = torch.empty(0)


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Token ids that a checkpoint's configuration names, None where there is none.

    Attributes:
        end: ends a document, and begins a sequence.
        pad: fills up shorter sequences; what a decoder starts with.
        eos: ends inputs and targets of a denoising objective; often, but not always, the same as `end`.
    """

    end: int | None = None
    pad: int | None = None
    eos: int | None = None


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The four maps of a family, and what its checkpoints may hold besides.

    Attributes:
        to_theirs: (our weights, our sizes) -> weights under their names and in their layout.
        to_ours: (their weights, our sizes) -> our weights; the inverse.
        to_their_config: (our sizes, special token ids) -> a `transformers` configuration.
        to_our_config: (fields of `config.json`, name for errors) -> our sizes; refuses what we do not compute.
        auto_class: the class of `transformers` that opens our checkpoints, such as `AutoModelForCausalLM`.
        base_prefix: prefix of the weights that a checkpoint of the headless model lacks.
        head_prefix: prefix of those that it does not have.
        renamed: older names of weights -> today's.
        tied: name of a head's weight -> that of the embedding it is, where it is ignored.
        ignored: (name of a weight, our sizes) -> whether it is none of the model's own: a buffer, a tied head.
    """

    to_theirs: Callable[[State, Any], State]
    to_ours: Callable[[State, Any], State]
    to_their_config: Callable[[Any, SpecialIds], Any]
    to_our_config: Callable[[Mapping[str, Any], str], ModelConfig]
    auto_class: str
    base_prefix: str
    head_prefix: str
    renamed: Callable[[str], str] = lambda name: name
    ignored: Callable[[str, Any], bool]
    tied: Mapping[str, str] = field(default_factory=dict)

    def cleaned(self, state: State, config: ModelConfig, source: str) -> State:
        """Their weights under full names, without those that are none of the model's own.

        Raises:
            InputError: a tied head is not the embedding; `transformers` would use it even so.
        """
        prefixes = (self.base_prefix, self.head_prefix)
        today = {self.renamed(name): weight for name, weight in state.items()}
        named = {(name if name.startswith(prefixes) else self.base_prefix + name): w for name, w in today.items()}
        for head, embedding in self.tied.items():
            theirs = named.get(head) if self.ignored(head, config) else None
            if theirs is not None and not torch.equal(theirs, named.get(embedding, _NONE)):
                raise InputError(
                    f"{source}: '{head}' is not '{embedding}', to which its config.json ties it; a head of its own is "
                    "not computed here"
                )
        return {name: weight for name, weight in named.items() if not self.ignored(name, config)}


def require_computed(fields: Mapping[str, Any], computed: Mapping[str, Any], *, family: str, source: str) -> None:
    """Refuse a configuration that sets a switch of `computed` to anything but its value there."""
    for switch, value in computed.items():
        if fields.get(switch, value) != value:
            raise InputError(f"{source} sets {switch}={fields[switch]}; our {family} computes only {switch}={value}")


def require_whole_numbers(
    fields: Mapping[str, Any], required: Iterable[str], optional: Iterable[str] = (), *, family: str, source: str
) -> None:
    """Refuse a configuration in which a size is missing (an optional one may be, or be null) or no whole number."""
    missing = [key for key in required if key not in fields]
    if missing:
        raise InputError(f"{source}/config.json lacks {', '.join(missing)}; it is no complete {family} configuration")
    for key in (*required, *(key for key in optional if fields.get(key) is not None)):
        if type(fields[key]) is not int:
            raise InputError(f"{source}/config.json has {key}={fields[key]!r}; use a whole number")


def read_number(fields: Mapping[str, Any], key: str, default: float, *, source: str) -> float:
    """The number under `key`; `default` where it is missing or null."""
    value = default if fields.get(key) is None else fields[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{source}/config.json has {key}={value!r}; use a number")
    return float(value)
