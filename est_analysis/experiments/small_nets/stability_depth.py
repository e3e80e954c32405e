"""How much the output of a net at initialisation moves when one layer is bypassed, against depth (RaPTr's lemma).

Psi_l = ||F_-l(x) - F(x)|| / ||F(x)|| for every layer l of random nets, F being the end of the residual stream: there is
no final norm. The norm convention is as we recall it from arXiv 2402.05913, not verified there.

A random net of depth L is the first L layers of a deeper one, so one pass through the deepest net measures every depth.
A seed's depths are therefore correlated; seeds are independent.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from est_analysis.errors import InputError
from est_analysis.experiments.runs.identity import name_of_random_net
from est_analysis.experiments.study import Request, Study
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream

NUMERICS_VERSION = 1  # raise it when the same settings shall give other numbers
COLUMNS = ["run_id", "method", "schedule", "seed", "step", "metric", "value"]


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """What is measured.

    Attributes:
        width: of the residual stream; a net's deviation from the limit of infinite width is of relative size L/width.
        depths: L, increasing.
        seeds: how many nets of each variant.
        inputs: points of {-1, +1}^width a net, over which Psi_l is averaged.
        layers_at: the depth of which every single Psi_l is kept too.
    """

    width: int
    depths: tuple[int, ...] = (8, 16, 32, 64, 128)
    seeds: int
    inputs: int = 8
    layers_at: int = 64

    def __post_init__(self) -> None:
        for name in ("width", "seeds", "inputs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.depths or list(self.depths) != sorted(set(self.depths)) or self.depths[0] < 1:
            raise InputError(f"depths={self.depths} must be positive and increasing")
        if self.depths[-1] > 200:
            raise InputError(f"depth {self.depths[-1]} overflows float32 without norms; use at most 200")
        if self.layers_at not in self.depths:
            raise InputError(f"layers_at={self.layers_at} is none of the depths {self.depths}; use one of them")


SCALES = {
    "smoke": DepthSettings(width=32, depths=(4, 8), seeds=2, inputs=2, layers_at=8),
    "quick": DepthSettings(width=256, seeds=8),
    "report": DepthSettings(width=1024, seeds=16),
}


def _linear(settings: DepthSettings, seed: int, *, residual: bool, norm: bool) -> Iterator[Callable[[Tensor], Tensor]]:
    """Layers y -> y + W LN(y), W ~ N(0, 1/width), or without one of its two parts; the variants share their W."""
    shape = (settings.width,)
    for number in range(settings.depths[-1]):
        draw = stream(seed, "weights", number)
        weight = torch.randn(2 * shape, generator=draw) / math.sqrt(settings.width)

        def layer(y: Tensor, weight: Tensor = weight) -> Tensor:
            branch = (F.layer_norm(y, shape) if norm else y) @ weight
            return y + branch if residual else branch

        yield layer


def _gelu(settings: DepthSettings, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """The blocks x + MLP(norm(x)) of our residual net, as they are initialised."""
    yield from ResidualNet(num_inputs=1, hidden=settings.width, num_layers=settings.depths[-1]).initialise(seed).blocks


VARIANTS: dict[str, Callable[[DepthSettings, int], Iterator[Callable[[Tensor], Tensor]]]] = {
    "residual+norm": lambda settings, seed: _linear(settings, seed, residual=True, norm=True),
    "residual": lambda settings, seed: _linear(settings, seed, residual=True, norm=False),
    "norm": lambda settings, seed: _linear(settings, seed, residual=False, norm=True),
    "gelu residual+norm": _gelu,
}


@torch.no_grad()
def psi_by_depth(layers: Iterator[Callable[[Tensor], Tensor]], x: Tensor, depths: tuple[int, ...]) -> dict[int, Tensor]:
    """Psi_1..Psi_L of the net of the first L `layers`, for every L of `depths`.

    The full net and all nets with one layer bypassed go through the layers together, each branching off the full one at
    the layer that it bypasses: L^2/2 layer products for all of them.

    Args:
        layers: at least as many as the deepest net has; each maps (..., width) to the same shape.
        x: (inputs, width), where the streams start.
        depths: L, increasing.

    Returns:
        (L,) in float64 for each L: the mean over inputs.
    """
    streams = x.new_empty(depths[-1] + 1, *x.shape)  # the full net, then the one without layer 1, 2, ...
    streams[0] = x
    found = {}
    for number, layer in zip(range(1, depths[-1] + 1), layers, strict=False):
        after = layer(streams[:number])
        streams[number] = streams[0]
        streams[:number] = after
        if number in depths:
            moved = streams[1 : number + 1] - streams[0]
            # Without norms the stream grows by sqrt(2) a layer: its squares leave float32.
            size = torch.linalg.vector_norm(streams[0], dim=-1, dtype=torch.float64)
            found[number] = (torch.linalg.vector_norm(moved, dim=-1, dtype=torch.float64) / size).mean(dim=-1)
    return found


def run_id(settings: DepthSettings, variant: str, seed: int) -> str:
    """`stability-<variant>-<seed>-<12 hex digits>`: a hash of everything that decides the numbers.

    >>> run_id(SCALES["smoke"], "gelu residual+norm", 1)[:-12]
    'stability-gelu-residual+norm-1-'
    """
    sizes = {name: value for name, value in asdict(settings).items() if name != "seeds"}
    return name_of_random_net(sizes, variant, seed, numerics=NUMERICS_VERSION)


def measure_stability_depth(settings: DepthSettings) -> pd.DataFrame:
    """Measures every variant with every seed.

    Args:
        settings: sizes and seeds.

    Returns:
        Tidy rows: `method` is the variant, `step` the depth L; `mean_psi` at every depth, `psi_<l>` at one.

    Raises:
        InputError: a net's output is not finite.
    """
    rows = []
    for variant, make in VARIANTS.items():
        for seed in range(settings.seeds):
            signs = torch.randint(2, (settings.inputs, settings.width), generator=stream(seed, "inputs"))
            found = psi_by_depth(make(settings, seed), signs.float() * 2 - 1, settings.depths)
            metrics = [(depth, "mean_psi", float(psi.mean())) for depth, psi in found.items()]
            single = found[settings.layers_at].tolist()
            metrics += [(settings.layers_at, f"psi_{layer}", value) for layer, value in enumerate(single, start=1)]
            if not all(math.isfinite(value) for _, _, value in metrics):
                raise InputError(f"'{variant}' with seed {seed} gives a Psi that is not finite; use smaller depths")
            name = run_id(settings, variant, seed)
            rows += [(name, variant, "", seed, depth, metric, value) for depth, metric, value in metrics]
    return pd.DataFrame(rows, columns=COLUMNS)


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every net, and what a report should know of them."""
    settings = SCALES[request.scale]
    settings = replace(settings, seeds=request.seeds or settings.seeds)
    request.say(f"{request.scale} scale: {settings.seeds} nets a variant, width {settings.width}")
    return measure_stability_depth(settings), {"seeds": list(range(settings.seeds))}


STUDY = Study(
    name="stability-vs-depth",
    description="how much a net at initialisation moves when one layer is bypassed, against depth",
    version=1,
    scales={"smoke": "seconds", "quick": "under a minute on one core", "report": "about ten minutes on one core"},
    measure=measure,
    on_text=False,
    in_processes=False,
)
