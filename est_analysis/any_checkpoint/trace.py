"""The Hessian trace of a checkpoint on a text: what `est trace` and `est compare` do, for programs and notebooks."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from est_analysis.any_checkpoint.text import OnDevice, TextSource, few_tokens, read_text, sequence_length
from est_analysis.curvature.checkpoint import Loaded
from est_analysis.curvature.engine import Engine
from est_analysis.curvature.estimate import Sample, Target, TraceEstimate
from est_analysis.curvature.fisher import EmpiricalFisherEngine, FisherEngine
from est_analysis.curvature.hvp import HvpEngine
from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.curvature.memory import Plan, plan
from est_analysis.curvature.probes import Probes
from est_analysis.curvature.samples import SampleFile
from est_analysis.curvature.taylor.engine import TaylorEngine
from est_analysis.curvature.taylor.jet import UnsupportedOperator
from est_analysis.curvature.trace import Budget, hutchinson
from est_analysis.data.cache import cache_root
from est_analysis.data.inputs import ModelInputs
from est_analysis.errors import InputError, unknown_name

ENGINES: dict[str, Callable[[], Engine]] = {
    "taylor": TaylorEngine,
    "hvp": HvpEngine,
    "fisher": FisherEngine,
    "empirical-fisher": EmpiricalFisherEngine,
}


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """What is measured, and how well.

    Attributes:
        text: the text.
        engine: `auto` (taylor, or hvp for a model with an operator that taylor lacks), or a name in `ENGINES`.
        seq_len: tokens a sequence; None: as in training for a run of ours, else the model's longest, at most 1,024.
        micro_batch: sequences measured at once; None: what memory and speed suggest.
        probes: a micro-batch; None: likewise.
        rel_se: relative standard error to stop at.
        max_pairs: (micro-batch, probe) pairs to stop at.
        over: `distribution`, the text that the sequences are a sample of, or `batches`, exactly these.
        blocks: keep each parameter's share, which taylor cannot tell.
        seed: of windows and probes.
    """

    text: TextSource = field(default_factory=TextSource)
    engine: str = "auto"
    seq_len: int | None = None
    micro_batch: int | None = None
    probes: int | None = None
    rel_se: float = 0.02
    max_pairs: int = 8192
    over: Target = "distribution"
    blocks: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.engine not in ("auto", *ENGINES):
            raise unknown_name("engine", self.engine, ("auto", *ENGINES))
        for name in ("seq_len", "micro_batch", "probes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} is not positive; use at least 1, or leave it out")
        if not 0 < self.rel_se < math.inf:
            raise InputError(f"rel_se={self.rel_se} is not positive and finite; 0.02 asks for 2 %")
        if self.blocks and self.engine == "taylor":
            raise InputError("engine taylor cannot tell layers apart, it never forms the vector H v; use --engine hvp")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checkpoint ready to be measured.

    Attributes:
        loaded: the checkpoint.
        objective: its loss.
        inputs: the batches.
        engine: that will measure.
        fallback: why it is not the one that `auto` prefers, or "".
        plan: sizes, and the memory they are predicted to take.
        identity: all that decides the numbers.
    """

    loaded: Loaded
    objective: LanguageModelObjective
    inputs: Sequence[dict[str, torch.Tensor]]
    engine: Engine
    fallback: str
    plan: Plan
    identity: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.objective.parameters.values())).device


def prepare(loaded: Loaded, settings: TraceSettings) -> Prepared:
    """Read the text with the checkpoint's tokenizer, choose engine and sizes.

    Raises:
        InputError: text, tokenizer or sizes do not fit the model or the memory.
    """
    objective = LanguageModelObjective(loaded.model, loaded.loss)
    text = read_text(loaded, settings.text)
    seq_len = sequence_length(loaded, settings.seq_len, len(text.tokens))
    sizes = {"seq_len": seq_len, "micro_batch": settings.micro_batch, "probes": settings.probes}

    def inputs_of(micro_batch: int) -> ModelInputs:
        return text.inputs(seq_len=seq_len, batch_size=micro_batch, seed=settings.seed)

    wanted = "hvp" if settings.blocks and settings.engine == "auto" else settings.engine
    engine, fallback = _engine(wanted, objective, inputs_of(1)[0])
    dtype = next(iter(objective.parameters.values())).dtype
    if dtype.itemsize < 4 and engine.name != "taylor":
        raise InputError(
            f"engine {engine.name} computes in the weights' precision, and {dtype} is too coarse; use float32"
        )
    sizes = plan(objective, engine=engine.name, **sizes)
    if settings.micro_batch is None:  # two batches of a short text, since one gives no standard error
        sizes = replace(sizes, micro_batch=min(sizes.micro_batch, max(1, inputs_of(1).num_windows // 2)))
    identity = {
        "format": 1,
        "weights": loaded.weight_hash,
        "config": loaded.config_hash,
        "commit": loaded.located.commit,
        **text.identity,
        "loss": loaded.loss,
        "engine": engine.name,
        "seq_len": seq_len,
        "micro_batch": sizes.micro_batch,
        "probes": sizes.probes,
        "dtype": str(dtype).removeprefix("torch."),
        "seed": settings.seed,
        "blocks": settings.blocks,
    }
    return Prepared(
        loaded=loaded,
        objective=objective,
        inputs=OnDevice(inputs_of(sizes.micro_batch), next(iter(objective.parameters.values())).device),
        engine=_Blockless(engine) if engine.name != "taylor" and not settings.blocks else engine,
        fallback=fallback,
        plan=sizes,
        identity=identity,
    )


def budget_of(settings: TraceSettings, prepared: Prepared) -> Budget:
    """When to stop."""
    return Budget(
        rel_se=settings.rel_se, max_pairs=settings.max_pairs, probes=prepared.plan.probes, target=settings.over
    )


def default_file(identity: dict[str, Any], shard: tuple[int, int] = (0, 1)) -> Path:
    """Where measurements of that identity are kept unless the user says so: the same command again continues there."""
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    part = "" if shard == (0, 1) else f"-{shard[0] + 1}of{shard[1]}"
    return cache_root() / "traces" / f"{name}{part}.jsonl"


def measure(
    prepared: Prepared,
    budget: Budget,
    *,
    file: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    exchange: Callable[[list[Sample]], list[Sample]] = lambda samples: samples,
    on_estimate: Callable[[TraceEstimate], None] = lambda found: None,
) -> TraceEstimate:
    """Measure until the budget is met, each measurement kept in `file` as it is made.

    Args:
        prepared: from `prepare`.
        budget: when to stop.
        file: continued if it is there; None keeps nothing.
        shard: (i, n): every n-th measurement from the i-th.
        exchange: gathers measurements of processes in step; see `hutchinson`.
        on_estimate: told after each measurement.

    Raises:
        InputError: the file measures something else, or there is too little text.
    """
    kept = SampleFile(file, prepared.identity) if file is not None else None
    try:
        return hutchinson(
            prepared.objective,
            prepared.inputs,
            engine=prepared.engine,
            seed=prepared.identity["seed"],
            budget=budget,
            kept=() if kept is None else tuple(kept.samples),
            shard=shard,
            exchange=exchange,
            on_sample=(lambda sample: None) if kept is None else kept.add,
            on_estimate=on_estimate,
        )
    finally:
        if kept is not None:
            kept.close()


def _engine(name: str, objective: LanguageModelObjective, batch: dict[str, torch.Tensor]) -> tuple[Engine, str]:
    """The engine called `name`; for `auto` taylor if it has a rule for all that the model does to a few tokens."""
    if name not in ("auto", "taylor"):
        return ENGINES[name](), ""
    device = next(iter(objective.parameters.values())).device
    few = {key: value.to(device) for key, value in few_tokens(batch).items()}
    try:
        TaylorEngine().measure(objective, few, Probes(0, (0,)))
    except UnsupportedOperator as error:
        if name == "taylor":
            raise
        return HvpEngine(), str(error).split(";")[0]
    return TaylorEngine(), ""


class _Blockless:
    """An engine without its blocks, so that files stay small."""

    def __init__(self, engine: Engine):
        self.name, self._engine = engine.name, engine

    def measure(self, objective, batch, probes):
        found = self._engine.measure(objective, batch, probes)
        return type(found)(loss=found.loss, values=found.values)
