"""What a family says to become a Hugging Face checkpoint and back, and the checks that all of them share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from est_analysis.errors import InputError
from est_analysis.models.config import ModelConfig

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The four maps of a family, and what its checkpoints may hold besides.

    Attributes:
        to_theirs: (our weights, our sizes) -> weights under their names and in their layout.
        to_ours: (their weights, our sizes) -> our weights; the inverse.
        to_their_config: (our sizes, id of the token that ends a document or None) -> a `transformers` configuration.
        to_our_config: (fields of `config.json`, name for errors) -> our sizes; refuses what we do not compute.
        base_prefix: prefix of the weights that a checkpoint of the headless model lacks.
        ignored: (name of a weight, our sizes) -> whether it is none of the model's own: a buffer, a tied head.
    """

    to_theirs: Callable[[State, Any], State]
    to_ours: Callable[[State, Any], State]
    to_their_config: Callable[[Any, int | None], Any]
    to_our_config: Callable[[Mapping[str, Any], str], ModelConfig]
    base_prefix: str
    ignored: Callable[[str, Any], bool]

    def cleaned(self, state: State, config: ModelConfig) -> State:
        """Their weights under full names, without those that are none of the model's own."""
        prefixes = (self.base_prefix, "lm_head.")
        named = {(name if name.startswith(prefixes) else self.base_prefix + name): w for name, w in state.items()}
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
