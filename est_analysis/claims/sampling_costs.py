"""What was measured of EST's sampling, what theory predicts of it, and both side by side.

The measurement is `sampling_loss`, the prediction `theory.sampling_penalty`: with the loss's own second
derivatives towards the masks, or by formula with the Fisher matrix.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import pandas as pd

from est_analysis.errors import InputError
from est_analysis.theory.sampling_penalty import (
    KeepRates,
    QuadraticForms,
    StackForms,
    StagePenalty,
    layer_slope_term,
    stage_penalty,
)

from .claim import NotMeasured
from .statistics import runs_of, transitions
from .transition_losses import excess_fall

Matrix = Literal["hessian", "fisher"]
_KINDS = ("heads", "columns", "layers")


class Costs:
    """What was measured of sampling in the runs of `est`, by seed, step and metric.

    Attributes:
        steps: the transitions of every seed.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._runs: dict[str, dict[int, pd.Series]] = {}
        self.steps = transitions(frame, "est")

    def value(self, seed: int, step: int, metric: str) -> float:
        """One number; not measured where it is not there."""
        if metric not in self._runs:
            self._runs[metric] = runs_of(self._frame, "est", metric)
        found = self._runs[metric].get(seed)
        if found is None or step not in found.index:
            raise NotMeasured(f"{metric} of seed {seed} was not recorded at step {step}")
        return float(found[step])

    def rates(self, seed: int, step: int, stage: int) -> KeepRates:
        """p_H, p_M and p_L of a stage."""
        found = {kind: self.value(seed, step, f"stage{stage}_rate_{kind}") for kind in _KINDS}
        try:
            return KeepRates(**found)
        except InputError as error:
            raise NotMeasured(f"the rates of stage {stage} at step {step} are none: {error}") from error

    def sampled(self, seed: int, step: int, stage: int) -> float:
        """Expected loss of a stage minus the full model's, from drawn masks; 0 of the full stage."""
        full = self.rates(seed, step, stage) == KeepRates()
        return 0.0 if full else self.value(seed, step, f"stage{stage}_all_cost")

    def centred(self, seed: int, step: int, stage: int, *parts: str) -> float:
        """What parts cost under drawn masks, without the first order.

        Of heads and columns that is 0 in the mean over all masks, but not over those that were drawn: taking it away
        takes noise away.
        """
        names = [f"stage{stage}_{part}" for part in parts]
        cost, first = (
            sum(self.value(seed, step, f"{name}_{kind}") for name in names) for kind in ("cost", "first_order")
        )
        return cost - first

    def drop(self, seed: int, step: int, stage: int) -> float:
        """Cost of a stage minus that of the next one, from drawn masks, with the same weights."""
        return self.sampled(seed, step, stage) - self.sampled(seed, step, stage + 1)

    def curve(self, seed: int, step: int) -> float:
        """How far the training curve drops at a transition below the line through the two windows before it."""
        return -excess_fall(runs_of(self._frame, "est", "train_loss")[seed], step)

    def orders(self, seed: int, step: int, stage: int, matrix: Matrix) -> StagePenalty:
        """The cost of a stage to second order."""
        rates = self.rates(seed, step, stage)
        if matrix == "fisher":
            return self.predicted(seed, step, rates)
        second = {
            kind: self.value(seed, step, f"stage{stage}_{kind}_second_order") if getattr(rates, kind) < 1 else 0.0
            for kind in _KINDS
        }
        return StagePenalty(
            heads=rates.layers * second["heads"],  # a bypassed layer has no noise: `stage_penalty`
            columns=rates.layers * second["columns"],
            layers_first_order=layer_slope_term(np.array([self.value(seed, step, "slope_layers")]), rates.layers),
            layers_second_order=second["layers"],
        )

    def predicted(self, seed: int, step: int, rates: KeepRates, **law: str) -> StagePenalty:
        """The cost to second order, with the Fisher matrix."""

        def forms(kind: str) -> QuadraticForms:
            # All modules together: they are of one size, and a penalty is linear in its forms.
            units, total = (self.value(seed, step, f"fisher_{kind}_{name}") for name in ("units", "total"))
            count = int(self.value(seed, step, f"count_{kind}"))
            return QuadraticForms(units=np.full(count, units / count), total=total)

        layers = forms("layers")
        slopes = np.full(len(layers.units), self.value(seed, step, "slope_layers") / len(layers.units))
        stack = StackForms(heads=[forms("heads")], columns=[forms("columns")], layers=layers, slopes=slopes)
        try:
            return stage_penalty(stack, rates, **law)
        except InputError as error:
            raise NotMeasured(f"the prediction at step {step} does not exist: {error}") from error


def side_by_side(frame: pd.DataFrame) -> pd.DataFrame:
    """What sampling costs just before every transition of EST, part by part, and the drop that follows, found each way.

    Heads and columns are those of a stage with all layers. Of masks that were drawn, the first order is replaced by
    that of all masks, which is noise less.

    Returns:
        Columns seed, step, transition (from 0), part (`heads`, `columns`, `width` for both, `layers`, `drop`), way
        (`masks`; to second order with `hessian` or `fisher`; `curve`) and value in nats.

    Raises:
        InputError: something of it was not measured.
    """
    try:
        costs = Costs(frame)
        rows = [
            (seed, step, stage, *row)
            for seed, steps in costs.steps.items()
            for stage, step in enumerate(steps)
            for row in _ways(costs, seed, step, stage)
        ]
    except NotMeasured as missing:
        raise InputError(f"what sampling costs cannot be shown: {missing}") from missing
    return pd.DataFrame(rows, columns=["seed", "step", "transition", "part", "way", "value"])


def _ways(costs: Costs, seed: int, step: int, stage: int) -> Iterator[tuple[str, str, float]]:
    rates = costs.rates(seed, step, stage)
    for matrix in get_args(Matrix):
        found = costs.orders(seed, step, stage, matrix)
        heads, columns = (part / rates.layers for part in (found.heads, found.columns))
        first, second = found.layers_first_order, found.layers_second_order
        parts = {"heads": heads, "columns": columns, "width": heads + columns, "layers": first + second}
        yield from ((part, matrix, value) for part, value in parts.items() if _samples(rates, part))
        yield "drop", matrix, found.total - costs.orders(seed, step, stage + 1, matrix).total
    for part in ("heads", "columns", "width", "layers"):
        if _samples(rates, part):
            value = costs.centred(seed, step, stage, part)
            yield part, "masks", value + (first if part == "layers" else 0.0)
    yield "drop", "masks", costs.drop(seed, step, stage)
    yield "drop", "curve", costs.curve(seed, step)


def _samples(rates: KeepRates, part: str) -> bool:
    kinds = ("heads", "columns") if part == "width" else (part,)
    return all(getattr(rates, kind) < 1 for kind in kinds)
