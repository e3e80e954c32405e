"""Training methods, one file each. A new method is a new file and a line in `METHODS`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal, get_args, get_origin

from est_analysis.errors import InputError, unknown_name
from est_analysis.methods.dropout import Dropout
from est_analysis.methods.est import EST
from est_analysis.methods.full import Full
from est_analysis.methods.gradual_stacking import GradualStacking
from est_analysis.methods.layer_dropout import LayerDropout
from est_analysis.methods.method import Enlargement, Growth, Method
from est_analysis.methods.msg import MSG
from est_analysis.methods.pld import PLD
from est_analysis.methods.progressive_stacking import ProgressiveStacking
from est_analysis.methods.raptr import RaPTr
from est_analysis.methods.raptr_reversed import RaPTrReversed
from est_analysis.methods.short import Short
from est_analysis.methods.staged import Staged
from est_analysis.methods.stochastic_depth import StochasticDepth
from est_analysis.methods.structured_dropout import StructuredDropout
from est_analysis.subnet.mask import StackShape
from est_analysis.subnet.schedule import find_schedule

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "short": Short,
    "est": EST,
    "raptr": RaPTr,
    "raptr_reversed": RaPTrReversed,
    "stochastic_depth": StochasticDepth,
    "layer_dropout": LayerDropout,
    "pld": PLD,
    "gradual_stacking": GradualStacking,
    "progressive_stacking": ProgressiveStacking,
    "msg": MSG,
    "staged": Staged,
    "structured_dropout": StructuredDropout,
    "dropout": Dropout,
}
Option = str | float | bool | None

__all__ = ["METHODS", "Enlargement", "Growth", "Method", "Option", "build_method", "find_method", "method_options"]


def find_method(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        InputError: no such method; the message lists those there are.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def method_options(name: str) -> dict[str, Option]:
    """The options of the method called `name`, the fields that it adds to `Method`, with their defaults.

    >>> method_options("pld")
    {'theta': None, 'gamma_steps': 100.0, 'deepspeed_compat': False}
    """
    common = {field.name for field in fields(Method)}
    return {field.name: field.default for field in fields(find_method(name)) if field.name not in common}


def build_method(
    name: str,
    *,
    shape: StackShape,
    total_steps: int,
    seed: int,
    schedule: str | None = None,
    options: Mapping[str, Option] | None = None,
) -> Method:
    """The method called `name`, with its schedule stretched to `total_steps` and checked against `shape`.

    Args:
        name: a key of `METHODS`.
        shape: the stack to sample from.
        total_steps: steps of the run.
        seed: seed of the run.
        schedule: name of a schedule; the method's own published one unless given.
        options: values for the method's own fields (`method_options`).

    Raises:
        InputError: unknown names, or rates or options that do not fit.
    """
    kind, known = find_method(name), method_options(name)
    words = {field.name: get_args(field.type) for field in fields(kind) if get_origin(field.type) is Literal}
    chosen = dict(options or {})
    for option in chosen:
        if option not in known:
            there = f"its options are {', '.join(known)}" if known else "it has none"
            raise InputError(f"unknown option '{option}' of method {name}; {there}")
        if isinstance(known[option], bool) and not isinstance(chosen[option], bool):
            raise InputError(f"{option}={chosen[option]!r} must be true or false")
        if option in words and chosen[option] not in words[option]:
            raise unknown_name(option.replace("_", " "), str(chosen[option]), words[option])
    plan = find_schedule(schedule or kind.default_schedule).rescaled(total_steps)
    try:
        return kind(shape=shape, schedule=plan, seed=seed, **chosen).check()
    except InputError as error:
        if schedule:
            raise
        raise InputError(f"{error} (on {name}'s own schedule, '{kind.default_schedule}')") from error
