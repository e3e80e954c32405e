"""Claims about what the machinery of sampling costs in time (EST, arXiv 2406.06962, Appendix B.2 and B.3).

The paper gives no number for either. The regions were written before anything was timed by this recipe. That times
are summed over `BLOCK` rounds came after: a median of single rounds cannot see what falls on one step in eight, as
the index generator's drawing does. No verdict changed.
"""

from functools import partial
from math import inf

import pandas as pd

from .claim import Claim, Measured
from .statistics import common_seeds, over_seeds, runs_of

BLOCK = 8  # rounds: as many masks as the index generator draws when it wakes
_KNOWN = (
    "of benchmarks/subnet_step.py, that drawing takes 0.01 to 0.15 % of a step; the rows, when times were summed over "
    "rounds; the threshold is older"
)


def overhead(frame: pd.DataFrame, *, metric: str, base: str) -> Measured:
    """How much longer steps of `metric` take than those of `base`, in percent: one median over blocks a run.

    The quotient is that of sums over whole blocks of `BLOCK` rounds, so that a slow spell of the machine cancels and no
    step's cost is lost; of fewer rounds, of their sum.
    """
    ours, theirs = (runs_of(frame, "est", name) for name in (metric, base))
    seeds = common_seeds(ours, theirs)
    quotients = {seed: _blocks(ours[seed]) / _blocks(theirs[seed]) for seed in seeds}
    shares = pd.Series({seed: 100 * (float(blocks.median()) - 1) for seed, blocks in quotients.items()})
    times = [1e3 * pd.Series({seed: run[seed].median() for seed in seeds}).mean() for run in (ours, theirs)]
    detail = f"{times[0]:.4g} ms against {times[1]:.4g} ms, medians over {len(theirs[seeds[0]])} rounds, mean over runs"
    return over_seeds(shares, unit="% of a step", detail=detail)


def _blocks(run: pd.Series) -> pd.Series:
    """Sums over whole blocks of rounds, or over all of fewer."""
    block = run.groupby(run.index // BLOCK)
    sums, sizes = block.sum(), block.size()
    return sums[sizes == sizes.max()]


def _claim(topic: str, locus: str, statement: str, rule: tuple[str, tuple[float, float]], **pair: str) -> Claim:
    threshold, region = rule
    return Claim(
        id=f"est.overhead.{topic}",
        paper="EST, arXiv 2406.06962",
        locus=locus,
        statement=statement,
        threshold=threshold,
        region=region,
        recipe="sampling-overhead",
        check=partial(overhead, **pair),
        known=_KNOWN,
    )


_CLAIMS = (
    _claim(
        "extraction",
        "Appendix B.2 (sampled per batch, 'the cost of extracting rows and columns from the matrices is relatively "
        "small'); what is small is ours",
        "Extracting the active heads and columns adds less than 5 % to forward and backward of a sampled step.",
        ("time over that of a model of nothing but those heads and columns, minus 1, below 5 %", (-inf, 5.0)),
        metric="seconds_sampled",
        base="seconds_extracted",
    ),
    _claim(
        "inline",
        "Appendix B.3 (drawing indices before each forward pass 'could result in unnecessary time overhead')",
        "Drawing the masks within the training step makes it longer.",
        ("time over that with masks at hand, minus 1, above 0 %", (0.0, inf)),
        metric="seconds_inline",
        base="seconds_ready",
    ),
    _claim(
        "generator",
        "Appendix B.3 (the asynchronous index generator 'completely eliminates the overhead')",
        "With the index generator a training step takes less than 0.5 % longer than with masks at hand.",
        ("time over that with masks at hand, minus 1, below 0.5 %", (-inf, 0.5)),
        metric="seconds_ahead",
        base="seconds_ready",
    ),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
GROUPS = {"est.overhead": "What EST says of the time that extraction and drawing take."}
