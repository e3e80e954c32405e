"""The Taylor engine: one forward pass of jets a batch."""

import math
from typing import Any

import torch

from est_analysis.curvature.engine import Measurement
from est_analysis.curvature.loss import Objective
from est_analysis.curvature.probes import Probes

# Imported for the rules they register.
from est_analysis.curvature.taylor import attention, cross_entropy, normalise, pointwise, products, structure  # noqa: F401
from est_analysis.curvature.taylor.jet import Jet, Layout


class TaylorEngine:
    """The trace of the Hessian by collapsed Taylor mode: a gradient's cost a probe, the memory of a forward pass."""

    name = "taylor"

    def __init__(self, groups: int = 2):
        """An engine that sums second derivatives in `groups` groups of probes.

        Args:
            groups: 1 is cheapest; the difference of 2 tells the noise of probes from that of data. As many as divide
                the number of probes are used.
        """
        self.groups = groups

    @torch.no_grad()
    def measure(self, objective: Objective, batch: Any, probes: Probes) -> Measurement:
        """Measure `v' H v` of the loss of `batch`, exact to rounding.

        Raises:
            UnsupportedOperator: the model uses an operator without a rule, which is named.
        """
        layout = Layout(len(probes), math.gcd(len(probes), self.groups))
        jets = {name: Jet.parameter(p, name, probes, layout) for name, p in objective.parameters.items()}
        loss = objective.loss(jets, batch)
        per_group = layout.probes // layout.groups
        return Measurement(loss=float(loss.stack[0]), values=loss.stack[1 + layout.probes :].double().cpu() / per_group)
