"""RaPTr's claims in the setting where the truth is known: residual nets that learn polynomials on {-1, +1}^d.

The paper's sizes could not be read, so these are ours, smaller; thresholds were fixed before any run but the baseline's
pilots. Errors are those of `data.boolean.component_errors`: 0 where a degree's terms are learned, 1 where they are not.
"""

from functools import partial
from math import inf

import pandas as pd
from scipy import stats

from .claim import Claim, Measured, NotMeasured
from .statistics import common_seeds, final, over_seeds, runs_of, transitions
from .transition_losses import SIZES, means, sizes, subnet_changes

_PAPER = "RaPTr, arXiv 2402.05913"


def top_degree(frame: pd.DataFrame) -> int:
    """The highest degree whose error is in `frame`."""
    degrees = frame["metric"].str.extract(r"^error_(\d+)$")[0].dropna()
    if degrees.empty:
        raise NotMeasured("no component errors")
    return int(degrees.astype(int).max())


def paired(ours: pd.Series, theirs: pd.Series, *, unit: str, detail: str) -> Measured:
    """The mean difference over common seeds, with its effect size d_z and Wilcoxon's signed-rank p in the detail."""
    seeds = common_seeds(ours, theirs)
    difference = ours[seeds] - theirs[seeds]
    spread = difference.std()
    notes = [f"{detail}: {ours[seeds].mean():.4f} against {theirs[seeds].mean():.4f}"]
    if len(seeds) > 1 and spread > 0:
        notes.append(f"d_z = {difference.mean() / spread:.2f}")
        notes.append(f"Wilcoxon p = {stats.wilcoxon(difference).pvalue:.3g}")
    return over_seeds(difference, unit=unit, detail=", ".join(notes))


def top_error_gap(frame: pd.DataFrame, method: str, other: str, *, after: str = "") -> Measured:
    """Final error of the highest degree of `method` minus that of `other`, paired by seed.

    Args:
        frame: tidy rows.
        method: whose error.
        other: minus whose.
        after: `tail_` for the errors after the full-depth tail.
    """
    degree = top_degree(frame)
    metric = f"{after}error_{degree}"
    ours, theirs = final(frame, method, metric), final(frame, other, metric)
    when = " after the full-depth tail" if after else ""
    return paired(ours, theirs, unit="of its power", detail=f"error of degree {degree}{when}")


def low_degree_error(frame: pd.DataFrame, method: str) -> Measured:
    """Final error of degree 1 of `method`."""
    return over_seeds(final(frame, method, "error_1"), unit="of its power", detail="error of degree 1")


def simple_first(frame: pd.DataFrame, method: str) -> Measured:
    """Error of the highest degree minus that of degree 1, at the end of the method's first stage."""
    degree, ends = top_degree(frame), transitions(frame, method)
    high, low = (runs_of(frame, method, f"error_{one}") for one in (degree, 1))
    gaps = {}
    for seed in common_seeds(high, low):
        end = ends[seed][0]
        if end not in high[seed].index or end not in low[seed].index:
            raise NotMeasured(f"component errors of '{method}' were not recorded at step {end}")
        gaps[seed] = float(high[seed][end] - low[seed][end])
    return over_seeds(pd.Series(gaps), unit="of its power", detail=f"degree {degree} minus degree 1")


def _changes(frame: pd.DataFrame, method: str) -> dict[int, pd.Series]:
    return subnet_changes(frame, method, whole="relative_loss", nothing=1.0)


def transition_change(frame: pd.DataFrame, method: str) -> Measured:
    """The mean of `subnet_changes` over transitions, over seeds."""
    detail = "mean over a run's transitions of (loss after / loss before - 1), same weights, same points"
    return over_seeds(means(_changes(frame, method)), unit="relative", detail=detail)


def rougher(frame: pd.DataFrame, variant: str, plain: str) -> Measured:
    """Size of the changes at transitions of `variant` minus that of `plain`, paired by seed."""
    ours, theirs = (sizes(_changes(frame, method)) for method in (variant, plain))
    return paired(ours, theirs, unit="relative", detail=f"mean size of a run's relative changes, {variant} and {plain}")


_CONTROL = "ours: a control for the "


def _versus(
    id: str, statement: str, method: str, other: str, most: float = 0.0, after: str = "", start: str = ""
) -> Claim:
    limit = "below 0" if most == 0 else f"below {most:g}"
    return Claim(
        id=id,
        paper=_PAPER,
        locus=f"{start}polynomial experiment (sizes are ours)",
        statement=statement,
        threshold=f"error of the highest degree, {method} minus {other}, paired by seed, {limit}",
        region=(-inf, most),
        recipe="poly-raptr-vs-pld",
        check=partial(top_error_gap, method=method, other=other, after=after),
    )


def _transition(id: str, statement: str, threshold: str, region: tuple[float, float], check, start: str = "") -> Claim:
    return Claim(
        id=id,
        paper=_PAPER,
        locus=f"{start}theory and discussion of stage transitions (here residual nets on polynomials)",
        statement=statement,
        threshold=threshold,
        region=region,
        recipe="transition-smoothness",
        check=check,
        known=SIZES if check.func is rougher else "",
    )


_CLAIMS = (
    _versus(
        "raptr.poly-beats-pld",
        "At equal average depth RaPTr learns the terms of the highest degree better than PLD.",
        "raptr",
        "pld",
    ),
    Claim(
        id="raptr.poly-pld-fails",
        paper=_PAPER,
        locus="polynomial experiment (sizes are ours)",
        statement="PLD learns the terms of the highest degree worse than the full model does.",
        threshold="error of the highest degree, pld minus full, paired by seed, above 0.05",
        region=(0.05, inf),
        recipe="poly-raptr-vs-pld",
        check=partial(top_error_gap, method="pld", other="full"),
    ),
    _versus(
        "raptr.poly-no-worse-than-full",
        "RaPTr learns the terms of the highest degree as well as the full model does.",
        "raptr",
        "full",
        0.05,
    ),
    _versus(
        "raptr.poly-order-matters",
        "Growing subnetworks learn the highest degree better than the same stages in reverse order.",
        "raptr",
        "raptr_reversed",
        start=_CONTROL,
    ),
    _versus(
        "raptr.poly-beats-constant-rate",
        "Growing subnetworks learn the highest degree better than one constant rate of dropping.",
        "raptr",
        "stochastic_depth",
        start=_CONTROL,
    ),
    _versus(
        "raptr.poly-beats-pld-after-tail",
        "RaPTr's lead over PLD remains when both have trained the full net for a short while.",
        "raptr",
        "pld",
        after="tail_",
        start=_CONTROL,
    ),
    Claim(
        id="raptr.poly-simple-first",
        paper=_PAPER,
        locus="simple-to-complex bias, polynomial experiment (sizes are ours)",
        statement="RaPTr's first stage learns the terms of degree 1 before those of the highest degree.",
        threshold="error of the highest degree minus that of degree 1 at the end of the first stage, above 0.5",
        region=(0.5, inf),
        recipe="poly-raptr-vs-pld",
        check=partial(simple_first, method="raptr"),
    ),
    Claim(
        id="raptr.poly-pld-low-degree",
        paper=_PAPER,
        locus="polynomial experiment (sizes are ours)",
        statement="PLD does learn the terms of degree 1: what it fails at is complexity.",
        threshold="final error of degree 1 below 0.05",
        region=(-inf, 0.05),
        recipe="poly-raptr-vs-pld",
        check=partial(low_degree_error, method="pld"),
    ),
    _transition(
        "raptr.transition-subnet-drop",
        "When RaPTr enlarges the subnetwork its loss falls at once, before any weight has changed.",
        "relative change of the subnetwork's held-out loss across transitions, mean of a run, below 0",
        (-inf, 0.0),
        partial(transition_change, method="raptr"),
    ),
    _transition(
        "raptr.transition-needs-residual",
        "Without residual connections the loss changes more at a transition.",
        "size of the relative change, raptr without residuals minus raptr, paired by seed, above 0",
        (0.0, inf),
        partial(rougher, variant="raptr/no-residual", plain="raptr"),
    ),
    _transition(
        "raptr.transition-needs-norm",
        "Without layer norm the loss changes more at a transition.",
        "size of the relative change, raptr without norms minus raptr, paired by seed, above 0",
        (0.0, inf),
        partial(rougher, variant="raptr/no-norm", plain="raptr"),
    ),
    _transition(
        "raptr.transition-sqrt-scale",
        "Square-root scaling makes the transitions smoother than none (the formula is our reading).",
        "size of the relative change, raptr with sqrt_gap minus raptr, paired by seed, below 0",
        (-inf, 0.0),
        partial(rougher, variant="raptr/sqrt_gap", plain="raptr"),
        "asked: of its scaling functions; ",
    ),
    _transition(
        "raptr.transition-stacking-jump",
        "Gradual stacking makes the loss jump up where it adds layers.",
        "relative change of the trained model's held-out loss across transitions, mean of a run, above 0",
        (0.0, inf),
        partial(transition_change, method="gradual_stacking"),
        _CONTROL,
    ),
)

CLAIMS = {claim.id: claim for claim in _CLAIMS}
