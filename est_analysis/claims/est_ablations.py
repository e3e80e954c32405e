"""Claims about EST's ablations: its three dimensions apart, its schedules (Table 3) and its sampling law.

The paper's Table 3 has one run a schedule, on GPT-2; here every contender has three seeds on a small GPT-2 and its own
best learning rate. Where the paper asserts nothing, the claim says what follows from what it does assert. All
thresholds were fixed before the first run of a contender that the grid does not have.
"""

from functools import partial
from math import inf

import pandas as pd
from scipy import stats

from .ablation_checks import above_shorter_runs, before_last_stage, difference_claim, gaps, price_difference
from .claim import Claim, Measured, NotMeasured
from .statistics import final, over_seeds

_PAPER = "EST, arXiv 2406.06962"
_RECIPE = "est-ablations"
TABLE_3 = {
    "full": 3.06,
    "est/one-stage": 3.36,
    "est/two-stage-a": 3.04,
    "est/two-stage-b": 3.06,
    "est/two-stage-c": 3.09,
    "est/three-stage": 3.07,
    "est": 3.05,
}
SHORTER = ("short/half", "short", "full")  # the full model for half, 73.3 % and all of the steps


def interaction(frame: pd.DataFrame) -> Measured:
    """EST's distance from the full model minus the sum of the distances with one dimension sampled at a time."""
    parts = {name: f"est/only-{name}" for name in ("heads", "mlp", "layers")}
    table = gaps(frame, parts | {"all": "est"})
    alone = ", ".join(f"{name} {table[name].mean():+.4f}" for name in parts)
    detail = f"distance from the full model: {alone}, all {table['all'].mean():+.4f}"
    return over_seeds(table["all"] - table[list(parts)].sum(axis=1), unit="nats", detail=detail)


def agreement_with_table_3(frame: pd.DataFrame) -> Measured:
    """Spearman's rank correlation of the final losses with those of Table 3, a seed."""
    losses = {method: final(frame, method, "validation_loss") for method in TABLE_3}
    table = pd.DataFrame(losses).dropna()
    if table.empty:
        raise NotMeasured("the schedules of Table 3 share no seed")
    published = [TABLE_3[method] for method in table.columns]
    per_seed = table.apply(lambda row: float(stats.spearmanr(row, published).statistic), axis=1)
    ours = ", ".join(table.mean().sort_values().index)
    detail = f"from the lowest mean loss to the highest: {ours}"
    return over_seeds(per_seed, unit="rank correlation", detail=detail)


_NOT_ABOVE = ("no more than 0.01 nats", (-inf, 0.01))
_BELOW = ("below 0 nats", (-inf, 0.0))
_ABOVE = ("above 0 nats", (0.0, inf))
_FAR_ABOVE = ("above 0.1 nats", (0.1, inf))
_ALONE = "asked: which component brings the gain? (a check that a summary proposes; the paper does not take them apart)"
_TABLE_3 = "Section 4.1, Table 3"
_LONG_ENOUGH = "Section 4.1: 'a long enough stage 3 is vital'"

# id, locus, statement, threshold and region, contender, rival
_DIFFERENCES = (
    (
        "ablation.heads",
        _ALONE,
        "With only attention heads sampled, in EST's stages, the loss is no worse than the full model's",
        _NOT_ABOVE,
        "est/only-heads",
        "full",
    ),
    (
        "ablation.mlp",
        _ALONE,
        "With only MLP columns sampled, in EST's stages, the loss is no worse than the full model's",
        _NOT_ABOVE,
        "est/only-mlp",
        "full",
    ),
    (
        "ablation.layers",
        _ALONE,
        "With only layers sampled, in EST's first stage, the loss is no worse than the full model's",
        _NOT_ABOVE,
        "est/only-layers",
        "full",
    ),
    (
        "ablation.mlp-above-heads",
        _ALONE,
        "Sampling only MLP columns, most of a layer's FLOPs, costs more loss than sampling only heads",
        _ABOVE,
        "est/only-mlp",
        "est/only-heads",
    ),
    (
        "schedule.one-stage",
        f"{_TABLE_3} (3.36 against 3.06)",
        "Where the complete model is never trained (ONE-STAGE), the loss is over 0.1 nats worse than the full model's",
        _FAR_ABOVE,
        "est/one-stage",
        "full",
    ),
    (
        "schedule.last-stage",
        f"{_TABLE_3} (3.36 against 3.05); {_LONG_ENOUGH}",
        "ONE-STAGE ends over 0.1 nats worse than EST",
        _FAR_ABOVE,
        "est/one-stage",
        "est",
    ),
    (
        "schedule.two-stage-a",
        f"{_TABLE_3} (3.04 against 3.06)",
        "TWO-STAGE-A ends no worse than the full model",
        _NOT_ABOVE,
        "est/two-stage-a",
        "full",
    ),
    (
        "schedule.two-stage-b",
        f"{_TABLE_3} (3.06 against 3.06)",
        "TWO-STAGE-B ends no worse than the full model",
        _NOT_ABOVE,
        "est/two-stage-b",
        "full",
    ),
    (
        "schedule.two-stage-c",
        f"{_TABLE_3} (3.09 against 3.04); {_LONG_ENOUGH}",
        "TWO-STAGE-C, whose last stage is the shortest of the two-stage schedules, ends worse than TWO-STAGE-A",
        _ABOVE,
        "est/two-stage-c",
        "est/two-stage-a",
    ),
    (
        "schedule.saves-more",
        "Section 4.1: 'saves more training cost than two-stage sampling schedulers with comparable model performance'",
        "EST, which saves more than TWO-STAGE-B by sampling layers too, ends no worse than it",
        _NOT_ABOVE,
        "est",
        "est/two-stage-b",
    ),
    (
        "schedule.three-stage",
        f"{_TABLE_3} (3.07 against 3.05): 'sampling from MHA modules and MLP modules performs better'",
        "THREE-STAGE, which samples layers in stage 2 where EST samples heads and MLP, ends worse than EST",
        _ABOVE,
        "est/three-stage",
        "est",
    ),
    (
        "schedule.half-as-long",
        f"ours: follows from {_LONG_ENOUGH}; so does the schedule",
        "With sampled stages half as long EST ends better",
        _BELOW,
        "est/half-as-long",
        "est",
    ),
    (
        "schedule.half-as-long-full",
        f"ours: follows from {_LONG_ENOUGH}; so does the schedule",
        "With sampled stages half as long EST ends no worse than the full model",
        _NOT_ABOVE,
        "est/half-as-long",
        "full",
    ),
    (
        "schedule.twice-as-long",
        f"ours: follows from {_LONG_ENOUGH}; so does the schedule",
        "With sampled stages twice as long EST ends over 0.1 nats worse",
        _FAR_ABOVE,
        "est/twice-as-long",
        "est",
    ),
    (
        "schedule.shorter-or-milder",
        f"ours: follows from {_LONG_ENOUGH}; so are both schedules",
        "At about an equal saving, shorter sampled stages end better than milder rates",
        _BELOW,
        "est/half-as-long",
        "est/mild",
    ),
    (
        "schedule.linear",
        "ours: growth without stages; Section 3.3: 'By incrementally increasing the size'",
        "Heads and MLP growing in equal steps end better than in one step at the same cost",
        _BELOW,
        "est/linear",
        "est/two-stage",
    ),
    (
        "schedule.exponential",
        f"ours: follows from {_LONG_ENOUGH}; so are both schedules",
        "Heads and MLP that double, and are full earlier, end better than growing in equal steps at the same cost",
        _BELOW,
        "est/exponential",
        "est/linear",
    ),
    (
        "law.normalise",
        "Section 3.2: 'The normalization operation 1/p_H is crucial'",
        "Without the factors 1/p EST ends worse",
        _ABOVE,
        "est/unscaled",
        "est",
    ),
    (
        "law.fixed-size",
        "ours: Section 3.2 has |I_H| = N_H p_H and does not compare",
        "Subsets of fixed size end no worse than each unit drawn by itself",
        _NOT_ABOVE,
        "est",
        "est/bernoulli",
    ),
)
_OTHERS = (
    Claim(
        id="est.ablation.additive",
        paper=_PAPER,
        locus=_ALONE,
        statement="EST's distance from the full model is the sum of those with one dimension sampled, to 0.05 nats.",
        threshold="EST's distance minus the sum, paired by seed, between -0.05 and 0.05 nats",
        region=(-0.05, 0.05),
        recipe=_RECIPE,
        check=interaction,
    ),
    Claim(
        id="est.ablation.layers-dearest",
        paper=_PAPER,
        locus="ours: from eq. 7, without 1/p, and Section 4.1 on THREE-STAGE, layers are the worse ones to sample",
        statement="For the layer FLOPs that it saves, sampling layers costs more loss than sampling heads and MLP.",
        threshold="distance from the full model per 10 % saved, layers minus heads and MLP, above 0",
        region=(0.0, inf),
        recipe=_RECIPE,
        check=partial(price_difference, ours="est/only-layers", theirs="est/two-stage-b"),
    ),
    Claim(
        id="est.schedule.table-3",
        paper=_PAPER,
        locus=_TABLE_3,
        statement="The seven losses of Table 3 come in about the paper's order.",
        threshold="rank correlation with the paper's losses, a seed, above 0.5",
        region=(0.5, inf),
        recipe=_RECIPE,
        check=agreement_with_table_3,
    ),
    Claim(
        id="est.schedule.shorter-full-runs",
        paper=_PAPER,
        locus=f"ours: a control for {_TABLE_3}",
        statement="Table 3's schedules end better than shorter runs of the full model on as many layer FLOPs.",
        threshold="loss minus that read between full runs, mean over the six schedules, paired by seed, below 0 nats",
        region=(-inf, 0.0),
        recipe=_RECIPE,
        check=partial(
            above_shorter_runs, methods=tuple(method for method in TABLE_3 if method != "full"), shorter=SHORTER
        ),
    ),
    Claim(
        id="est.law.normalise-before",
        paper=_PAPER,
        locus="Section 3.2: 1/p 'ensures that the output distribution is consistent with the complete model'",
        statement="Without the factors 1/p the full model is worse at the end of the sampled stages.",
        threshold="full-model loss before the last stage, without 1/p minus with it, paired by seed, above 0 nats",
        region=(0.0, inf),
        recipe=_RECIPE,
        check=partial(before_last_stage, ours="est/unscaled", theirs="est"),
    ),
)


_DIFFERENCE_CLAIMS = (difference_claim(row, prefix="est", paper=_PAPER, recipe=_RECIPE) for row in _DIFFERENCES)
_BY_ID = {claim.id: claim for claim in (*_DIFFERENCE_CLAIMS, *_OTHERS)}
CLAIMS = {name: _BY_ID[name] for name in sorted(_BY_ID, key=lambda name: name.split(".")[1])}
GROUPS = {
    "est.ablation": "What sampling one dimension alone costs, beside the full model and beside EST.",
    "est.schedule": "How the schedules of Table 3, and others, end beside one another.",
    "est.law": "What EST loses without the factors 1/p, and by drawing every unit by itself.",
}
