"""A tensor that carries K directional derivatives and their summed second derivatives through any model.

Along directions v_1..v_K a quantity x(theta) has the Taylor coefficients

    a = x,    b_k = x'[v_k],    c_g = sum over the probes k of group g of x''[v_k, v_k],

1 + K + G numbers an element, kept in one stack so that a linear operator is one call. The second derivatives are summed
("collapsed") as they arise, which is what makes K probes cost little more than K forward passes' worth of products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError

_AT_ONCE = 1 << 18  # signs drawn in one go: enough to hide what a call costs, little enough to stay in cache


class UnsupportedOperator(InputError):
    """An operator of the model has no Taylor rule."""


@dataclass(frozen=True)
class Layout:
    """How a stack is divided.

    Attributes:
        probes: K.
        groups: G, the number of sums of second derivatives; probe k belongs to group k // (K / G).
    """

    probes: int
    groups: int

    @property
    def size(self) -> int:
        """Coefficients an element: 1 + K + G."""
        return 1 + self.probes + self.groups

    def group(self, probe: int) -> int:
        """Where in a stack the second derivative along `probe` is summed."""
        return 1 + self.probes + probe // (self.probes // self.groups)


class Jet(Tensor):
    """The Taylor coefficients of one tensor; models see an ordinary tensor of its shape and dtype.

    Attributes:
        stack: (1 + K + G, *shape): a, then b_1..b_K, then c_1..c_G. For a parameter it is made on demand.
        coefficients: K and G.
    """

    coefficients: Layout

    @staticmethod
    def __new__(cls, stack: Tensor, layout: Layout) -> Jet:
        """The jet of a stack (1 + K + G, *shape)."""
        return cls._wrap(stack[0], stack, layout)

    @classmethod
    def parameter(cls, value: Tensor, name: str, probes: Probes, layout: Layout) -> Jet:
        """The parameter `name`: (theta, v_1..v_K, 0), the signs v drawn where and when they are used.

        Half precision is how a parameter is stored, not computed with: to the model it is float32.
        """
        value = value.contiguous()
        dtype = torch.float32 if value.dtype in (torch.bfloat16, torch.float16) else value.dtype
        jet = cls._wrap(value, None, layout, dtype)
        jet._root = _Root(name, probes, value.untyped_storage().data_ptr(), value.storage_offset(), dtype)
        return jet

    @classmethod
    def _wrap(cls, stored: Tensor, stack: Tensor | None, layout: Layout, dtype: torch.dtype | None = None) -> Jet:
        jet = Tensor._make_wrapper_subclass(
            cls, stored.shape, strides=stored.stride(), dtype=dtype or stored.dtype, device=stored.device
        )
        jet._stored, jet._stack, jet.coefficients, jet._root = stored, stack, layout, None
        return jet

    @property
    def value(self) -> Tensor:
        """The tensor itself, a."""
        return self._stored.to(self.dtype)

    @property
    def stored(self) -> Tensor:
        """The tensor itself as it lies in memory, for a parameter perhaps in half precision."""
        return self._stored

    @property
    def is_parameter(self) -> bool:
        """Whether this is a parameter or a view of one, whose derivatives are signs that nobody has stored."""
        return self._root is not None

    @property
    def stack(self) -> Tensor:
        """All coefficients."""
        if self._stack is None:
            stack = self._stored.new_zeros(self.coefficients.size, *self.shape, dtype=self.dtype)
            stack[0] = self._stored
            stack[1 : 1 + self.coefficients.probes] = self._root.signs(self._stored)
            self._stack = stack
        return self._stack

    def view_of_parameter(self, view: Tensor) -> Jet | None:
        """A view of this parameter as a parameter too, or None if `view` is a copy."""
        if not self.is_parameter or view.untyped_storage().data_ptr() != self._root.storage:
            return None
        jet = Jet._wrap(view, None, self.coefficients, self.dtype)
        jet._root = self._root
        return jet

    def directions(self) -> Iterator[Tensor]:
        """b_1..b_K, each of the tensor's shape; a large parameter's signs exist for one probe at a time."""
        layout = self.coefficients
        if self._stack is not None:
            yield from self._stack[1 : 1 + layout.probes]
        elif self.numel() * layout.probes <= _AT_ONCE:
            yield from self._root.signs(self._stored)
        else:
            yield from (self._root.signs(self._stored, probe)[0] for probe in range(layout.probes))

    def assign(self, stack: Tensor) -> Jet:
        """Overwrite in place; views of this tensor see it."""
        self.stack.copy_(stack)
        self._root = None
        self._stored = self._stack[0]
        return self

    def __repr__(self, **_) -> str:
        return f"Jet(shape={tuple(self.shape)}, probes={self.coefficients.probes})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        rule = FUNCTIONS.get(func)
        if rule is not None:
            return rule(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _apply(func, args, kwargs or {})


class _Root:
    """The parameter that a jet is a view of: where in it an element lies is what its sign depends on."""

    def __init__(self, name: str, probes: Probes, storage: int, offset: int, dtype: torch.dtype):
        self.name, self.probes, self.storage, self.offset, self.dtype = name, probes, storage, offset, dtype

    def signs(self, view: Tensor, probe: int | None = None) -> Tensor:
        """(K, *shape of `view`), or (1, *shape) for one probe."""
        probes = self.probes if probe is None else self.probes[probe]
        first = view.storage_offset() - self.offset
        span = 1 + sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
        like = view.new_empty(0, dtype=self.dtype)
        signs = probes.signs(self.name, first, first + span if view.numel() else first, like)
        shape, strides = (len(probes), *view.shape), (signs.stride(0), *view.stride())
        return signs.as_strided(shape, strides, signs.storage_offset())


# Rules by ATen overload, called as rule(func, *args, **kwargs); by Python function, called as rule(*args, **kwargs).
RULES: dict[torch._ops.OpOverload, Callable] = {}
FUNCTIONS: dict[Callable, Callable] = {}


def rule(*overloads: torch._ops.OpOverload) -> Callable:
    """Register the rule of ATen operators."""

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(overloads, function))
        return function

    return register


def _apply(func, args, kwargs):
    found = RULES.get(func)
    if found is not None:
        return found(func, *args, **kwargs)
    if (functional := _functional(func)) is not None:
        target = args[0]
        if not isinstance(target, Jet):
            raise UnsupportedOperator(
                f"'{func}' writes what depends on parameters into a tensor that did not; use --engine hvp"
            )
        result = _apply(functional, args, kwargs)
        return target.assign(result.stack if isinstance(result, Jet) else stack_of(result, target.coefficients))
    if func._can_decompose():  # down here torch no longer takes apart by itself what is made of other operators
        return func.decompose(*args, **kwargs)
    if func in decomposition_table:
        return decomposition_table[func](*args, **kwargs)
    raise UnsupportedOperator(f"no Taylor rule for the operator '{func}'; use --engine hvp")


def _functional(func) -> torch._ops.OpOverload | None:
    """The out-of-place form of an in-place operator."""
    name = func.overloadpacket.__name__
    if not name.endswith("_") or name.startswith("__"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    return getattr(packet, func._overloadname, None)


def layout_of(*values) -> Layout:
    """The layout of the jets among `values`."""
    return next(value.coefficients for value in values if isinstance(value, Jet))


def value_of(x):
    """The tensor without its derivatives; anything else as it is."""
    return x.value if isinstance(x, Jet) else x


def stack_of(x: Tensor, layout: Layout) -> Tensor:
    """All coefficients of a jet, or of a constant: (x, 0, ..)."""
    if isinstance(x, Jet):
        return x.stack
    stack = x.new_zeros(layout.size, *x.shape)
    stack[0] = x
    return stack


def aligned(stack: Tensor, ndim: int) -> Tensor:
    """The stack of a tensor, as of one with `ndim` axes, so that it broadcasts."""
    missing = ndim - (stack.ndim - 1)
    return stack.reshape(stack.shape[0], *(1,) * missing, *stack.shape[1:]) if missing else stack
