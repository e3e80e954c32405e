"""What every engine does: measure the curvature of one batch along random probes."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from est_analysis.curvature.loss import Objective
from est_analysis.curvature.probes import Probes


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One batch, measured along K probes.

    Attributes:
        loss: of the batch.
        values: (G,) in float64; unbiased estimates of the trace, each the mean over K/G probes. With G > 1 their spread
            tells the noise of probes from that of data.
        blocks: (K, parameters) in float64, the share of each parameter tensor in each probe's value, in the order of
            `objective.parameters`; None from engines that never form the vector.
    """

    loss: float
    values: Tensor
    blocks: Tensor | None = None


class Engine(Protocol):
    """A way to measure.

    Attributes:
        name: as in `--engine`.
    """

    name: str

    def measure(self, objective: Objective, batch: Any, probes: Probes) -> Measurement:
        """Measure the trace of the Hessian (or of what the engine's name says) of the loss of `batch`."""
