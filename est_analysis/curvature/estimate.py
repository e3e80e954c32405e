"""From measured batches to a trace with its standard error.

Batch i of w_i targets, measured along fresh probes, gives q_i with E q_i = tr H_i. The trace of the mean target loss is
the ratio sum w_i q_i / sum w_i (a mean of batch means would be another loss where batches differ in targets), and the
spread of the w_i (q_i - trace) over batches holds the noise of data and of probes together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from scipy import stats

from est_analysis.errors import InputError

Target = Literal["distribution", "batches"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement of one batch.

    Attributes:
        index: number of the measurement; decides its data and its probes.
        batch: which data; equal for later sweeps over the same batches.
        weight: targets in the batch.
        loss: of the batch.
        pairs: probes used.
        values: unbiased estimates of the batch's trace, each the mean over an equal share of the probes.
        seconds: wall time.
        blocks: each parameter tensor's share, mean over probes; empty if not asked for.
    """

    index: int
    batch: int
    weight: int
    loss: float
    pairs: int
    values: tuple[float, ...]
    seconds: float
    blocks: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TraceEstimate:
    """An estimated trace.

    Attributes:
        value: token-weighted mean over batches.
        stderr: its standard error; NaN below two batches.
        stderr_data: the part from which batches were drawn; NaN if it cannot be told from the other.
        stderr_probes: the part from which probes were drawn; stderr^2 is the sum of both squares.
        df: degrees of freedom of stderr, of batches or, where these are all, of probes.
        pairs: (batch, probe) pairs.
        batches: distinct batches.
        targets: tokens whose loss was measured, each batch counted once.
        loss: mean loss over them.
        seconds: wall time of the measurements, those of other shards included.
        engine: which.
        samples: every measurement.
    """

    value: float
    stderr: float
    stderr_data: float
    stderr_probes: float
    df: int
    pairs: int
    batches: int
    targets: int
    loss: float
    seconds: float
    engine: str
    samples: tuple[Sample, ...]

    @property
    def relative_stderr(self) -> float:
        """Standard error over the trace's size; infinite for a trace of zero."""
        return self.stderr / abs(self.value) if self.value else math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student confidence interval."""
        half = stats.t.ppf((1 + level) / 2, max(self.df, 1)) * self.stderr
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Clusters:
    """Measurements by batch, all (n,): the batch's number, its weight w_i, and q_i, the mean of its values."""

    batches: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    losses: np.ndarray
    probe_variances: np.ndarray  # of q_i given the batch; NaN where no batch was measured twice
    probe_df: int  # degrees of freedom of the one variance that these come from

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Clusters":
        """Group `samples` by batch."""
        values: dict[int, list[float]] = {}
        first: dict[int, Sample] = {}
        for sample in samples:
            values.setdefault(sample.batch, []).extend(sample.values)
            first.setdefault(sample.batch, sample)
        batches = sorted(values)
        repeated = [np.var(values[b], ddof=1) for b in batches if len(values[b]) > 1]
        # One variance of a single value for all batches: each has too few values for its own to mean much.
        within = float(np.mean(repeated)) if repeated else math.nan
        return cls(
            np.array(batches),
            np.array([first[b].weight for b in batches], dtype=float),
            np.array([fmean(values[b]) for b in batches]),
            np.array([first[b].loss for b in batches]),
            np.array([within / len(values[b]) for b in batches]),
            sum(len(found) - 1 for found in values.values()),
        )

    def mean(self, of: np.ndarray) -> float:
        """Weighted mean."""
        return float(np.average(of, weights=self.weights))

    def stderr(self, of: np.ndarray) -> float:
        """Standard error of the weighted mean of `of`, a ratio of sums over batches (Cochran 1977, section 6.3)."""
        n = len(of)
        if n < 2:
            return math.nan
        residuals = self.weights * (of - self.mean(of))
        return float(np.sqrt(n / (n - 1) * np.sum(residuals**2)) / np.sum(self.weights))


def estimate(samples: Sequence[Sample], *, engine: str, target: Target = "distribution") -> TraceEstimate:
    """The trace that `samples` say.

    Args:
        samples: measurements, in any order.
        engine: that made them.
        target: `distribution`, the text that the batches are a sample of; or `batches`, exactly these batches, so that
            only the probes are random.
    """
    clusters = Clusters.of(samples)
    total = clusters.stderr(clusters.means)
    probes = math.sqrt(np.sum(clusters.weights**2 * clusters.probe_variances)) / float(np.sum(clusters.weights))
    data = math.sqrt(max(total**2 - probes**2, 0)) if not math.isnan(total + probes) else math.nan
    return TraceEstimate(
        value=clusters.mean(clusters.means),
        stderr=probes if target == "batches" else total,
        stderr_data=0.0 if target == "batches" else data,
        stderr_probes=probes,
        df=clusters.probe_df if target == "batches" else len(clusters.batches) - 1,
        pairs=sum(sample.pairs for sample in samples),
        batches=len(clusters.batches),
        targets=int(np.sum(clusters.weights)),
        loss=clusters.mean(clusters.losses),
        seconds=sum(sample.seconds for sample in samples),
        engine=engine,
        samples=tuple(samples),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A trace against the baseline's, measured on the same batches along the same probes.

    Attributes:
        difference: this trace minus the baseline's.
        difference_stderr: its standard error; what both share is gone.
        ratio: this trace over the baseline's; NaN where that is 0.
        ratio_ci: Fieller's 95 % interval; infinite ends where the baseline's trace may be zero.
        correlation: of the two over batches, what pairing gains from.
    """

    difference: float
    difference_stderr: float
    ratio: float
    ratio_ci: tuple[float, float]
    correlation: float

    @property
    def ratio_margin(self) -> float:
        """Half of the ratio's interval, relative to the ratio; infinite where the ratio is 0."""
        low, high = self.ratio_ci
        return (high - low) / (2 * abs(self.ratio)) if self.ratio else math.inf


def compare(other: Sequence[Sample], baseline: Sequence[Sample], *, paired: bool = True) -> Comparison:
    """Compare two sets of measurements.

    Args:
        other: of one checkpoint.
        baseline: of the other; measurement i of both saw the same batch and probes if `paired`.
        paired: False for two independent sets.

    Raises:
        InputError: they have no measurement in common.
    """
    if paired:
        both = {sample.index for sample in other} & {sample.index for sample in baseline}
        if not both:
            raise InputError("0 measurements in common make no comparison; measure both, or compare unpaired")
        other, baseline = ([sample for sample in samples if sample.index in both] for samples in (other, baseline))
    a, b = Clusters.of(other), Clusters.of(baseline)
    mean_a, mean_b = a.mean(a.means), b.mean(b.means)
    var_a, var_b = a.stderr(a.means) ** 2, b.stderr(b.means) ** 2
    covariance, correlation, freedom = 0.0, 0.0, min(len(a.means), len(b.means)) - 1
    if paired:
        # Polarisation, so that the three numbers come from one formula.
        covariance = (a.stderr(a.means + b.means) ** 2 - var_a - var_b) / 2
        correlation = covariance / math.sqrt(var_a * var_b) if var_a * var_b > 0 else math.nan
    t = float(stats.t.ppf(0.975, max(freedom, 1)))
    return Comparison(
        difference=mean_a - mean_b,
        difference_stderr=math.sqrt(max(var_a + var_b - 2 * covariance, 0)),
        ratio=mean_a / mean_b if mean_b else math.nan,
        ratio_ci=_fieller(mean_a, mean_b, var_a, var_b, covariance, t),
        correlation=correlation,
    )


def _fieller(a: float, b: float, var_a: float, var_b: float, covariance: float, t: float) -> tuple[float, float]:
    """All r for which a - r b is within t standard errors of zero (Fieller 1954)."""
    quadratic, linear, constant = b * b - t * t * var_b, a * b - t * t * covariance, a * a - t * t * var_a
    root = linear * linear - quadratic * constant
    if not quadratic > 0 or root < 0:
        return -math.inf, math.inf
    return (linear - math.sqrt(root)) / quadratic, (linear + math.sqrt(root)) / quadratic
