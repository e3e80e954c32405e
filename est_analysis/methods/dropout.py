"""Dropout at EST's rates: where EST would leave out heads and MLP columns, single units of them are dropped instead.

Source: Srivastava et al. 2014, JMLR 15:1929, inverted (kept units are divided by their keep rate). The unstructured
control for EST, arXiv 2406.06962, with its schedule and its rates, but each number of the heads' joined output is kept
with probability p_H and each hidden unit of an MLP with p_M, independently and for every token anew. Layers are not
dropped: EST does not rescale them, and they have no single units to drop.

Cost: 0 % fewer layer FLOPs, everything is computed, and the draws are extra: each micro-batch and rank passes over
those of the rows before its own, so that how a batch is split changes nothing. Fails to save anything, and
regularises each unit alone where EST makes whole heads do without each other.
"""

from dataclasses import dataclass

from est_analysis.errors import InputError
from est_analysis.methods.method import Method
from est_analysis.subnet.mask import LayerMask, SubnetMask, UnitDropout
from est_analysis.subnet.schedule import Rates


@dataclass(frozen=True, kw_only=True)
class Dropout(Method):
    """Dropout of single units at the rates of a schedule's heads and columns."""

    default_schedule = "gpt2-est"

    def __post_init__(self) -> None:
        stages = [rates for _, rates in self.schedule.spans if not rates.full]
        if stages and all(rates.heads == rates.mlp == 1 for rates in stages):
            raise InputError(
                f"schedule '{self.schedule.name}' samples layers alone, and dropout only units of heads and columns; "
                "use a schedule such as gpt2-est"
            )

    def mask(self, step: int) -> SubnetMask | None:
        """All of the model, with dropout at the rates of the step's stage; None where those of its units are 1."""
        _, rates = self.schedule.spans[self.schedule.stage_at(step)]
        if rates.heads == rates.mlp == 1:
            return None

        def layer_mask(layer: int) -> LayerMask:
            stream = (self.seed, "dropout", step, layer)
            return LayerMask(dropout=UnitDropout(heads=float(rates.heads), columns=float(rates.mlp), stream=stream))

        return SubnetMask(layers=tuple(map(layer_mask, range(self.shape.num_layers))))

    def expected_rates(self, step: int) -> Rates:
        """All 1: everything is computed."""
        return Rates()
