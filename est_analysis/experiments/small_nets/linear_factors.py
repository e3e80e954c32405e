"""The smallest net with hidden units to sample: two matrices without an activation, trained on |Y - U diag(r/p) V'|^2.

For whitened inputs that is the population loss of a linear net (Pal et al. 2020, arXiv 1910.14186). With so few hidden
units every mask can be enumerated, so what sampling adds to the loss is known exactly and without theory.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, product

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from est_analysis.errors import InputError
from est_analysis.experiments.runs.identity import name_of_linear_net
from est_analysis.rng import stream

LAWS = ("fixed_size", "bernoulli")
TRAININGS = {"full": None, "est": "fixed_size", "est/bernoulli": "bernoulli"}  # label -> law of its masks


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """What is trained.

    Attributes:
        outputs, inputs: a and b; Y is (a, b).
        units: n, hidden units; half of them are kept.
        rank: of Y, whose factors are normal with the mean square of its entries 1.
        steps, lr: of gradient descent on one mask a step; the rate falls linearly to 0.
        seeds: how many, 0, 1, ... .
    """

    outputs: int = 6
    inputs: int = 6
    units: int = 6
    rank: int = 3
    steps: int = 6000
    lr: float = 4e-3
    seeds: int = 10

    def __post_init__(self) -> None:
        if self.units % 2 or not 2 <= self.units <= 16:
            raise InputError(f"units={self.units}: half of them are kept and all masks enumerated; use 2, 4, ..., 16")


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """The trained nets of all seeds: Y (N, a, b), U (N, a, n), V (N, b, n)."""

    target: Float[Tensor, "N a b"]
    left: Float[Tensor, "N a n"]
    right: Float[Tensor, "N b n"]

    def loss(self, gates: Float[Tensor, "*N n"]) -> Float[Tensor, " N"]:
        """|Y - U diag(gates) V'|^2."""
        return (self.target - (self.left * gates[..., None, :]) @ self.right.mT).square().sum((1, 2))


def all_masks(units: int, law: str) -> list[tuple[float, Tensor]]:
    """Every mask of half of the `units`, or of each with chance 1/2, with its probability; 1/p in its gates."""
    if law == "bernoulli":
        kept = [torch.tensor(one, dtype=torch.float64) for one in product((0.0, 1.0), repeat=units)]
    else:
        chosen = combinations(range(units), units // 2)
        kept = [torch.zeros(units, dtype=torch.float64).index_fill(0, torch.tensor(one), 1.0) for one in chosen]
    return [(1 / len(kept), 2 * one) for one in kept]


def train_factors(settings: LinearSettings, law: str | None) -> Factors:
    """Gradient descent with one mask of `law` a step; None trains the whole net."""
    seeds, n = range(settings.seeds), settings.units

    def normal(name: str, *shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=stream(s, name), dtype=torch.float64) for s in seeds])

    target = normal("Y left", settings.outputs, settings.rank) @ normal("Y right", settings.rank, settings.inputs)
    target /= settings.rank**0.5
    left, right = normal("U", settings.outputs, n) / 2, normal("V", settings.inputs, n) / 2
    gates = torch.stack([_drawn(settings, law, seed) for seed in seeds])  # (N, steps, n)
    for step in range(settings.steps):
        gate, rate = gates[:, step, None], settings.lr * (1 - step / settings.steps)
        error = target - (left * gate) @ right.mT
        down, up = error @ (right * gate), error.mT @ (left * gate)
        left, right = left + 2 * rate * down, right + 2 * rate * up
    return Factors(target=target, left=left, right=right)


def _drawn(settings: LinearSettings, law: str | None, seed: int) -> Tensor:
    """The gates of every step, (steps, n)."""
    shape = (settings.steps, settings.units)
    if law is None:
        return torch.ones(shape, dtype=torch.float64)
    draws = torch.rand(shape, generator=stream(seed, "mask"), dtype=torch.float64)
    if law == "bernoulli":
        return 2.0 * (draws < 0.5)
    return 2.0 * (draws.argsort(1).argsort(1) < settings.units // 2)


def _rows(settings: LinearSettings, factors: Factors) -> Iterator[tuple[int, str, float]]:
    n = settings.units
    measured = {"full_loss": factors.loss(torch.ones(n, dtype=torch.float64))}
    for law in LAWS:
        measured[f"masked_loss_{law}"] = sum(chance * factors.loss(gates) for chance, gates in all_masks(n, law))
    measured["nuclear_norm"] = torch.linalg.svdvals(factors.left @ factors.right.mT).sum(1)
    for name in ("left", "right"):
        matrix = getattr(factors, name)
        for row, unit in product(range(matrix.shape[1]), range(n)):
            measured[f"{name}_{row}_{unit}"] = matrix[:, row, unit]
    for metric, values in measured.items():
        yield from ((seed, metric, value) for seed, value in enumerate(values.tolist()))


def measure_linear(settings: LinearSettings) -> pd.DataFrame:
    """Tidy rows of all trainings at their end: losses, enumerated masked losses, nuclear norm of U V', all entries."""
    rows = []
    for label, law in TRAININGS.items():
        name = name_of_linear_net(asdict(settings), law)
        found = _rows(settings, train_factors(settings, law))
        rows += [(name, label, "", seed, settings.steps, metric, value) for seed, metric, value in found]
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "seed", "step", "metric", "value"])
