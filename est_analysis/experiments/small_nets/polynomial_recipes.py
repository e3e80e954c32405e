"""The recipes on Boolean polynomials: which methods learn which degree, and what happens at a stage transition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from est_analysis.experiments.runs.pool import progress_line, run_in_pool
from est_analysis.experiments.runs.spec import run_id
from est_analysis.experiments.runs.store import collect, finished
from est_analysis.experiments.small_nets.polynomials import PolynomialSpec, run_polynomials
from est_analysis.experiments.study import Request, Study
from est_analysis.train.settings import Settings

RAPTR_VS_PLD = ("full", "raptr", "raptr_reversed", "stochastic_depth", "pld")
TRANSITION_METHODS = ("raptr", "est", "pld", "gradual_stacking")


@dataclass(frozen=True, kw_only=True)
class PolynomialScale:
    """How large a polynomial recipe is run; fields as in `PolynomialSpec`.

    Attributes:
        steps, lr: of every run; the learning rate falls to a tenth along a cosine.
        seeds: how many, 0, 1, ... .
        schedule: of depths, for all methods alike; empty for each one's own, which all save 25 %.
        bank: seeds that train as one bank.
        evaluations: of the components, evenly over the run.
        cost: what to expect, in words.
    """

    dimension: int
    max_degree: int
    terms: int
    hidden: int
    num_layers: int
    batch_size: int
    steps: int
    seeds: int
    cost: str
    lr: float = 1e-3
    points: int = 8192
    tail: int = 0
    schedule: str = ""
    bank: int = 4
    evaluations: int = 24

    def spec(self, method: str, seeds: Sequence[int]) -> PolynomialSpec:
        """One bank."""
        settings = Settings(
            steps=self.steps,
            lr=self.lr,
            warmup=self.steps // 50,
            decay="cosine",
            betas=(0.9, 0.999),
            weight_decay=0.0,
            clip=0.0,
            log_every=max(1, self.steps // 100),
            eval_every=max(1, self.steps // self.evaluations),
            save_every=max(1, self.steps // 10),
        )
        shape = ("dimension", "max_degree", "terms", "hidden", "num_layers", "batch_size", "points", "tail", "schedule")
        sizes = {name: getattr(self, name) for name in shape}
        return PolynomialSpec(method=method, seeds=tuple(seeds), settings=settings, **sizes)


def _groups(seeds: int, size: int) -> list[range]:
    return [range(start, min(start + size, seeds)) for start in range(0, seeds, size)]


def method_specs(scale: PolynomialScale, seeds: int) -> list[PolynomialSpec]:
    """Every method on every seed: `poly-raptr-vs-pld`."""
    return [scale.spec(method, group) for method in RAPTR_VS_PLD for group in _groups(seeds, scale.bank)]


def transition_specs(scale: PolynomialScale, seeds: int) -> list[PolynomialSpec]:
    """Every method with and without residuals and norms, and RaPTr with every scaling: `transition-smoothness`."""
    groups = _groups(seeds, scale.bank)
    specs = [
        replace(scale.spec(method, group), residual=residual, layer_norm=layer_norm)
        for method, residual, layer_norm in product(TRANSITION_METHODS, (True, False), (True, False))
        for group in groups
    ]
    scales = ("sqrt_gap", "linear_gap", "inv_p")
    return specs + [replace(scale.spec("raptr", group), output_scale=one) for one in scales for group in groups]


def label(spec: PolynomialSpec) -> str:
    """The spec's name in a frame: its method, and what was changed about it.

    >>> scale = PolynomialScale(dimension=4, max_degree=2, terms=1, hidden=4, num_layers=6, batch_size=2, steps=60,
    ...                         seeds=1, cost="")
    >>> label(replace(scale.spec("pld", (0,)), layer_norm=False))
    'pld/no-norm'
    """
    changes = [] if spec.residual else ["no-residual"]
    changes += [] if spec.layer_norm else ["no-norm"]
    changes += [] if spec.output_scale == "none" else [spec.output_scale]
    return "/".join([spec.method, *changes])


def run_banks(specs: Sequence[PolynomialSpec], *, root: Path, workers: int, say: Callable[[str], None]) -> pd.DataFrame:
    """Make every bank that is not finished yet, `workers` at once; the rows of all, `method` as `label` has it.

    Raises:
        Stopped: interrupted; every unfinished bank has saved its state.
    """
    folders = [root / run_id(spec, data_hash="") for spec in specs]

    def done() -> str:
        return f"{sum(finished(folder) is not None for folder in folders)} of {len(folders)} banks"

    unfinished = [
        [partial(_run_one, spec, root)] for spec, folder in zip(specs, folders, strict=True) if finished(folder) is None
    ]
    if unfinished:  # no processes for nothing
        run_in_pool(unfinished, workers=workers, show=progress_line(done, say), saved=str(root))
    frames = [collect([folder]).assign(method=label(spec)) for folder, spec in zip(folders, specs, strict=True)]
    return pd.concat(frames, ignore_index=True)


def _run_one(spec: PolynomialSpec, root: Path) -> None:
    torch.set_num_threads(1)
    run_polynomials(spec, root=root)


_SMOKE = PolynomialScale(
    dimension=6,
    max_degree=2,
    terms=2,
    hidden=8,
    num_layers=12,
    batch_size=16,
    steps=60,
    seeds=2,
    bank=2,
    points=256,
    tail=4,
    cost="seconds; shows that the code runs, nothing else",
)
# Sizes and learning rate come from pilots of the baseline alone, on seeds 100 and 101, which no recipe runs: the
# smallest setting in which it learns most of degree 5.
_QUICK = PolynomialScale(
    dimension=20,
    max_degree=5,
    terms=4,
    hidden=64,
    num_layers=12,
    batch_size=128,
    steps=8000,
    lr=2e-3,
    seeds=8,
    tail=400,
    cost="about seven minutes on two cores",
)
_REPORT = replace(
    _QUICK,
    max_degree=6,
    num_layers=20,
    steps=16_000,
    tail=800,
    schedule="1:1,1,0.4; 2:1,1,0.6; 3:1,1,0.8; 4:1,1,1",  # 8-12-16-20
    cost="about half an hour on two cores",
)
_TRANSITIONS = replace(_QUICK, steps=1600, seeds=4, tail=0, cost="about five minutes on two cores")
_TRANSITIONS_REPORT = replace(_TRANSITIONS, steps=6000, seeds=8, cost="about forty minutes on two cores")


def _measure(
    make: Callable[[PolynomialScale, int], list[PolynomialSpec]], scales: dict[str, PolynomialScale], request: Request
) -> tuple[pd.DataFrame, dict[str, Any]]:
    scale = scales[request.scale]
    count, workers = request.seeds or scale.seeds, request.processes
    specs = make(scale, count)
    request.say(
        f"{request.scale} scale: {len(specs)} banks of up to {scale.bank} nets, {scale.steps} steps, {workers} at once "
        f"({scale.cost})"
    )
    frame = run_banks(specs, root=request.runs, workers=workers, say=request.say)
    sizes = sum(parameter.numel() for parameter in specs[0].net(0).parameters())
    return frame, {"num_parameters": sizes, "seeds": list(range(count))}


def _study(name: str, description: str, make, scales: dict[str, PolynomialScale]) -> Study:
    return Study(
        name=name,
        description=description,
        version=1,
        scales={one: scale.cost for one, scale in scales.items()},
        measure=partial(_measure, make, scales),
        on_text=False,
    )


STUDY_SCALES = {"smoke": _SMOKE, "quick": _QUICK, "report": _REPORT}
STUDIES = (
    _study(
        "poly-raptr-vs-pld",
        "full, RaPTr, RaPTr reversed, stochastic depth and PLD on Boolean polynomials at equal average depth",
        method_specs,
        STUDY_SCALES,
    ),
    _study(
        "transition-smoothness",
        "losses around stage transitions, with and without residual connections, layer norm and scaling",
        transition_specs,
        {"smoke": _SMOKE, "quick": _TRANSITIONS, "report": _TRANSITIONS_REPORT},
    ),
)
