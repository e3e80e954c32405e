"""RaPTr's polynomial experiment: residual nets that learn a polynomial on {-1, +1}^d, many seeds as one bank."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from est_analysis.data.boolean import BooleanPolynomial, component_errors, random_polynomial
from est_analysis.errors import InputError
from est_analysis.experiments.runs.spec import run_id
from est_analysis.experiments.runs.store import SeedRow, run_once
from est_analysis.methods import Method, build_method
from est_analysis.models.bank import ResidualNetBank
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream
from est_analysis.train.bank import BankJob, train_bank
from est_analysis.train.settings import Settings

_BLOCK = 64  # steps whose inputs are drawn together
_CHUNK = 2048  # points that pass through the nets together
_HELD_OUT = 1024
_NOT_BY_MASKS = ("short", "staged")  # one stops early, the other replaces its model


@dataclass(frozen=True, kw_only=True)
class PolynomialSpec:
    """Everything that decides the numbers of one bank of polynomial runs.

    Attributes:
        method: a key of `methods.METHODS`.
        schedule: of depths; the controls derive their rates from it, so that budgets match.
        output_scale: RaPTr's factor on kept layers.
        dimension, max_degree, terms: of the polynomial: d, k and the number of terms of each degree.
        law: of its coefficients.
        hidden, num_layers: of the net; its MLPs have `hidden` columns.
        residual, layer_norm: what may be taken away.
        batch_size: fresh uniform points a step.
        points: points on which components are measured.
        tail: steps of the full net after training (see `train.bank`).
        seeds: one net each; a seed decides polynomial, initialisation, data and masks, alike for all methods.
        settings: optimisation and measurement.
    """

    method: str
    schedule: str = ""
    output_scale: str = "none"
    dimension: int = 30
    max_degree: int = 5
    terms: int = 6
    law: str = "normal"
    hidden: int = 64
    num_layers: int = 12
    residual: bool = True
    layer_norm: bool = True
    batch_size: int = 128
    points: int = 8192
    tail: int = 0
    seeds: tuple[int, ...] = (0,)
    settings: Settings

    def __post_init__(self) -> None:
        for name in ("batch_size", "points", "terms", "max_degree"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.tail < 0:
            raise InputError(f"tail={self.tail} must be at least 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds {self.seeds} must be distinct and at least one")
        if not self.residual and self.output_scale != "none":
            raise InputError(
                f"output scale '{self.output_scale}' scales the residual branch; nets without residuals have none"
            )
        if self.method in _NOT_BY_MASKS:
            raise InputError(f"{self.method} does more than mask, and nets of one bank only mask; use another method")
        self.polynomial(self.seeds[0])
        self.build_method(self.seeds[0])

    def fields(self) -> dict[str, Any]:
        """All fields, defaults included, as plain JSON values; without `rewarm`, of which a bank knows nothing."""
        found = json.loads(json.dumps(asdict(self)))
        del found["settings"]["rewarm"]
        return found

    def polynomial(self, seed: int) -> BooleanPolynomial:
        """The target of `seed`."""
        return random_polynomial(
            dimension=self.dimension,
            max_degree=self.max_degree,
            terms=self.terms,
            law=self.law,
            generator=stream(seed, "polynomial"),
        )

    def net(self, seed: int) -> ResidualNet:
        """The net of `seed`, initialised."""
        net = ResidualNet(
            num_inputs=self.dimension,
            hidden=self.hidden,
            num_layers=self.num_layers,
            residual=self.residual,
            layer_norm=self.layer_norm,
        )
        return net.initialise(seed)

    def build_method(self, seed: int) -> Method:
        """The method of `seed`."""
        # Only the sizes of the stack matter, so this net is never drawn.
        shape = ResidualNet(num_inputs=1, hidden=self.hidden, num_layers=self.num_layers).shape
        return build_method(
            self.method,
            shape=shape,
            total_steps=self.settings.steps,
            seed=seed,
            schedule=self.schedule or None,
            options={} if self.output_scale == "none" else {"output_scale": self.output_scale},
        )


class PolynomialData:
    """Inputs and targets of every seed, a pure function of the step."""

    def __init__(self, spec: PolynomialSpec) -> None:
        self.spec = spec
        self.polynomials = [spec.polynomial(seed) for seed in spec.seeds]
        self._block, self._drawn = -1, None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Points (N, B, d) and values (N, B) of step number `step`."""
        block, offset = divmod(step, _BLOCK)
        if block != self._block:
            size = (_BLOCK, self.spec.batch_size)
            self._drawn = torch.stack([self._points(seed, size, "data", block) for seed in self.spec.seeds])
            self._block = block
        x = self._drawn[:, offset].float()
        return x, self._values(x)

    def held_out(self, points: int) -> tuple[Tensor, Tensor]:
        """Points (N, `points`, d) and values that no batch was drawn from."""
        x = torch.stack([self._points(seed, (points,), "held-out") for seed in self.spec.seeds]).float()
        return x, self._values(x)

    def _points(self, seed: int, size: tuple[int, ...], *names: str | int) -> Tensor:
        shape = (*size, self.spec.dimension)
        return torch.randint(2, shape, dtype=torch.int8, generator=stream(seed, *names)) * 2 - 1

    def _values(self, x: Tensor) -> Tensor:
        return torch.stack([f(one) for f, one in zip(self.polynomials, x, strict=True)]).float()

    def measure(self, x: Tensor, nets: Callable[[Tensor], Tensor]) -> dict[str, Sequence[float]]:
        """Per-degree component errors, off-support mass and mean squared error of `nets` on points `x`."""
        outputs = torch.cat([nets(part) for part in x.split(_CHUNK, dim=1)], dim=1)
        found = [component_errors(o, one, f) for o, one, f in zip(outputs, x, self.polynomials, strict=True)]
        metrics = {
            "validation_loss": [one.mse for one in found],
            "relative_loss": [one.mse / f.variance for one, f in zip(found, self.polynomials, strict=True)],
            "off_support": [one.off_support for one in found],
        }
        for index in range(self.spec.max_degree):
            metrics[f"error_{index + 1}"] = [one.error[index] for one in found]
            metrics[f"error_{index + 1}_stderr"] = [one.stderr[index] for one in found]
        return metrics


def run_polynomials(spec: PolynomialSpec, *, root: Path) -> Path:
    """Train the bank of `spec` into `root/<run_id>`, or return it at once if that is finished; the run's folder.

    Raises:
        InputError: the folder cannot be used, or a loss stopped being finite; saved state is never lost.
    """

    def rows(folder: Path) -> list[SeedRow]:
        data = PolynomialData(spec)
        points, _ = data.held_out(spec.points)
        job = BankJob(
            folder=folder,
            bank=ResidualNetBank([spec.net(seed) for seed in spec.seeds]),
            methods=[spec.build_method(seed) for seed in spec.seeds],
            batch=data.batch,
            measure=partial(data.measure, points),
            held_out=data.held_out(min(spec.points, _HELD_OUT)),
            settings=spec.settings,
            tail=spec.tail,
        )
        return train_bank(job)

    return run_once(root, spec, run_id=run_id(spec, data_hash=""), steps=spec.settings.steps, rows=rows)
