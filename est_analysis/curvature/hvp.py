"""Hessian-vector products by double backward: for what needs the vector H v and not only the number v' H v.

H v is the gradient of <gradient of the loss, v> (Pearlmutter 1994, "Fast exact multiplication by the Hessian"). The
gradient and its graph are made once a batch; each product is then one more backward through that graph.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from est_analysis.curvature.engine import Measurement
from est_analysis.curvature.loss import Objective, Parameters
from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError, reason

_NO_SECOND_DERIVATIVE = re.compile(r"derivative for .* is not implemented|once_differentiable")


class HvpEngine:
    """v_k' H v_k, split over the parameter tensors: the block of tensor p is v_p'(H v)_p, whose mean is the trace of
    H_pp, because the signs of different tensors are independent.
    """

    name = "hvp"

    def measure(self, objective: Objective, batch: Any, probes: Probes) -> Measurement:
        """Measure the Hessian of the loss of `batch` along each probe: as many values as probes.

        Raises:
            InputError: the loss does not depend on the parameters, or cannot be differentiated twice.
        """
        gradient = _Gradient(objective, batch)
        blocks = torch.zeros(len(probes), len(objective.parameters), dtype=torch.float64)
        for k in range(len(probes)):
            signs = {name: probes[k].like(name, p)[0] for name, p in objective.parameters.items()}
            products = gradient.hessian_times(signs)
            for p, (name, product) in enumerate(products.items()):
                # Signs are exact, so only the sum can round: in float64.
                blocks[k, p] = (signs[name] * product).sum(dtype=torch.float64)
        return Measurement(loss=gradient.loss, values=blocks.sum(1), blocks=blocks)


class HessianOperator:
    """The Hessian of the mean loss over fixed batches, as a map of flat vectors: v -> H v.

    Vectors hold the parameters in the order of `objective.parameters`, each in row-major order. A product costs each
    batch a gradient and one more backward; the graph of a single batch is kept and shared by all products.

    Attributes:
        n: dimension.
    """

    def __init__(self, objective: Objective, batches: Sequence[Any]):
        """The mean over `batches` weighted by `objective.weight`, so that it is a mean over targets.

        Raises:
            InputError: no batch, or a loss without a second derivative.
        """
        if not batches:
            raise InputError("0 batches make no Hessian; give at least 1")
        self._objective = objective
        self._batches = batches
        weights = [objective.weight(batch) for batch in batches]
        self._shares = [weight / sum(weights) for weight in weights]
        self._only = _Gradient(objective, batches[0]) if len(batches) == 1 else None
        self.n = sum(p.numel() for p in objective.parameters.values())

    def matvec(self, vector: Tensor) -> Tensor:
        """H `vector`, (n,) -> (n,), in the dtype and on the device of `vector`; summed over batches in float64.

        Raises:
            InputError: the vector is not of the parameters' size, or the product is not finite.
        """
        direction = self.split(vector)
        total = torch.zeros(self.n, dtype=torch.float64, device=vector.device)
        for batch, share in zip(self._batches, self._shares, strict=True):
            gradient = self._only or _Gradient(self._objective, batch)
            product = gradient.hessian_times(direction)
            total += share * torch.cat([block.flatten().to(total) for block in product.values()])
        if not total.isfinite().all():
            raise InputError("a Hessian-vector product is not finite; check the weights, or use float32 or float64")
        return total.to(vector.dtype)

    def split(self, vector: Tensor) -> Parameters:
        """The parts of a flat vector by parameter name, each with its parameter's shape, dtype and device.

        Raises:
            InputError: the vector is not of the parameters' size.
        """
        if vector.shape != (self.n,):
            raise InputError(f"a vector of shape {tuple(vector.shape)} for {self.n} parameters; give shape ({self.n},)")
        parameters = self._objective.parameters
        parts = vector.split([p.numel() for p in parameters.values()])
        return {name: part.view(p.shape).to(p) for part, (name, p) in zip(parts, parameters.items(), strict=True)}


class _Gradient:
    """The gradient of the loss of one batch, with its graph."""

    def __init__(self, objective: Objective, batch: Any):
        leaves = {name: p.detach().requires_grad_() for name, p in objective.parameters.items()}
        # The fused attention kernels have no second derivative; the plain one has, whatever the model was loaded with.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = objective.loss(leaves, batch)
            if not loss.requires_grad:
                raise InputError("the loss does not depend on the model's parameters; compute it from the model given")
            gradient = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
        self.loss = loss.item()
        self._leaves = leaves
        # Where the loss is linear in a parameter (or ignores it) the gradient is a constant: no rows of H from there.
        self._varying = {name: g for name, g in zip(leaves, gradient, strict=True) if g is not None and g.requires_grad}

    def hessian_times(self, direction: Parameters) -> Parameters:
        if not self._varying:
            return {name: torch.zeros_like(leaf) for name, leaf in self._leaves.items()}
        try:
            products = torch.autograd.grad(
                list(self._varying.values()),
                list(self._leaves.values()),
                grad_outputs=[direction[name] for name in self._varying],
                retain_graph=True,
                materialize_grads=True,
            )
        except RuntimeError as error:
            if not _NO_SECOND_DERIVATIVE.search(str(error)):
                raise
            raise InputError(
                f"no second derivative ({reason(error)}); load with attn_implementation='eager'"
            ) from error
        return dict(zip(self._leaves, products, strict=True))
