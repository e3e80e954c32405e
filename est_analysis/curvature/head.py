"""A language model cut before its output matrix, so that logits can be made and used a few tokens at a time.

The cut needs no knowledge of the model: `get_output_embeddings()` names the matrix; for one call it is replaced by a
stub that keeps what it is given and returns a recorder, which notes what the model goes on to do with its logits
(Gemma-2's soft cap, Cohere's scale) so that it can be done to a few rows later.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What acts on each logit alone, perhaps with a constant of its column.
_POINTWISE = frozenset(
    ("add", "sub", "mul", "div", "__rsub__", "tanh", "to", "float", "double", "type_as", "contiguous", "clamp")
)
_IN_PLACE = {"add_": Tensor.add, "sub_": Tensor.sub, "mul_": Tensor.mul, "div_": Tensor.div}


_QUESTIONS = frozenset(("__get__", "size", "dim", "is_contiguous", "__len__"))


class _NotPointwise(Exception):
    """A model does with its logits what cannot be done to a few rows later."""


def _unchanged(logits: Tensor) -> Tensor:
    return logits


@dataclass(frozen=True)
class HeadInputs:
    """What decides the logits: `after(hidden weight' + bias)`.

    Attributes:
        hidden: (B, T, D).
        weight: (V, D), or None where `hidden` are the logits already.
        bias: (V,) or None.
        after: a map of single logits.
    """

    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None
    after: Callable[[Tensor], Tensor]

    @property
    def linear(self) -> bool:
        """Whether the logits are what the matrix gives, untouched."""
        return self.weight is not None and self.after is _unchanged

    @property
    def vocabulary(self) -> int:
        """Logits a token."""
        return self.hidden.shape[-1] if self.weight is None else len(self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, V) logits of some rows (N, D) of `hidden`."""
        return self.after(hidden if self.weight is None else F.linear(hidden, self.weight, self.bias))


@dataclass(frozen=True)
class Head:
    """The output matrix of a model.

    Attributes:
        module: the linear map from hidden states to logits, or None: a model that cannot be cut.
        weight: name of its weight among the model's parameters.
        bias: name of its bias, or None.
    """

    module: nn.Module | None
    weight: str | None = None
    bias: str | None = None

    @classmethod
    def of(cls, model: nn.Module) -> "Head":
        """The head of a `transformers` model."""
        find = getattr(model, "get_output_embeddings", lambda: None)
        module = find()
        if not isinstance(module, nn.Linear):
            return cls(None)
        names = {id(p): name for name, p in model.named_parameters()}  # tied parameters under their first name
        bias = None if module.bias is None else names[id(module.bias)]
        return cls(module, names[id(module.weight)], bias)

    def inputs(self, call: Callable[[], Tensor], parameters: dict[str, Tensor]) -> HeadInputs:
        """What the head gets when `call()` computes the model's logits with `parameters`."""
        if self.module is not None:
            logits = None
            with self._withheld() as seen, suppress(_NotPointwise):
                logits = call()
            if len(seen) == 1 and isinstance(logits, _LogitCalls):
                # A frozen head is not among the parameters.
                weight = parameters.get(self.weight, self.module.weight)
                bias = None if self.bias is None else parameters.get(self.bias, self.module.bias)
                after = logits.replay if logits.calls else _unchanged
                return HeadInputs(seen[0], weight, bias, after)
        return HeadInputs(call(), None, None, _unchanged)

    @contextmanager
    def _withheld(self) -> Iterator[list[Tensor]]:
        seen: list[Tensor] = []

        def stub(hidden: Tensor) -> Tensor:
            seen.append(hidden)
            return _LogitCalls.empty(hidden, len(self.module.weight))

        before = vars(self.module).get("forward")
        self.module.forward = stub
        try:
            yield seen
        finally:
            del self.module.forward
            if before is not None:  # other tools wrap modules this way
                self.module.forward = before


class _LogitCalls(Tensor):
    """Stands for logits that were not computed; notes the calls made on them."""

    calls: Sequence[tuple[Callable, tuple, dict]] = ()

    @classmethod
    def empty(cls, hidden: Tensor, vocabulary: int) -> "_LogitCalls":
        """Of the logits' shape and dtype, without their memory."""
        one = torch.empty(1, dtype=hidden.dtype, device=hidden.device)
        return one.expand(*hidden.shape[:-1], vocabulary).as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ in _QUESTIONS:
                return func(*args, **kwargs)
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            own = [value for value in args if isinstance(value, cls)]
            # What differs from row to row would have to be cut like the rows.
            rowwise = any(value.shape[:-1].numel() > 1 for value in tensors if all(value is not one for one in own))
            in_place = func.__name__ in _IN_PLACE and own[:1] and args[0] is own[0]
            if len(own) != 1 or rowwise or not (in_place or func.__name__ in _POINTWISE):
                raise _NotPointwise
            result = own[0] if in_place else own[0].view(own[0].shape).as_subclass(cls)
            result.calls = (*own[0].calls, (_IN_PLACE.get(func.__name__, func), args, kwargs))
            return result

    def replay(self, logits: Tensor) -> Tensor:
        for func, args, kwargs in self.calls:
            logits = func(*(logits if isinstance(value, _LogitCalls) else value for value in args), **kwargs)
        return logits
