"""Hutchinson's estimate of the trace of the loss Hessian: tr H = E[v' H v] for random signs v.

Every batch gets a fresh probe, so one standard error covers the noise of data and of probes, and the cost does not grow
with the data. `v' H v` is exact (forward over reverse differentiation), no finite differences.
"""

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from est_analysis.curvature.loss import Parameters, token_loss
from est_analysis.errors import InputError
from est_analysis.rng import stream


@dataclass(frozen=True, kw_only=True)
class TraceEstimate:
    """An estimated trace.

    Attributes:
        value: mean of v' H v over the pairs.
        stderr: its standard error, data and probes together.
        pairs: number of (batch, probe) pairs.
        seconds: wall time.
    """

    value: float
    stderr: float
    pairs: int
    seconds: float


def signs_like(parameters: Parameters, seed: int, probe: int) -> Parameters:
    """Probe number `probe`: independent random signs of the parameters' shapes, one stream a parameter."""

    def signs(name: str, tensor: Tensor) -> Tensor:
        generator = stream(seed, "probe", probe, name, device=tensor.device)
        bits = torch.randint(2, tensor.shape, generator=generator, device=tensor.device)
        return (2 * bits - 1).to(tensor.dtype)

    return {name: signs(name, tensor) for name, tensor in parameters.items()}


def curvature_along(loss, parameters: Parameters, direction: Parameters) -> Tensor:
    """v' H v of `loss` at `parameters` along v = `direction`."""
    _, product = torch.func.jvp(torch.func.grad(loss), (parameters,), (direction,))
    return sum((product[name] * direction[name]).sum() for name in parameters)


def hutchinson(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, seed: int) -> TraceEstimate:
    """Estimate the Hessian trace of the mean token loss of `model`, one fresh probe a batch.

    The batches must hold equally many tokens, so that the mean of batch losses is the mean token loss.

    Args:
        model: a causal language model with second derivatives (`load_causal_model`); left as it was.
        batches: (tokens, labels) pairs, each (B, T).
        seed: of the probes; probe k is the same for every model of the same shape.

    Raises:
        InputError: fewer than two batches, from which no error can be told.
    """
    start = time.perf_counter()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    values = []
    for probe, (tokens, labels) in enumerate(batches):
        direction = signs_like(parameters, seed, probe)
        values.append(float(curvature_along(token_loss(model, tokens, labels), parameters, direction)))
    if len(values) < 2:
        raise InputError(f"{len(values)} batches give no standard error; use at least 2")
    return TraceEstimate(
        value=statistics.fmean(values),
        stderr=statistics.stdev(values) / math.sqrt(len(values)),
        pairs=len(values),
        seconds=time.perf_counter() - start,
    )
