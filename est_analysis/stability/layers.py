"""The residual layers of any model, and one of them bypassed (arXiv 2402.05913: block l replaced by the identity).

No family is named: one forward pass shows which members of an `nn.ModuleList` take hidden states and hand on a tensor
of the same shape, each to the next.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from est_analysis.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ResidualLayer:
    """One layer: one call of one module.

    Attributes:
        name: the list's name in the model and the place in it, `h.3`, `encoder.3`; of a module that runs several times
            (ALBERT) also which time, `albert_layer_groups.0:3`.
        stack: the name of the list: layers of one stack follow each other.
        module: the block.
        call: which of its calls in a forward pass is meant, from 0.
        calls: how many there are.
        output: which leaf of the block's output holds the hidden states.
    """

    name: str
    stack: str
    module: nn.Module
    call: int
    calls: int
    output: int


@dataclass
class _Call:
    """What one call of a member of a list was given, and its outputs; None in place of tensors of another shape."""

    member: str
    module: nn.Module
    hidden: Tensor | None
    leaves: list[Tensor | None] = field(default_factory=list)


def residual_layers(model: nn.Module, run: Callable[[], object]) -> tuple[ResidualLayer, ...]:
    """The layers that `run` runs, in the order in which it does.

    A stack is an outermost `nn.ModuleList` whose members each map hidden states to hidden states of the same shape, the
    output of one being the input of the next.

    Args:
        model: any module.
        run: computes one forward pass of it; a few tokens will do.

    Raises:
        InputError: fewer than two layers, or blocks in whose output the hidden states cannot be told.
    """
    name = type(model).__name__
    stacks: dict[str, tuple[list[_Call], int]] = {}
    for path, calls in _recorded(model, run).items():
        if any(path.startswith(f"{outer}.") for outer in stacks):
            continue
        output = _hidden_output(calls)
        if output is not None:
            stacks[path] = calls, output
    labels = dict(zip(stacks, _short(list(stacks)), strict=True))
    found = [layer for path, (calls, output) in stacks.items() for layer in _layers(labels[path], calls, output)]
    if not found:
        raise InputError(
            f"no residual layers in {name}: no list of blocks that pass hidden states on; give another model"
        )
    if len(found) == 1:
        raise InputError(f"{name} has one residual layer ({found[0].name}); leaving one out takes at least 2")
    return tuple(found)


@contextmanager
def bypass(layer: ResidualLayer) -> Iterator[None]:
    """Within the block, `layer` hands its input on as its output; everything is as before afterwards.

    The block still runs, for what it returns beside the hidden states (T5's first block makes all position biases).
    """
    turns, kept = count(), []

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if next(turns) % layer.calls == layer.call:
            kept.append(_hidden_input(module, args, kwargs).clone())  # the block may change it in place

    def after(module: nn.Module, args: tuple, output: Any) -> Any:
        if not kept:
            return None
        hidden, (leaves, structure) = kept.pop(), tree_flatten(output)
        if leaves[layer.output].shape != hidden.shape:
            raise InputError(f"{type(module).__name__} ('{layer.name}') changes its shape; it cannot be bypassed")
        leaves[layer.output] = hidden.to(leaves[layer.output].dtype)
        return tree_unflatten(leaves, structure)

    with _hooks((layer.module, before, after)):
        yield


def _recorded(model: nn.Module, run: Callable[[], object]) -> dict[str, list[_Call]]:
    """The calls of the members of each list that has any, a list before those inside its members."""
    made: dict[str, list[_Call]] = {}
    hooks = [
        (module, *_recorder(made.setdefault(path, []), member))
        for path, modules in model.named_modules()
        if isinstance(modules, nn.ModuleList)
        for member, module in modules.named_children()
    ]

    def forget(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        for calls in made.values():
            calls.clear()

    # Should `run` need a second attempt, the last forward pass counts.
    with torch.no_grad(), _hooks((model, forget, lambda module, args, output: None), *hooks):
        run()
    return {path: calls for path, calls in made.items() if calls}


def _recorder(calls: list[_Call], member: str) -> tuple[Callable, Callable]:
    open_calls: list[_Call] = []

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = _hidden_input(module, args, kwargs)
        open_calls.append(_Call(member, module, None if hidden is None else hidden.clone()))
        calls.append(open_calls[-1])

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        call = open_calls.pop()
        shape = None if call.hidden is None else call.hidden.shape
        leaves = tree_leaves(output)
        call.leaves = [leaf.clone() if isinstance(leaf, Tensor) and leaf.shape == shape else None for leaf in leaves]

    return before, after


@contextmanager
def _hooks(*wanted: tuple[nn.Module, Callable, Callable]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, before, after in wanted:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield


def _hidden_input(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The first table of real numbers among a block's arguments, in the order in which its signature has them."""
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    tables = (leaf for leaf in tree_leaves(list(given.values())) if isinstance(leaf, Tensor) and leaf.ndim > 1)
    return next((table for table in tables if table.is_floating_point()), None)


def _hidden_output(calls: Sequence[_Call]) -> int | None:
    """Which leaf of the outputs holds the hidden states; None if this is no stack of layers.

    Raises:
        InputError: it is one, and several could.
    """
    possible = set.intersection(*({i for i, leaf in enumerate(one.leaves) if leaf is not None} for one in calls))
    if len(calls) > 1:
        # Some of the pairs, since a model may scale what goes from one to the next (RWKV, every sixth time).
        linked = {i for i in possible for one, after in pairwise(calls) if _same(one.leaves[i], after.hidden)}
    else:
        linked = possible if any(calls[0].module.children()) else set()  # a single map of a head is no block
    if len(linked) > 1:
        block = type(calls[0].module).__name__
        raise InputError(
            f"{block} returns {len(linked)} tensors of the shape of its hidden states, and which of them are these "
            "cannot be told; give another model"
        )
    return next(iter(linked), None)


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other.to(one.dtype))


def _layers(stack: str, calls: Sequence[_Call], output: int) -> Iterator[ResidualLayer]:
    for number, one in enumerate(calls):
        same = [i for i, other in enumerate(calls) if other.module is one.module]
        time = f":{same.index(number)}" if len(same) > 1 else ""
        yield ResidualLayer(
            name=f"{stack}.{one.member}{time}",
            stack=stack,
            module=one.module,
            call=same.index(number),
            calls=len(same),
            output=output,
        )


def _short(paths: list[str]) -> list[str]:
    """What tells the paths of lists apart; of a single one its last name.

    >>> _short(["transformer.h"]), _short(["model.encoder.layers", "model.decoder.layers"])
    (['h'], ['encoder', 'decoder'])
    """
    parts = [path.split(".") for path in paths]
    if len(parts) == 1:
        return [parts[0][-1]]
    while len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    while parts and min(map(len, parts)) > 1 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return [".".join(part) for part in parts]
