"""The peers a trace estimate is measured against: PyHessian, curvlinops, hessian-eigenthings, used as they document.

All three take second derivatives by autograd, which fused attention has none of, so they get the model with
`attn_implementation="eager"`. None of them estimates over a text other than by sweeping every probe over all of it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from unittest import mock

import torch
from torch import Tensor, nn

PIP = (
    "pip install --no-deps curvlinops-for-pytorch==3.0.1 hessian-eigenthings==1.0.0a5 "
    "einops==0.8.2 einconv==0.1.0 linear_operator==0.6.1 opt-einsum==3.4.0"
)
try:
    from curvlinops import HessianLinearOperator, xtrace
    from curvlinops.sampling import random_vector
    from curvlinops.trace import epperly2024xtrace
    from hessian_eigenthings import HessianOperator
    from hessian_eigenthings.algorithms.trace import hutch_plus_plus, hutchinson
    from hessian_eigenthings.loss_fns.huggingface import hf_lm_loss
    from pyhessian import hessian
except ImportError as error:
    # Without --no-deps curvlinops asks for backpack and that for torchvision, which replaces torch.
    raise SystemExit(
        f"{error.name} is missing, which this benchmark measures against; install it with\n    {PIP}"
    ) from error

Batch = tuple[Tensor, Tensor]  # token ids and the tokens after them, both (sequences, tokens)


def versions() -> str:
    names = ("PyHessian", "curvlinops-for-pytorch", "hessian-eigenthings", "transformers", "torch")
    return ", ".join(f"{name} {version(name)}" for name in names)


def hf_batch(batch: Batch) -> dict:
    """What makes a Hugging Face model return the loss of `batch`; labels are shifted already."""
    tokens, labels = batch
    return {"input_ids": tokens, "labels": labels, "shift_labels": labels, "use_cache": False}


class FlatLogits(nn.Module):
    """Token ids to logits (sequences * tokens, vocabulary)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits.flatten(0, 1)


class FlatCrossEntropy(nn.CrossEntropyLoss):
    """Of flat logits and labels of any shape."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits, labels.flatten())


@dataclass
class Estimate:
    """A trace, its standard error and what it took."""

    value: float
    stderr: float
    probes: int  # Hessian-vector products, for a peer over all of the text
    seconds: float = math.nan
    samples: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Estimate":
        """Hutchinson's, from samples v'Hv."""
        spread = statistics.stdev(samples) if len(samples) > 1 else math.nan
        return cls(statistics.fmean(samples), spread / math.sqrt(len(samples)), len(samples), samples=list(samples))

    @property
    def relative(self) -> float:
        return self.stderr / abs(self.value)


class PyHessian:
    """`hessian(...).trace()`, one probe a call, over a dataloader; for one batch it can keep the gradient's graph."""

    name = "PyHessian"
    at_once = 1

    def __init__(self, model: nn.Module, batches: Sequence[Batch], keep_graph: bool = False) -> None:
        loss = FlatCrossEntropy()
        data = {"data": batches[0]} if keep_graph else {"dataloader": batches}
        self.hessian = hessian(FlatLogits(model), loss, **data, cuda=False)

    def draw(self) -> list[float]:
        return self.hessian.trace(maxIter=1)


class CurvlinopsHutchinson:
    """The formula of `hutchinson_trace`, with one value a probe so that a standard error can be told.

    Probes are the columns of a matrix, over which its Hessian product is vectorised: the gradient is shared.
    """

    name = "curvlinops, Hutchinson"

    def __init__(self, model: nn.Module, batches: Sequence[Batch], at_once: int = 4) -> None:
        flat = FlatLogits(model)
        self.at_once = at_once
        parameters = list(flat.parameters())
        self.operator = HessianLinearOperator(flat, FlatCrossEntropy(), parameters, batches, check_deterministic=False)

    def draw(self) -> list[float]:
        operator = self.operator
        vectors = [
            random_vector(operator.shape[1], "rademacher", operator.device, operator.dtype) for _ in range(self.at_once)
        ]
        probes = torch.column_stack(vectors)
        return (probes * (operator @ probes)).sum(0).tolist()


class CurvlinopsXTrace(CurvlinopsHutchinson):
    """`xtrace`, whose leave-one-out traces, of which it returns the mean, give the error estimate of its paper."""

    name = "curvlinops, XTrace"
    unit = 2  # budgets are multiples of it

    def run(self, products: int) -> Estimate:
        kept = []

        def mean(traces: Tensor) -> Tensor:
            kept.append(traces.tolist())
            return traces.mean()

        with mock.patch.object(epperly2024xtrace, "mean", mean):
            value = xtrace(self.operator, products).item()
        found = Estimate.of(kept[0])
        return Estimate(value, found.stderr, products)


class EigenthingsHutchinson:
    """`hutchinson` on `HessianOperator`, one probe a call."""

    name = "hessian-eigenthings, Hutchinson"
    at_once = 1

    def __init__(self, model: nn.Module, batches: Sequence[Batch], method: str = "autograd") -> None:
        self.operator = HessianOperator(model, [hf_batch(batch) for batch in batches], hf_lm_loss(), method=method)
        self.seed = 0

    def draw(self) -> list[float]:
        self.seed += 1
        return hutchinson(self.operator, num_samples=1, seed=self.seed).samples.tolist()


class EigenthingsHutchPlusPlus(EigenthingsHutchinson):
    """`hutch_plus_plus`, which tells the standard error of what its sketch leaves over."""

    name = "hessian-eigenthings, Hutch++"
    unit = 3

    def run(self, products: int) -> Estimate:
        found = hutch_plus_plus(self.operator, num_matvecs=products, seed=products)
        return Estimate(found.estimate, found.stderr, products)


HUTCHINSON = (PyHessian, CurvlinopsHutchinson, EigenthingsHutchinson)
SKETCHES = (CurvlinopsXTrace, EigenthingsHutchPlusPlus)
