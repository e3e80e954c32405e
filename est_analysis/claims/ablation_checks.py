"""Checks on ablations: contenders against each other, against what they save, and against shorter runs."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from .claim import Claim, Measured, NotMeasured
from .statistics import common_seeds, final, final_pair, over_seeds, runs_of, saving, transitions


def difference(frame: pd.DataFrame, ours: str, theirs: str) -> Measured:
    """Final validation loss of `ours` minus that of `theirs`, paired by seed; with what each saves."""
    one, other = final_pair(frame, ours, "validation_loss", theirs)
    detail = (
        f"final validation loss {one.mean():.4f} ({_described(frame, ours)}) against {other.mean():.4f} "
        f"({_described(frame, theirs)}); a small model, trained briefly"
    )
    return over_seeds(one - other, unit="nats", detail=detail)


def difference_claim(row: tuple, *, prefix: str, paper: str, recipe: str) -> Claim:
    """The claim of a row of a table: name, locus, statement, (threshold, region), contender, rival."""
    name, locus, statement, (threshold, region), ours, theirs = row
    return Claim(
        id=f"{prefix}.{name}",
        paper=paper,
        locus=locus,
        statement=f"{statement}.",
        threshold=f"final loss difference, paired by seed, {threshold}",
        region=region,
        recipe=recipe,
        check=partial(difference, ours=ours, theirs=theirs),
    )


def _described(frame: pd.DataFrame, method: str) -> str:
    """A contender with its learning rate and what it saves."""
    rate = f" at {frame.loc[frame['method'] == method, 'lr'].iloc[0]:g}" if "lr" in frame else ""
    return f"{method}{rate}, {saving(frame, method).mean():.1f} % of layer FLOPs saved"


def gaps(frame: pd.DataFrame, methods: Mapping[str, str]) -> pd.DataFrame:
    """Final validation loss minus the full model's: one row a seed that all have, one column a key of `methods`."""
    pairs = {name: final_pair(frame, method, "validation_loss") for name, method in methods.items()}
    table = pd.DataFrame({name: ours - full for name, (ours, full) in pairs.items()}).dropna()
    if table.empty:
        raise NotMeasured("the contenders share no seed")
    return table


def prices(frame: pd.DataFrame, *methods: str) -> pd.DataFrame:
    """Nats above the full model per ten percent of its layer FLOPs saved.

    Returns:
        One row a seed that all have, one column a method.

    Raises:
        NotMeasured: something is missing, or a method saves nothing.
    """
    found = 10 * gaps(frame, {method: method for method in methods})
    for method in methods:
        saved = saving(frame, method)[found.index]
        if (saved <= 0).any():
            raise NotMeasured(f"'{method}' saves no layer FLOPs")
        found[method] /= saved
    return found


def price_difference(frame: pd.DataFrame, ours: str, theirs: str) -> Measured:
    """What `ours` costs by `prices` minus what `theirs` does."""
    found = prices(frame, ours, theirs)
    detail = f"{found[ours].mean():+.4f} ({ours}) against {found[theirs].mean():+.4f} ({theirs})"
    return over_seeds(found[ours] - found[theirs], unit="nats per 10 % of layer FLOPs", detail=detail)


def above_shorter_runs(frame: pd.DataFrame, methods: tuple[str, ...], shorter: tuple[str, ...]) -> Measured:
    """Final loss minus that of a shorter run of the full model on as many layer FLOPs, mean over `methods`.

    The shorter run's loss is read, against the logarithm of layer FLOPs, between `shorter`, full models that were each
    trained to their own end, the cheapest first.
    """
    table = gaps_above_shorter_runs(frame, methods, shorter)
    each = ", ".join(f"{method} {gap:+.4f}" for method, gap in table.mean().items())
    return over_seeds(table.mean(axis=1), unit="nats", detail=f"mean over {each}")


def gaps_above_shorter_runs(frame: pd.DataFrame, methods: tuple[str, ...], shorter: tuple[str, ...]) -> pd.DataFrame:
    """The gaps behind `above_shorter_runs`: one row a seed, one column a method."""
    ends = {m: [final(frame, m, metric) for metric in ("layer_flops", "validation_loss")] for m in (*shorter, *methods)}
    seeds = set.intersection(*(set(common_seeds(*pair)) for pair in ends.values()))
    if not seeds:
        raise NotMeasured("the contenders share no seed")
    found = {}
    for seed in sorted(seeds):
        spent, losses = np.array([[axis[seed] for axis in ends[method]] for method in shorter]).T
        at = {method: ends[method][0][seed] for method in methods}
        if outside := [method for method, flops in at.items() if not spent[0] * 0.999 <= flops <= spent[-1] * 1.001]:
            raise NotMeasured(f"the layer FLOPs of {', '.join(outside)} lie outside those of the shorter full models")
        found[seed] = {
            method: ends[method][1][seed] - np.interp(np.log(at[method]), np.log(spent), losses) for method in methods
        }
    return pd.DataFrame(found).T


def before_last_stage(frame: pd.DataFrame, ours: str, theirs: str) -> Measured:
    """Full-model validation loss of `ours` minus that of `theirs` at the end of the last sampled stage."""
    pair = {}
    for method in (ours, theirs):
        losses, changes = runs_of(frame, method, "validation_loss"), transitions(frame, method)
        pair[method] = pd.Series(
            {seed: losses[seed].get(max(changes[seed]), np.nan) for seed in common_seeds(losses, changes)}
        ).dropna()
    seeds = common_seeds(pair[ours], pair[theirs])
    one, other = pair[ours][seeds], pair[theirs][seeds]
    detail = f"full-model validation loss {one.mean():.4f} ({ours}) against {other.mean():.4f} ({theirs})"
    return over_seeds(one - other, unit="nats", detail=detail)
