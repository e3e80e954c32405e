"""Hutchinson's estimate of a trace, tr H = E[v' H v] for random signs v, with fresh probes for every batch.

One probe swept over a whole data set, as other tools do, makes each probe cost the whole data set and leaves the noise
of the data out of the error. Fresh (batch, probe) pairs cost the same whatever the data, and their spread is the whole
error.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from est_analysis.curvature.engine import Engine
from est_analysis.curvature.estimate import Sample, Target, TraceEstimate, estimate
from est_analysis.curvature.loss import Objective
from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError

# Before a standard error is believed enough to stop on it. Stopping sooner, where it happens to be small, would leave
# intervals of 95 % that cover 92 % (simulated, skewness 2).
LEAST = 48  # measurements
_BATCHES = 16  # of distinct text; a text of fewer than 48 is swept again


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop, and what a measurement is.

    Attributes:
        rel_se: stop at this standard error relative to the trace.
        max_pairs: stop at this many (batch, probe) pairs even so.
        probes: a batch, at once.
        target: what the batches stand for, see `estimate`.
    """

    rel_se: float = 0.02
    max_pairs: int = 4096
    probes: int = 8
    target: Target = "distribution"

    def __post_init__(self):
        if not 0 < self.rel_se < math.inf:
            raise InputError(f"rel_se={self.rel_se} is not positive and finite; 0.02 asks for 2 %")
        if self.probes < 1:
            raise InputError(f"probes={self.probes} is not positive; use 8, or 1 where memory is short")
        if self.max_pairs < 2 * self.probes:
            raise InputError(
                f"max_pairs={self.max_pairs} is fewer than two batches of {self.probes} probes, from which no error "
                f"can be told; use at least {2 * self.probes}"
            )

    def reached(self, found: TraceEstimate, num_batches: int | None) -> bool:
        """Whether `found` is good enough. A stalled mean is no reason: it stalls long before it is right."""
        if self.target == "batches" and found.batches < (num_batches or 0):
            return False  # batches not looked at yet are an error that no spread of probes shows
        values = found.df + 1 if self.target == "batches" else len(found.samples)  # that the error comes from
        enough = values >= LEAST and (self.target == "batches" or found.batches >= _BATCHES)
        return enough and found.relative_stderr <= self.rel_se


def hutchinson(
    objective: Objective,
    batches: Iterable[Any],
    *,
    engine: Engine,
    seed: int,
    budget: Budget = Budget(),
    kept: Sequence[Sample] = (),
    shard: tuple[int, int] = (0, 1),
    exchange: Callable[[list[Sample]], list[Sample]] = lambda samples: samples,
    on_sample: Callable[[Sample], None] = lambda sample: None,
    on_estimate: Callable[[TraceEstimate], None] = lambda found: None,
) -> TraceEstimate:
    """Estimate the trace of the Hessian of the mean target loss.

    Args:
        objective: the loss.
        batches: in random order, since the first of them may be all that is needed. A sequence is swept again, with
            fresh probes, if one sweep is not enough; a stream just ends.
        engine: how to measure.
        seed: of the probes; measurement i has the same ones for every model with parameters of these names and shapes.
        budget: when to stop.
        kept: measurements made before, which are not repeated.
        shard: (i, n): do only every n-th measurement, from the i-th.
        exchange: gathers each round's measurements from all processes that share the work.
        on_sample: called with each new measurement, of other processes too.
        on_estimate: called with the estimate after each round.

    Raises:
        InputError: fewer than two batches, from which no error can be told.
    """
    num_batches = len(batches) if isinstance(batches, Sequence) else None
    samples = {sample.index: sample for sample in exchange(list(kept))}
    found, judged = _judge(samples, engine, budget, on_estimate), len(samples)
    for index, batch in _numbered(batches, shard, budget.max_pairs // budget.probes):
        if found is not None and judged - _look(judged) < shard[1] and budget.reached(found, num_batches):
            return found
        new = []
        if index not in samples:
            start = time.perf_counter()
            measured = _measure(objective, batch, engine, seed, index, budget.probes)
            number = index % num_batches if num_batches else index
            new.append(Sample(index=index, batch=number, seconds=time.perf_counter() - start, **measured))
        for sample in exchange(new):
            samples[sample.index] = sample
            on_sample(sample)
        if _look(len(samples)) > judged:
            found, judged = _judge(samples, engine, budget, on_estimate), len(samples)
    found = _judge(samples, engine, budget, on_estimate)
    if found is None or (found.batches < 2 and budget.target == "distribution"):
        enough = num_batches is None or num_batches > 1
        fix = "raise --max-pairs" if enough and shard[1] > 1 else "give more text or shorter sequences"
        raise InputError(f"fewer than two batches give no standard error; {fix}")
    return found


def _look(count: int) -> int:
    """The last number of measurements up to `count` at which all are gone through: every one up to 64, then ever fewer.

    Fixed numbers, so that work that was interrupted stops where it would have stopped otherwise.
    """
    return count - count % (1 << max(0, count.bit_length() - 6))


def _judge(samples: dict[int, Sample], engine: Engine, budget: Budget, tell: Callable) -> TraceEstimate | None:
    if not samples:
        return None
    found = estimate([samples[i] for i in sorted(samples)], engine=engine.name, target=budget.target)
    tell(found)
    return found


def _numbered(batches: Iterable[Any], shard: tuple[int, int], most: int) -> Iterator[tuple[int, Any]]:
    """This shard's batches by number, in whole rounds, so that processes in step never wait for one that has ended."""
    first, step = shard
    most -= most % step
    if isinstance(batches, Sequence):
        if batches:
            yield from ((index, batches[index % len(batches)]) for index in range(first, most, step))
        return
    for index, batch in zip(range(most), batches, strict=False):
        if index % step == first:
            mine = index, batch
        if index % step == step - 1:
            yield mine


def _measure(objective: Objective, batch: Any, engine: Engine, seed: int, index: int, probes: int) -> dict[str, Any]:
    numbers = range(index * probes, (index + 1) * probes)
    measured = engine.measure(objective, batch, Probes(seed, numbers))
    return {
        "weight": objective.weight(batch),
        "loss": measured.loss,
        "pairs": probes,
        "values": tuple(measured.values.tolist()),
        "blocks": () if measured.blocks is None else tuple(measured.blocks.mean(0).tolist()),
    }
