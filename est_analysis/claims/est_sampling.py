"""The claims on what EST's sampling costs in loss: the explanation of section 5.1, that it is structured dropout.

The paper gives words, no formula: sampling implicitly adds a regularization term to the loss, and larger subnetworks
reduce it, hence the sudden drop. The formula is ours (`theory.sampling_penalty`). So that it is tested and not assumed,
it is compared with the cost under drawn masks, and that with the training curve. Every threshold was fixed before any
of these costs was measured; training curves and full-model losses of the runs had been seen. Text is the same for all
seeds, so that intervals do not hold its noise.
"""

from functools import partial
from math import inf

import numpy as np
import pandas as pd

from est_analysis.theory.sampling_penalty import KeepRates

from .checks import transition_jump
from .claim import Claim, Measured, NotMeasured
from .sampling_costs import Costs, Matrix
from .statistics import geometric_mean, over_seeds
from .transition_losses import WINDOWS, transition_falls

_PAPER = "EST, arXiv 2406.06962"


def _of_width(costs: Costs, seed: int, step: int, stage: int, matrix: Matrix) -> float:
    """Predicted cost of heads and columns where all layers run."""
    found = costs.orders(seed, step, stage, matrix)
    return (found.heads + found.columns) / costs.rates(seed, step, stage).layers


def width_prediction(frame: pd.DataFrame, matrix: Matrix) -> Measured:
    """Predicted over measured cost of heads and columns, summed over a run's transitions; geometric mean over seeds.

    Measured is what masks of heads alone cost plus what masks of columns alone do: those along which the derivatives
    were taken, so that both have the same noise.

    Args:
        frame: the rows.
        matrix: `hessian` or `fisher`.
    """
    costs = Costs(frame)
    table = pd.DataFrame(
        {
            (seed, step): {
                "predicted": _of_width(costs, seed, step, stage, matrix),
                "measured": costs.centred(seed, step, stage, "heads", "columns"),
                "together": costs.centred(seed, step, stage, "width"),
            }
            for seed, steps in costs.steps.items()
            for stage, step in enumerate(steps)
        }
    ).T.rename_axis(["seed", "step"])
    sums = table.groupby("seed")[["predicted", "measured"]].sum()
    if (sums <= 0).any(axis=None):
        raise NotMeasured("a cost of heads and columns is not positive: it has no ratio to another")
    means = table.groupby("step").mean()
    each = ", ".join(
        f"{row.predicted:.4f} against {row.measured:.4f} nats at step {step} (both at once: {row.together:.4f})"
        for step, row in means.iterrows()
    )
    return geometric_mean(
        np.log(sums["predicted"] / sums["measured"]),
        unit="x",
        detail=f"predicted against measured, mean over seeds: {each}; gates go from 1 to 0 or 2, which is not small",
    )


def layers_first_order(frame: pd.DataFrame) -> Measured:
    """First-order term of the sampled layers over their measured cost, at the transition that brings them all back."""
    costs, found = Costs(frame), {}
    for seed, steps in costs.steps.items():
        for stage, step in enumerate(steps):
            rates = costs.rates(seed, step, stage)
            if rates.layers < 1:
                measured = costs.value(seed, step, f"stage{stage}_layers_cost")
                found[seed] = (costs.predicted(seed, step, rates).layers_first_order, measured)
    table = pd.DataFrame(found, index=["first", "measured"]).T
    if table.empty:
        raise NotMeasured("no stage samples layers")
    if (table["measured"] <= 0).any():
        raise NotMeasured("sampled layers cost nothing in a run: there is nothing to be a part of")
    mean = table.mean()
    detail = f"first order {mean['first']:.4f} of {mean['measured']:.4f} nats, mean over seeds; no factor 1/p_L, eq. 7"
    return over_seeds(table["first"] / table["measured"], unit="of the cost", detail=detail)


def _drops(costs: Costs) -> pd.DataFrame:
    """Cost of the stage before minus cost of the stage after, with the same weights: seed by step."""
    return pd.DataFrame(
        {
            seed: {step: costs.drop(seed, step, stage) for stage, step in enumerate(steps)}
            for seed, steps in costs.steps.items()
        }
    ).T


def _by_step(table: pd.DataFrame) -> str:
    return ", ".join(f"{value:+.4f} at step {step}" for step, value in table.mean().items())


def sampled_drop(frame: pd.DataFrame) -> Measured:
    """By how much the held-out loss falls when the rates change and the weights do not: a run's smallest drop."""
    drops = _drops(Costs(frame))
    each = f"mean over seeds at each transition, all on the same text: {_by_step(drops)}"
    detail = f"{each}; the effect is the smallest of a run"
    return over_seeds(drops.min(axis=1), unit="nats", detail=detail)


def curve_against_masks(frame: pd.DataFrame) -> Measured:
    """The training curve's drop over that of the held-out loss under drawn masks, both summed over transitions."""
    drops = _drops(Costs(frame))
    falls, errors = transition_falls(frame, "est")
    curve, totals = -falls.loc[drops.index, drops.columns], drops.sum(axis=1)
    if (totals <= 0).any():
        raise NotMeasured("under drawn masks the loss does not drop in a run: there is nothing to compare with")
    noise = float(np.sqrt(((errors**2).sum(axis=1)[drops.index] / totals**2).sum())) / len(drops)
    detail = (
        f"curve {_by_step(curve)}; masks {_by_step(drops)}; the curve's trend before a transition is subtracted, and "
        f"each of its windows holds few masks: standard error of the windows {noise:.2f}"
    )
    return over_seeds(curve.sum(axis=1) / totals, unit="curve / masks", detail=detail, noise=noise)


def width_cost_shrinks(frame: pd.DataFrame) -> Measured:
    """Log of what heads and columns cost at a run's last transition over what they cost at its first, same rates."""
    costs, logs, each = Costs(frame), {}, []
    for seed, steps in costs.steps.items():
        ends = [(steps[0], 0), (steps[-1], len(steps) - 1)]
        rates = [costs.rates(seed, step, stage) for step, stage in ends]
        if len({(one.heads, one.columns) for one in rates}) > 1 or len(steps) < 2:
            raise NotMeasured("the first and the last transition do not end stages of the same rates p_H and p_M")
        each.append([costs.centred(seed, step, stage, "width") for step, stage in ends])
        if min(each[-1]) <= 0:
            raise NotMeasured("a cost of heads and columns is not positive: it has no logarithm")
        logs[seed] = np.log(each[-1][1] / each[-1][0])
    first, last = np.mean(each, axis=0)
    detail = f"{first:.4f} nats at the first transition, {last:.4f} at the last, mean over seeds"
    return over_seeds(pd.Series(logs), unit="ln(last / first)", detail=detail)


def bernoulli_heads(frame: pd.DataFrame) -> Measured:
    """Cost of heads drawn one by one minus that of a fixed number of heads, mean over a run's transitions."""
    costs = Costs(frame)
    rows: dict[int, list[tuple[float, float]]] = {}
    for seed, steps in costs.steps.items():
        for stage, step in enumerate(steps):
            kept = KeepRates(heads=costs.rates(seed, step, stage).heads)
            fixed, single = (costs.centred(seed, step, stage, part) for part in ("heads", "heads_bernoulli"))
            theory = [costs.predicted(seed, step, kept, law=law).heads for law in ("bernoulli", "fixed_size")]
            rows.setdefault(seed, []).append((single - fixed, theory[0] - theory[1]))
    table = pd.DataFrame({seed: np.mean(pairs, axis=0) for seed, pairs in rows.items()}, index=["found", "theory"]).T
    detail = f"predicted to second order with the Fisher matrix: {table['theory'].mean():+.4f} nats"
    return over_seeds(table["found"], unit="nats", detail=detail)


_LOCUS = "ours: a formula for Section 5.1 (equivalence to Structural Dropout, an implicit regularization term)"
_AGREES = "predicted over measured cost, geometric mean over seeds, between 0.8 and 1.25"

_CLAIMS = (
    Claim(
        id="est.sampling-drop",
        paper=_PAPER,
        locus="Section 5.1 (the increase in subnetwork size reduces the regularization term)",
        statement="With the weights as they are, the expected sampled loss is lower after every transition of EST.",
        threshold="held-out loss under masks of the stage before minus that of the stage after, a run's smallest, "
        "above 0 nats",
        region=(0.0, inf),
        recipe="reproduce",
        check=sampled_drop,
    ),
    Claim(
        id="est.sampling-curve",
        paper=_PAPER,
        locus="Section 5.1, Figure 2 (the sudden drop in loss is that of the regularization term)",
        statement="The drop of the training curve is what the change of masks does to the loss, give or take half.",
        threshold="drop of the curve beyond its trend over that under drawn masks, both summed over a run, between 0.5 "
        "and 1.5",
        region=(0.5, 1.5),
        recipe="reproduce",
        check=curve_against_masks,
        known=WINDOWS,
    ),
    Claim(
        id="est.sampling-second-order",
        paper=_PAPER,
        locus=_LOCUS,
        statement="The regularization term of heads and columns is that of dropout: half the curvature of the loss "
        "along the masks.",
        threshold=f"with the loss's own second derivatives: {_AGREES}",
        region=(0.8, 1.25),
        recipe="reproduce",
        check=partial(width_prediction, matrix="hessian"),
    ),
    Claim(
        id="est.sampling-fisher",
        paper=_PAPER,
        locus=_LOCUS,
        statement="The formula of structured dropout with the Fisher matrix gives the cost of sampling heads and "
        "columns.",
        threshold=f"with the Fisher matrix for the Hessian: {_AGREES}",
        region=(0.8, 1.25),
        recipe="reproduce",
        check=partial(width_prediction, matrix="fisher"),
    ),
    Claim(
        id="est.sampling-layers",
        paper=_PAPER,
        locus="ours: Section 3.2, eq. 7, leaves it open (layers are not divided by p_L, unlike heads and columns)",
        statement="What sampling layers costs is mostly of first order: a shift of the mean, not a regularization "
        "term.",
        threshold="first-order term over the measured cost of layers between 0.5 and 1.5",
        region=(0.5, 1.5),
        recipe="reproduce",
        check=layers_first_order,
    ),
    Claim(
        id="est.sampling-shrinks",
        paper=_PAPER,
        locus="ours: one reading of Section 5.1 (early dropout pushes the parameters into a flatter region)",
        statement="What masks of heads and columns cost is less at EST's last transition than at its first.",
        threshold="logarithm of their cost at the last transition over that at the first, same rates, below 0",
        region=(-inf, 0.0),
        recipe="reproduce",
        check=width_cost_shrinks,
    ),
    Claim(
        id="est.sampling-fixed-size",
        paper=_PAPER,
        locus="ours: Section 3.2, eq. 5, has exactly p_H N_H heads; structured dropout would draw each by itself",
        statement="Drawing a fixed number of heads costs less than drawing each head by itself at the same rate.",
        threshold="cost of independent draws minus that of fixed numbers, mean over transitions, above 0 nats",
        region=(0.0, inf),
        recipe="reproduce",
        check=bernoulli_heads,
    ),
    Claim(
        id="est.full-loss-smooth",
        paper=_PAPER,
        locus="ours: Section 5.1 says only that EST does not maintain the loss-preserving property",
        statement="The full model's validation loss does not jump up after any transition of EST.",
        threshold="next evaluation minus that at a transition, largest of a run, no more than 0.05 nats",
        region=(-inf, 0.05),
        recipe="reproduce",
        check=partial(transition_jump, method="est"),
        known="the full model's losses at quick scale",
    ),
)

CLAIMS = {claim.id: claim for claim in _CLAIMS}
