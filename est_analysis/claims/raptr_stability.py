"""RaPTr's lemma on stability at initialisation (arXiv 2402.05913): how the mean of Psi_l falls with the depth L.

The lemma is about linear residual nets: (1/L) sum_l Psi_l is O(1/sqrt L) with residual connections and layer norms, and
Omega(1) if either is missing. It is judged by the exponent c of a fit C L^(-c), a t interval over independent nets.

The thresholds, and that only depths of 32 and more are fitted, were written down before the first measurement. The
depths were chosen with the exact limit of infinite width in sight (`theory.stability`): there the exponent is 1/2 for
L -> inf only, 0.429 over depths 32 to 128, and 0.393 over 8 to 128, which misses the lower threshold of an asymptotic
statement whatever is measured.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf

import numpy as np
import pandas as pd

from est_analysis.theory.stability import (
    gelu_kernel,
    psi_norm,
    psi_residual,
    psi_residual_norm,
    psi_residual_norm_kernel,
)

from .claim import Claim, Measured, NotMeasured
from .statistics import over_seeds, runs_of

FIT_FROM = 32
_PAPER = "RaPTr, arXiv 2402.05913"
_PREDICTIONS: dict[str, Callable[[int], np.ndarray]] = {
    "residual+norm": psi_residual_norm,
    "residual": psi_residual,
    "norm": psi_norm,
    "gelu residual+norm": lambda depth: psi_residual_norm_kernel(depth, gelu_kernel()),
}


def predicted_stability(frame: pd.DataFrame) -> pd.DataFrame:
    """What `theory.stability` predicts, at infinite width, for the variants and the depths that `frame` holds.

    Returns:
        Columns method, step, metric, value: `mean_psi` at every depth of the variant, `psi_<l>` where it has them.
    """
    rows = []
    wanted = frame[frame["method"].isin(list(_PREDICTIONS))]
    for (method, depth), group in wanted.groupby(["method", "step"], sort=False):
        psi = _PREDICTIONS[method](int(depth))
        values = {"mean_psi": float(psi.mean())}
        values |= {f"psi_{layer}": float(value) for layer, value in enumerate(psi, start=1)}
        rows += [(method, depth, metric, values[metric]) for metric in group["metric"].unique() if metric in values]
    return pd.DataFrame(rows, columns=["method", "step", "metric", "value"])


def depth_exponent(frame: pd.DataFrame, method: str) -> Measured:
    """Exponent c of mean Psi = C L^(-c) over depths from `FIT_FROM` on, with its t interval over nets."""
    table = pd.DataFrame({seed: run[run.index >= FIT_FROM] for seed, run in runs_of(frame, method, "mean_psi").items()})
    if len(table) < 2:
        raise NotMeasured(f"mean_psi of '{method}' was recorded at {len(table)} depths of {FIT_FROM} or more, not at 2")
    if table.isna().any(axis=None):
        raise NotMeasured(f"mean_psi of '{method}' was not recorded at the same depths for every seed")
    if (table <= 0).any(axis=None):
        raise NotMeasured(f"mean_psi of '{method}' is not positive everywhere: it follows no power law")
    depths = table.index.to_numpy(dtype=float)
    detail = (
        f"depths {depths[0]:g} to {depths[-1]:g}, mean Psi {table.iloc[0].mean():.3f} to {table.iloc[-1].mean():.3f}"
    )
    if method in _PREDICTIONS:
        exact = round(_exact_exponent(method, depths), 3) + 0.0
        detail += f"; the exponent at infinite width is {exact:.3f} over these depths"
    return over_seeds(pd.Series(_exponents(depths, table.to_numpy()), index=table.columns), unit="", detail=detail)


def exponent_beside_theory(frame: pd.DataFrame) -> Measured:
    """`depth_exponent` with residual connections and norms, minus the exact law's of infinite width at those depths."""
    found = depth_exponent(frame, "residual+norm")
    depths = frame.loc[(frame["method"] == "residual+norm") & (frame["step"] >= FIT_FROM), "step"].unique()
    exact = _exact_exponent("residual+norm", np.sort(depths))
    interval = found.interval and (found.interval[0] - exact, found.interval[1] - exact)
    return replace(found, effect=found.effect - exact, interval=interval)


def _exact_exponent(method: str, depths: np.ndarray) -> float:
    return float(_exponents(depths, np.array([_PREDICTIONS[method](int(depth)).mean() for depth in depths])))


def _exponents(depths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """c of the power law C L^(-c), least squares on logarithmic axes, for every column of `values` (a row a depth).

    Every net has the same depths, so the mean over nets is the exponent through all points; over nets its t interval
    asks nothing of the noise within one, which may be correlated over depths.
    """
    return -np.polyfit(np.log(depths), np.log(values), 1)[0]


_CLAIMS = (
    Claim(
        id="raptr.stability-residual-norm",
        paper=_PAPER,
        locus="lemma on linear residual nets at initialisation: O(1/sqrt L)",
        statement="With residual connections and layer norms, the mean over layers of Psi falls about as 1/sqrt(L).",
        threshold="exponent of mean Psi in 1/L over depths from 32 on, between 0.4 and 0.6",
        region=(0.4, 0.6),
        recipe="stability-vs-depth",
        check=partial(depth_exponent, method="residual+norm"),
        known="the exact limit of infinite width, in sight of which the depths were chosen",
    ),
    Claim(
        id="raptr.stability-exact-law",
        paper=_PAPER,
        locus="ours: the lemma, a bound for L -> inf, beside the exact law at finite L (theory.stability)",
        statement="With residual connections and layer norms, mean Psi falls as the exact law has it.",
        threshold="exponent of mean Psi over depths from 32 on, minus that of infinite width, between -0.02 and 0.02",
        region=(-0.02, 0.02),
        recipe="stability-vs-depth",
        check=exponent_beside_theory,
        known="the rows",
    ),
    Claim(
        id="raptr.stability-residual",
        paper=_PAPER,
        locus="lemma on linear residual nets at initialisation: Omega(1) without layer norm",
        statement="Without layer norms, the mean over layers of Psi does not fall with depth.",
        threshold="exponent of mean Psi in 1/L over depths from 32 on, below 0.1",
        region=(-inf, 0.1),
        recipe="stability-vs-depth",
        check=partial(depth_exponent, method="residual"),
    ),
    Claim(
        id="raptr.stability-norm",
        paper=_PAPER,
        locus="lemma on linear residual nets at initialisation: Omega(1) without residual connections",
        statement="Without residual connections, the mean over layers of Psi does not fall with depth.",
        threshold="exponent of mean Psi in 1/L over depths from 32 on, below 0.1",
        region=(-inf, 0.1),
        recipe="stability-vs-depth",
        check=partial(depth_exponent, method="norm"),
    ),
)

CLAIMS = {claim.id: claim for claim in _CLAIMS}
