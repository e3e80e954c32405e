"""Traces of two matrices that stand in for the Hessian of a language model's loss, and are not it. No double backward.

With p the model's distribution at each target and L the mean loss of N targets: H = GGN + (terms with second
derivatives of the logits). Where p is the true conditional distribution those terms vanish in the mean (Bartlett's
identity), and elsewhere they do not.
"""

from typing import Any

import torch
from torch import Tensor

from est_analysis.curvature.engine import Measurement
from est_analysis.curvature.loss import LanguageModelObjective, Objective, Parameters
from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError
from est_analysis.rng import stream


class FisherEngine:
    """Trace of the generalised Gauss-Newton matrix, which for cross entropy is the true Fisher information.

    tr GGN = mean over targets t of E |grad log p_t(y)|^2 with y ~ p_t, inputs as they are. One draw y of all targets
    gives N |grad L(y)|^2: E grad log p_t(y) = 0, so the cross terms of the square vanish in the mean (Bartlett's
    identity, as in Liu et al. 2023, arXiv 2210.14199). Not the trace of the Hessian: equal to it only where p is the
    true conditional.

    The variance does not fall with N, so small batches tell more for the same work. A probe costs a gradient and one
    more forward pass.
    """

    name = "fisher"

    def measure(self, objective: Objective, batch: Any, probes: Probes) -> Measurement:
        """Measure the GGN of the loss of `batch`: one draw of all targets for each probe number.

        Raises:
            InputError: the objective is no language model's token loss.
        """
        model = _language_model(self.name, objective)
        with torch.no_grad():
            loss = model.loss(model.parameters, batch).item()
        leaves, rows = _leaves(model), []
        for generator in _generators(self.name, probes, model):
            drawn = model.with_sampled_targets(batch, generator=generator)
            with torch.enable_grad():
                gradient = torch.autograd.grad(model.loss(leaves, drawn), list(leaves.values()), materialize_grads=True)
            rows.append(model.weight(batch) * _squares(gradient))
        return _measurement(loss, rows)


class EmpiricalFisherEngine:
    """Trace of the empirical Fisher matrix: mean over targets t of |grad loss_t|^2, with the data's own targets.

    Neither the Hessian nor the Fisher information, nor an estimate of them (Kunstner, Balles & Hennig 2019,
    "Limitations of the empirical Fisher approximation"); all three agree only where p is the true conditional
    distribution. Random signs e_t make one backward of all targets unbiased: E |grad sum_t e_t loss_t|^2 / N = sum_t
    |grad loss_t|^2 / N.

    One forward pass a batch and one backward a probe.
    """

    name = "empirical-fisher"

    def measure(self, objective: Objective, batch: Any, probes: Probes) -> Measurement:
        """Measure the empirical Fisher matrix of `batch`: one random sign of each target for each probe number.

        Raises:
            InputError: the objective is no language model's token loss.
        """
        model = _language_model(self.name, objective)
        leaves, rows = _leaves(model), []
        with torch.enable_grad():
            losses = model.token_losses(leaves, batch)
        for generator in _generators(self.name, probes, model):
            bits = torch.randint(2, losses.shape, generator=generator, device=losses.device)
            signs = (2 * bits - 1).to(losses)
            gradient = torch.autograd.grad(
                losses, list(leaves.values()), signs, retain_graph=True, materialize_grads=True
            )
            rows.append(_squares(gradient) / len(losses))
        return _measurement(losses.mean().item(), rows)


def _language_model(engine: str, objective: Objective) -> LanguageModelObjective:
    if not isinstance(objective, LanguageModelObjective):
        given = type(objective).__name__
        raise InputError(f"engine '{engine}' needs a language model's token losses, not {given}; use engine 'hvp'")
    return objective


def _leaves(objective: Objective) -> Parameters:
    return {name: p.detach().requires_grad_() for name, p in objective.parameters.items()}


def _generators(name: str, probes: Probes, objective: Objective) -> list[torch.Generator]:
    device = next(iter(objective.parameters.values())).device
    return [stream(probes.seed, name, number, device=device) for number in probes.numbers]


def _squares(gradient: tuple[Tensor, ...]) -> Tensor:
    # In float64 before the sum: a tensor of a million small squares loses digits in float32.
    return torch.stack([g.double().square().sum().cpu() for g in gradient])


def _measurement(loss: float, rows: list[Tensor]) -> Measurement:
    blocks = torch.stack(rows)
    return Measurement(loss=loss, values=blocks.sum(1), blocks=blocks)
