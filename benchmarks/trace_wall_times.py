"""Part (b) of `trace_vs_peers.py`: seconds until the standard error is 2 % of the trace, measured or extrapolated."""

import math
import statistics
import sys
import time

from trace_contest import LARGE, LEAST, OURS, SMALL, TARGET, Contest, Records, our_batch
from trace_peers import (
    HUTCHINSON,
    SKETCHES,
    Estimate,
)

from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.curvature.taylor.engine import TaylorEngine
from est_analysis.curvature.trace import Budget
from est_analysis.curvature.trace import hutchinson as our_hutchinson


def ours_until(contest: Contest, sequences: int, budget: Budget, seed: int) -> tuple[Estimate, float]:
    """Our estimate, and the variance of v'Hv over probes for one sequence (NaN where batches hold more)."""
    batches = [our_batch(batch) for batch in contest.batches(sequences, contest.micro)]
    objective = LanguageModelObjective(contest.model, "causal")
    start = time.perf_counter()
    found = our_hutchinson(objective, batches, engine=TaylorEngine(groups=2), seed=seed, budget=budget)
    estimate = Estimate(found.value, found.stderr, found.pairs, time.perf_counter() - start)
    per_value = budget.probes / 2
    batch_variance = per_value * statistics.fmean(statistics.variance(sample.values) for sample in found.samples)
    return estimate, batch_variance


def best_batch(contest: Contest, peer: type) -> int:
    """The batch size whose sequences are the fastest, of one to sixteen of our micro-batches."""
    best, least = contest.micro, math.inf
    for size in (contest.micro, 4 * contest.micro, 16 * contest.micro):
        contestant = peer(contest.eager, contest.batches(size, size))
        contestant.draw()
        start = time.perf_counter()
        contestant.draw()
        seconds = (time.perf_counter() - start) / size
        if seconds >= least:
            break
        best, least = size, seconds
    return best


def hutchinson_until(peer, seconds: float) -> Estimate:
    """Samples until their own standard error is small enough, or time is up."""
    samples: list[float] = []
    start = time.perf_counter()
    while True:
        samples += peer.draw()
        found = Estimate.of(samples)
        found.seconds = time.perf_counter() - start
        if len(samples) >= LEAST and found.relative <= TARGET:
            return found
        if found.seconds * (1 + peer.at_once / len(samples)) > seconds and len(samples) > 1:
            return found


def sketch_until(peer, seconds: float) -> Estimate:
    """Budgets doubled until their own error estimate is small enough, or the next would take too long."""
    products, begun = LEAST * peer.unit, time.perf_counter()
    while True:
        start = time.perf_counter()
        found = peer.run(products)
        now = time.perf_counter()
        found.seconds = now - start
        if found.relative <= TARGET or (now - begun) + 2 * found.seconds > seconds:
            return found
        products *= 2


class WallTimes:
    """Part (b): the figures, and what is extrapolated from them."""

    def __init__(self, contest: Contest, peer_seconds: float, records: Records) -> None:
        self.contest, self.cap, self.records = contest, peer_seconds, records
        self.estimates: dict[int, dict[str, Estimate]] = {SMALL: {}, LARGE: {}}

    def measure(self) -> None:
        contest = self.contest
        print(f"\n(b) until the standard error is {TARGET:.0%}; ~ is extrapolated, see the script's head")
        print(f"{'contestant':34} {'sequences':>9} {'seconds':>9} {'x ours':>7} {'probes':>7}   estimate (measured)")
        # Two probes a batch for a sample of text; eight for exactly these batches, all of which must be seen.
        ours, self.batch_variance = ours_until(contest, LARGE, Budget(rel_se=TARGET, probes=2, max_pairs=1 << 14), 0)
        self.row(OURS, LARGE, ours, ours.seconds, ours.probes)
        fixed = Budget(rel_se=TARGET, probes=8, target="batches", max_pairs=1 << 14)
        ours, _ = ours_until(contest, SMALL, fixed, 1)
        self.row(OURS, SMALL, ours, ours.seconds, ours.probes)
        self.sizes = {peer: best_batch(contest, peer) for peer in HUTCHINSON}
        for sketch in SKETCHES:
            self.sizes[sketch] = self.sizes[sketch.__mro__[1]]
        measured = {peer: self.peer(peer, SMALL) for peer in (*HUTCHINSON, *SKETCHES)}
        self.show(SMALL, measured)
        large = {
            peer: self.peer(peer, LARGE) if self.per_probe(found) * LARGE / SMALL * LEAST <= self.cap else None
            for peer, found in measured.items()
        }
        self.show(LARGE, large, measured)
        sizes = ", ".join(f"{peer.name} {size}" for peer, size in self.sizes.items())
        print(f"sequences in a batch of the peers' sweeps (the fastest of those tried): {sizes}")

    def peer(self, peer: type, sequences: int) -> Estimate:
        print(f"... {peer.name}", file=sys.stderr)
        contestant = peer(self.contest.eager, self.contest.batches(sequences, self.sizes[peer]))
        return (sketch_until if peer in SKETCHES else hutchinson_until)(contestant, self.cap)

    @staticmethod
    def per_probe(found: Estimate) -> float:
        return found.seconds / found.probes

    def pooled(self, found: dict[type, Estimate | None]) -> list[float]:
        return [x for peer in HUTCHINSON if found[peer] is not None for x in found[peer].samples]

    def show(self, sequences: int, found: dict, small: dict | None = None) -> None:
        """Rows of all peers; those not measured, or stopped early, by extrapolation."""
        samples = self.pooled(found)
        variance, mean = (statistics.variance(samples), statistics.fmean(samples)) if samples else (math.nan, math.nan)
        fewer = 1.0
        if small is not None and None in found.values():
            variance, fewer = self.variance_on_more(self.pooled(small), sequences)
            mean = self.estimates[LARGE][OURS].value
        needed = max(LEAST, math.ceil(variance / (TARGET * mean) ** 2))
        for peer, estimate in found.items():
            if estimate is not None and peer in HUTCHINSON:
                # Whoever stops on four samples of its own may just have been lucky; this is what one has to expect.
                expected = needed * self.per_probe(estimate)
                self.records.add(peer.name, self.contest.shape, sequences, "seconds_expected", expected, True)
            if estimate is not None and estimate.relative <= TARGET:
                self.row(peer.name, sequences, estimate, estimate.seconds, estimate.probes)
                continue
            source = estimate or small[peer]
            seconds = self.per_probe(source) * (1 if estimate is not None else sequences / SMALL)
            probes = needed
            if peer in SKETCHES:
                products = source.probes * (source.relative / TARGET) * (1 if estimate is not None else fewer)
                probes = max(LEAST * peer.unit, math.ceil(products))
            self.row(peer.name, sequences, estimate, seconds * probes, probes, extrapolated=True)
        note = f"a Hutchinson over {sequences:,} sequences has to expect ~{needed} probes"
        print(f"{note}, by a spread of {math.sqrt(variance) / abs(mean):.1%} a probe; fewer were luck")

    def variance_on_more(self, samples: list[float], sequences: int) -> tuple[float, float]:
        """Variance of a probe over more sequences, and its ratio to that over 64."""
        blocks, small = SMALL // self.contest.micro, statistics.variance(samples)
        common = max(0.0, (blocks * small - self.batch_variance) / (blocks - 1))
        large = common + (self.batch_variance - common) / (sequences // self.contest.micro)
        return large, large / small

    def row(
        self, name: str, sequences: int, found: Estimate | None, seconds: float, probes: int, extrapolated: bool = False
    ) -> None:
        ours = self.estimates[sequences].get(OURS)
        times = 1.0 if ours is None else seconds / ours.seconds
        mark = "~" if extrapolated else ""
        measured = "-"
        if found is not None:
            measured = f"{found.value:.5g} +- {found.stderr:.2g} ({found.relative:.1%}), {found.probes} probes"
        figures = f"{mark + format(seconds, '.1f'):>9} {times:7.1f} {mark + str(probes):>7}"
        print(f"{name:34} {sequences:9,d} {figures}   {measured}", flush=True)
        add, shape = self.records.add, self.contest.shape
        add(name, shape, sequences, "seconds_to_2_percent", seconds, extrapolated)
        add(name, shape, sequences, "probes_to_2_percent", probes, extrapolated)
        if found is not None:
            self.estimates[sequences][name] = found
            add(name, shape, sequences, "trace", found.value)
            add(name, shape, sequences, "trace_stderr", found.stderr)
            add(name, shape, sequences, "seconds_measured", found.seconds)
