"""The loss whose curvature is measured: mean cross entropy over the target tokens, in evaluation mode.

A batch is a mapping of the model's keyword inputs, as `transformers` names them, and either `labels` in its convention
(for a causal model the inputs again; position t predicts t + 1) or `targets`, already aligned with the logits. -100
marks what is no target. The mean runs over targets, never over means of sequences.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from est_analysis.curvature.head import Head, HeadInputs
from est_analysis.errors import InputError

Parameters = dict[str, Tensor]
Batch = Mapping[str, Tensor]
LossKind = Literal["causal", "masked", "seq2seq"]

IGNORED = -100
_CHUNK = 1 << 24  # logits held at once where no graph needs them all: 64 MiB in float32


class Objective(Protocol):
    """A loss as a function of parameters and batch: all that an engine needs to know.

    Attributes:
        parameters: trained tensors by name, detached, tied ones once.
    """

    parameters: Parameters

    def loss(self, parameters: Parameters, batch: Any) -> Tensor:
        """The loss of `batch`: a scalar, differentiable in `parameters`."""

    def weight(self, batch: Any) -> int:
        """How many targets the loss of `batch` is the mean of."""


class CallableObjective:
    """Any loss of any module: `function(model, batch)` gives the mean over `weight(batch)` targets."""

    def __init__(
        self,
        model: nn.Module,
        function: Callable[[nn.Module, Any], Tensor],
        weight: Callable[[Any], int] = lambda batch: 1,
    ):
        """The loss `function(model, batch)`; with parameters swapped for others, the model itself stays as it is."""
        self._module = _Bound(model, function)
        self._weight = weight
        self.parameters = _parameters(model)

    def loss(self, parameters: Parameters, batch: Any) -> Tensor:
        """The loss of `batch`: a scalar, differentiable in `parameters`."""
        named = {f"model.{name}": value for name, value in parameters.items()}
        with _evaluating(self._module):
            return torch.func.functional_call(self._module, named, (batch,))

    def weight(self, batch: Any) -> int:
        """How many targets the loss of `batch` is the mean of."""
        return self._weight(batch)


class _Bound(nn.Module):
    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Any], Tensor]):
        super().__init__()
        self.model = model
        self.function = function
        self.training = model.training

    def forward(self, batch: Any) -> Tensor:
        return self.function(self.model, batch)


@dataclass(frozen=True, kw_only=True)
class TokenStates:
    """A batch cut before the output matrix, target by target in row-major order of the batch.

    Attributes:
        hidden: (N, D) final hidden states; of a model that cannot be cut, its logits.
        targets: (N,).
        vocabulary: logits that a row becomes.
        losses: (n, D) and (n,), any rows of states and their targets, to (n,) losses.
    """

    hidden: Tensor
    targets: Tensor
    vocabulary: int
    losses: Callable[[Tensor, Tensor], Tensor]


class LanguageModelObjective:
    """Mean token cross entropy of a `transformers` model; holds the model, changes nothing in it.

    Attributes:
        model: any model whose output has `logits`.
        kind: how `labels` become targets.
        parameters: trained tensors by name, detached, tied ones once.
        head: the output matrix, where the loss can be cut.
    """

    def __init__(self, model: nn.Module, kind: LossKind):
        """The token loss of `model`.

        Raises:
            InputError: the model has no parameters that could vary.
        """
        self.model = model
        self.kind = kind
        self.parameters = _parameters(model)
        self._dtype = next(iter(self.parameters.values())).dtype
        self.head = Head.of(model)
        self._options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    @property
    def num_parameters(self) -> int:
        """How many numbers the loss is a function of: the order of the Hessian."""
        return sum(p.numel() for p in self.parameters.values())

    def loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Mean loss over the targets of `batch`, a scalar differentiable in `parameters`."""
        return self.token_losses(parameters, batch).mean()

    def weight(self, batch: Batch) -> int:
        """Number of targets in `batch`."""
        return int((self.targets(batch) != IGNORED).sum())

    def token_losses(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Loss of each target of `batch`, (targets,), in row-major order of the batch.

        Raises:
            InputError: the batch has no target.
        """
        states = self.token_states(parameters, batch)
        return states.losses(states.hidden, states.targets)

    def token_states(self, parameters: Parameters, batch: Batch) -> TokenStates:
        """What the output matrix reads at each target of `batch`, and how losses are made of that.

        Raises:
            InputError: the batch has no target.
        """
        targets = self.targets(batch)
        kept = targets != IGNORED
        head = self._head_inputs(parameters, batch)

        def losses(hidden: Tensor, targets: Tensor) -> Tensor:
            with _twice_differentiable(self._dtype):
                return head_cross_entropy(hidden, head, targets)

        return TokenStates(
            hidden=head.hidden[kept], targets=targets[kept], vocabulary=head.vocabulary, losses=losses
        )  # fmt: skip

    def targets(self, batch: Batch) -> Tensor:
        """What each position predicts, (B, T) aligned with the logits; -100 where nothing.

        Raises:
            InputError: the batch has no labels where they are needed, or no target.
        """
        if "targets" in batch:
            targets = batch["targets"]
        elif self.kind == "causal":
            labels = batch.get("labels")
            if labels is None:
                labels = batch["input_ids"]
                if "attention_mask" in batch:
                    labels = labels.masked_fill(batch["attention_mask"] == 0, IGNORED)
            targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        elif "labels" in batch:
            targets = batch["labels"]
        else:
            raise InputError(f"a batch for a {self.kind} loss needs 'labels'; it has only {', '.join(batch)}")
        if not (targets != IGNORED).any():
            raise InputError(f"a batch has no target (all {targets.numel()} are {IGNORED}); give longer text")
        return targets

    @torch.no_grad()
    def with_sampled_targets(self, batch: Batch, *, generator: torch.Generator) -> Batch:
        """The same batch with every target drawn from the model's own distribution given the same inputs."""
        targets = self.targets(batch)
        kept = targets != IGNORED
        head = self._head_inputs(self.parameters, batch)
        drawn = []
        for part in head.hidden[kept].split(max(1, _CHUNK // head.vocabulary)):
            probabilities = head.logits(part).float().softmax(-1)
            drawn.append(torch.multinomial(probabilities, 1, generator=generator)[:, 0])
        # With the model's inputs spelled out: a decoder goes on reading the targets of the data, not those drawn.
        return {**self._inputs(batch), "targets": targets.masked_scatter(kept, torch.cat(drawn))}

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "targets")}
        if self.kind == "seq2seq" and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self._shifted_right(self.targets(batch))
        return inputs

    def _head_inputs(self, parameters: Parameters, batch: Batch) -> HeadInputs:
        inputs = self._inputs(batch)

        def call() -> Tensor:
            return torch.func.functional_call(self.model, parameters, (), {**inputs, **self._options}).logits

        with _evaluating(self.model), _twice_differentiable(self._dtype):
            return self.head.inputs(call, parameters)

    def _shifted_right(self, targets: Tensor) -> Tensor:
        """What an encoder-decoder reads to predict `targets`: the start token and all targets but the last.

        Raises:
            InputError: the config names no token to start with.
        """
        own = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        # It knows best (MBart starts with the target's language), but refuses a config that names no start token.
        with suppress(AttributeError, TypeError, ValueError, RuntimeError):
            return own(targets)
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        ids = [one for one in (getattr(self.model.config, name, None) for name in names) if one is not None]
        if not ids:
            raise InputError(
                f"the decoder's first token is unknown (config.json has none of {', '.join(names)}); set "
                "decoder_start_token_id there, or give decoder_input_ids"
            )
        shifted = F.pad(targets[:, :-1], (1, 0), value=ids[0])
        return shifted.masked_fill(shifted == IGNORED, ids[-1])


def head_cross_entropy(hidden: Tensor, head: HeadInputs, targets: Tensor) -> Tensor:
    """Cross entropy of each row's logits, which never exist whole unless a graph needs them.

    Args:
        hidden: (N, D), rows of `head.hidden`.
        head: what makes logits of them.
        targets: (N,).

    Returns:
        (N,) losses, in float32 at least.
    """
    if has_torch_function((hidden,)):
        return handle_torch_function(head_cross_entropy, (hidden,), hidden, head, targets)
    rows = len(hidden) if torch.is_grad_enabled() else max(1, _CHUNK // head.vocabulary)
    losses = []
    for part, labels in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = head.logits(part)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        losses.append(F.cross_entropy(wide, labels, reduction="none"))
    return torch.cat(losses)


def _parameters(model: nn.Module) -> Parameters:
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise InputError("no parameter of the model has requires_grad; thaw those whose curvature is asked for")
    return parameters


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; every module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _twice_differentiable(TorchFunctionMode):
    """Two things `transformers` does for speed or precision in training that second derivatives must not see.

    Experts are multiplied by a kernel that knows no second derivative and no float64; here they are, one by one. And
    models ask for float32 where they want *more* precision (norms, softmax); for parameters in float64 that is less.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._widen = dtype == torch.float64

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _GROUPED_PRODUCTS:
            return _grouped_product(*args, **kwargs)
        if self._widen:
            func = Tensor.double if func is Tensor.float else func
            args = [torch.float64 if value is torch.float32 else value for value in args]
            kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in kwargs.items()}
        return func(*args, **kwargs)


_GROUPED_PRODUCTS = {getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)} - {None}


def _grouped_product(rows: Tensor, matrices: Tensor, *, offs: Tensor, **_) -> Tensor:
    """Rows up to offs[0] times the first matrix, those up to offs[1] times the second, and so on."""
    ends = offs.tolist()
    starts = [0, *ends[:-1]]
    return torch.cat([rows[a:b] @ matrices[i] for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if b > a])
