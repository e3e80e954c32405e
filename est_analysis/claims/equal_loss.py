"""Traces read at equal loss, seed by seed: what the claims on flatness judge, and what their figures draw.

Table 5 compares at almost the same loss; where two runs end further apart than nothing, the one that ended lower is
read where it last passed the other's final loss, the logarithm of its trace interpolated in the loss.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from est_analysis.errors import InputError

from .claim import NotMeasured
from .statistics import common_seeds, runs_of

CORPORA = {"text": "Python source", "hmm": "a hidden Markov model's language"}
TRACE = ("hessian_trace",)
SAMPLED = ("hessian_trace_attention", "hessian_trace_mlp")
EMBEDDINGS = ("hessian_trace_tokens", "hessian_trace_positions")
PARTS = ("tokens", "positions", "attention", "mlp", "norms")  # of a trace, which they sum to
NEAR = 0.05  # nats that count as equal where nothing can be interpolated; `est.flatness` has the same
_BRACKET = 0.5  # nats between the two checkpoints that an interpolation may lie between
_OF_EST = {
    "attention and MLP": SAMPLED,
    "embeddings": EMBEDDINGS,
    "Fisher trace": ("fisher_trace",),
    "scale-invariant": ("scale_invariant",),
}
# Full models of half and of all the steps.
DECAYED = {
    "both decayed": ("full/half", "full"),
    "one rate, both decayed": ("full/est-rate-half", "full/est-rate"),
}


def of_corpus(frame: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """The rows of one language.

    Raises:
        NotMeasured: the frame is of another recipe, or has none.
    """
    if "corpus" not in frame.columns:
        raise NotMeasured("the runs are not those of the recipe: est run flatness makes them")
    rows = frame[frame["corpus"] == corpus]
    if rows.empty:
        raise NotMeasured(f"no run on '{corpus}'")
    return rows


def trajectories(rows: pd.DataFrame, method: str, metrics: tuple[str, ...]) -> dict[int, pd.DataFrame]:
    """One frame a seed, by step: validation `loss`, the sum of `metrics` as `value`, and its logarithm as `log`.

    The logarithm is missing where the sum is not positive.

    Raises:
        NotMeasured: something was not measured.
    """
    parts, losses = [runs_of(rows, method, metric) for metric in metrics], runs_of(rows, method, "validation_loss")
    found = {}
    for seed in common_seeds(parts[0], losses):
        total = sum(part[seed] for part in parts)
        at = total.index.intersection(losses[seed].index)
        logs = np.log(total[at].where(total[at] > 0))
        found[seed] = pd.DataFrame({"loss": losses[seed][at], "value": total[at], "log": logs})
        if found[seed].empty:
            raise NotMeasured(f"{metrics[0]} of '{method}' was measured at no step with a validation loss")
    return found


def at_loss(points: pd.DataFrame, level: float, column: str = "log") -> float:
    """`column` where the run last passed the loss `level`, linear in the loss between its checkpoints.

    Args:
        points: columns loss and `column`, in the order of steps.
        level: no lower than the last loss.
        column: what is read.

    Raises:
        NotMeasured: no checkpoint was above it, or those around it are too far apart, or the value is missing there.

    >>> at_loss(pd.DataFrame({"loss": [3.0, 2.75, 2.25], "log": [9.0, 8.0, 6.0]}), 2.5)
    7.0
    """
    losses, values = points["loss"].to_numpy(), points[column].to_numpy(dtype=float)
    if level == losses[-1]:
        return positive(values[-1])
    above = np.flatnonzero(losses[:-1] >= level)
    if level < losses[-1] or not len(above):
        raise NotMeasured(f"no checkpoints around a loss of {level:.3f}: the losses are too far apart")
    before = above[-1]
    if (gap := losses[before] - losses[before + 1]) > _BRACKET:
        raise NotMeasured(f"the checkpoints around a loss of {level:.3f} are {gap:.2f} nats apart (over {_BRACKET})")
    return positive(np.interp(level, losses[[before + 1, before]], values[[before + 1, before]]))


def positive(log: float) -> float:
    """`log`, which is missing where what it is the logarithm of is not positive."""
    if np.isnan(log):
        raise NotMeasured("what is compared is not positive there: its logarithm does not exist")
    return float(log)


def _pairs(
    ours: dict[int, pd.DataFrame], theirs: dict[int, pd.DataFrame]
) -> Iterator[tuple[int, pd.DataFrame, pd.DataFrame, float]]:
    """(seed, run, rival's run, the higher of their final losses) of every seed that both have."""
    for seed in common_seeds(ours, theirs):
        one, other = ours[seed], theirs[seed]
        yield seed, one, other, max(one["loss"].iloc[-1], other["loss"].iloc[-1])


def logs_at_equal_loss(
    rows: pd.DataFrame, ours: str, theirs: str, metrics: tuple[str, ...], base: tuple[str, ...] = ()
) -> pd.DataFrame:
    """One row a seed: `loss`, where both are read; `ours`, `theirs`, the logarithms there; `last`, their difference at
    the end of both runs.

    Args:
        rows: of one language.
        ours: a contender.
        theirs: its rival.
        metrics: whose sum is compared.
        base: the sum is divided by that of these.
    """
    read = {
        seed: {
            "loss": level,
            "ours": at_loss(one, level),
            "theirs": at_loss(other, level),
            "last": one["log"].iloc[-1] - other["log"].iloc[-1],
        }
        for seed, one, other, level in _pairs(*(_relative(rows, method, metrics, base) for method in (ours, theirs)))
    }
    return pd.DataFrame(read).T


def _relative(
    rows: pd.DataFrame, method: str, metrics: tuple[str, ...], base: tuple[str, ...]
) -> dict[int, pd.DataFrame]:
    found = trajectories(rows, method, metrics)
    if not base:
        return found
    below = trajectories(rows, method, base)
    return {seed: found[seed].assign(log=found[seed]["log"] - below[seed]["log"]) for seed in found}


# The full model at EST's rate -> the same at its own.
_AT_BOTH_RATES = {"full/est-rate": "full", "full/est-rate-half": "full/half"}


def rival(rows: pd.DataFrame, ours: str, theirs: str) -> str:
    """`theirs`; the full model's own run for one at EST's rate where both have that rate anyway and one run is both."""
    if theirs not in _AT_BOTH_RATES or (rows["method"] == theirs).any() or "lr" not in rows.columns:
        return theirs
    own = _AT_BOTH_RATES[theirs]
    rates = [set(rows.loc[rows["method"] == method, "lr"]) for method in (ours, own)]
    return own if rates[0] == rates[1] else theirs


def logs_at_decayed_ends(rows: pd.DataFrame, half: str, whole: str) -> pd.DataFrame:
    """One row a seed: `loss`, EST's final one; `ours`, the logarithm of its final trace; `theirs`, that of full models
    between their ends; `outside`, the nats that EST ended outside of these, read at the nearer one.

    Args:
        rows: of one language.
        half: the full model's runs of half the steps.
        whole: those of all the steps.

    Raises:
        NotMeasured: a run is missing, or EST ended too far outside.
    """
    ours, short, long = (trajectories(rows, method, TRACE) for method in ("est", half, whole))
    read = {}
    for seed in sorted(set(common_seeds(ours, short)) & set(long)):
        ends = pd.concat([short[seed].iloc[[-1]], long[seed].iloc[[-1]]], ignore_index=True)
        last, (high, low) = ours[seed].iloc[-1], ends["loss"]
        level = last["loss"]
        if high <= low or not low - NEAR <= level <= high + NEAR:
            raise NotMeasured(
                f"EST ends at {level:.3f} and full models of half and all the steps at {high:.3f} and {low:.3f}: "
                f"not between them, nor within {NEAR} of one"
            )
        read[seed] = {
            "loss": level,
            "ours": positive(last["log"]),
            "theirs": at_loss(ends, float(np.clip(level, low, high))),
            "outside": max(level - high, low - level, 0.0),
        }
    if not read:
        raise NotMeasured("the three share no seed")
    return pd.DataFrame(read).T


# For figures ----------------------------------------------------------------------------------------------------------


def log_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Log of every method's trace over the full model's at equal loss, and of parts of EST's, as the claims read it.

    Returns:
        Columns what (`whole model`, a part of EST's trace or another one, or a control), method, corpus, seed, value
        and steps (of the longest run). What cannot be read of some seed is left out for all of them: means over the
        others would be of seeds that were chosen.

    Raises:
        InputError: the frame is of another recipe.
    """
    found = []
    for corpus, rows in _languages(frame):
        for what, method, read in _comparisons(rows):
            try:
                logs = read()
            except NotMeasured:
                continue
            values = (logs["ours"] - logs["theirs"]).rename_axis("seed").rename("value").reset_index()
            found.append(values.assign(what=what, method=method, corpus=corpus, steps=int(frame["step"].max())))
    columns = ["what", "method", "corpus", "seed", "value", "steps"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _comparisons(rows: pd.DataFrame) -> Iterator[tuple[str, str, Callable[[], pd.DataFrame]]]:
    """(what, method, what reads its logarithms) of everything that `log_ratios` has of a language."""

    def read(method: str, metrics: tuple[str, ...], theirs: str = "full") -> Callable[[], pd.DataFrame]:
        return lambda: logs_at_equal_loss(rows, method, theirs, metrics)

    steps = rows[rows["metric"] == TRACE[0]].groupby("method")["step"].nunique()
    for method in steps.index[steps > 1].drop("full", errors="ignore"):
        yield "whole model", method, read(method, TRACE)
    for what, metrics in _OF_EST.items():
        yield what, "est", read("est", metrics)
    yield "one rate", "est", read("est", TRACE, "full/est-rate")
    for what, ends in DECAYED.items():
        yield what, "est", lambda ends=ends: logs_at_decayed_ends(rows, *ends)


def traces_by_part(frame: pd.DataFrame) -> pd.DataFrame:
    """The full model's and EST's trace at equal loss, part by part: means over seeds.

    Returns:
        Columns corpus, method, part (of `PARTS`), value and loss; without a language in which a seed cannot be read.

    Raises:
        InputError: the frame is of another recipe.
    """
    found = []
    for corpus, rows in _languages(frame):
        try:
            found += [
                (corpus, method, part, at_loss(run, level, "value"), level)
                for part in PARTS
                for _, *runs, level in _pairs(
                    *(trajectories(rows, method, (f"hessian_trace_{part}",)) for method in ("full", "est"))
                )
                for method, run in zip(("full", "est"), runs, strict=True)
            ]
        except NotMeasured:
            continue
    table = pd.DataFrame(found, columns=["corpus", "method", "part", "value", "loss"])
    return table.groupby(["corpus", "method", "part"], as_index=False)[["value", "loss"]].mean()


def _languages(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if "corpus" not in frame.columns:
        raise InputError("no trace to compare: the frame has no column corpus; est run flatness makes such rows")
    for corpus in CORPORA:
        rows = frame[frame["corpus"] == corpus]
        if len(rows):
            yield corpus, rows
