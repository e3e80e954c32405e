"""Claims about generalisation: EST (arXiv 2406.06962) reports higher downstream scores, and a flat loss as the reason.

The paper fine-tunes on GLUE and SQuAD and tests LAMBADA; the models here are far too small for these (they would be at
chance), so proxies that such models can do stand in for them: the last identifier of a line for LAMBADA's last word,
linear probes and fine-tuning on labels of Python source. What holds for them may not for the paper's tasks.

Intervals are over seeds, on one set of test items. What another set would change is the error over items that a detail
gives; committed rows have none, since it was measured as if windows of one file were independent. All regions were
written before any checkpoint of the recipe was measured. One rule came after: a score in which the baseline is no
better than the commonest answer (`telling`) decides nothing, as it turned out for last words.
"""

from functools import partial
from math import inf

import numpy as np
import pandas as pd

from .claim import Claim, Measured, NotMeasured
from .equal_loss import at_loss, of_corpus
from .statistics import common_seeds, final, final_pair, over_seeds, runs_of

_PAPER = "EST, arXiv 2406.06962"
SCORES = {
    "last-word": "downstream_last_word",
    "probe-kinds": "downstream_probe_kinds",
    "probe-library": "downstream_probe_library",
    "finetune-library": "downstream_finetune_library",
}
ALONG = ("downstream_last_word", "downstream_probe_kinds")  # measured of several checkpoints a run
_LATE = 0.4  # part of a run's steps from which its checkpoints count: EST trains the full model from 7/15 on
_FEWEST = 12  # checkpoints of one seed for a partial correlation of three variables


def scores(frame: pd.DataFrame, method: str, metrics: tuple[str, ...]) -> dict[int, pd.Series]:
    """One series a seed, by step: the mean of `metrics`, in percent."""
    parts = [runs_of(frame, method, metric) for metric in metrics]
    seeds = set(parts[0]).intersection(*parts[1:])
    if not seeds:
        raise NotMeasured(f"the scores of '{method}' share no seed")
    return {seed: 100 * sum(part[seed] for part in parts).dropna() / len(parts) for seed in sorted(seeds)}


def _last(frame: pd.DataFrame, method: str, metrics: tuple[str, ...]) -> pd.Series:
    return pd.Series({seed: float(run.iloc[-1]) for seed, run in scores(frame, method, metrics).items()})


def telling(rows: pd.DataFrame, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Of `metrics` those in which the baseline ends above chance, which is what the commonest answer scores.

    Raises:
        NotMeasured: in none.
    """
    ends = {metric: [final(rows, "full", f"{metric}{part}").mean() for part in ("", "_chance")] for metric in metrics}
    kept = tuple(metric for metric, (score, chance) in ends.items() if score > chance)
    if not kept:
        each = ", ".join(
            f"{100 * score:.1f} % where the commonest has {100 * chance:.1f} %" for score, chance in ends.values()
        )
        raise NotMeasured(f"the baseline is no better than the commonest answer: {each}")
    return kept


def _named(metrics: tuple[str, ...]) -> str:
    """What was averaged, in words."""
    return " and ".join(metric.removeprefix("downstream_").replace("_", " ") for metric in metrics)


def final_difference(
    frame: pd.DataFrame, *, theirs: str, metrics: tuple[str, ...], ours: str = "est", remark: str = ""
) -> Measured:
    """Final score of `ours` minus that of `theirs` (mean of `metrics`), in percentage points, paired by seed."""
    rows = of_corpus(frame, "text")
    metrics = telling(rows, metrics)
    own, rival = _last(rows, ours, metrics), _last(rows, theirs, metrics)
    seeds = common_seeds(own, rival)
    losses = [loss[seeds].mean() for loss in final_pair(rows, ours, "validation_loss", theirs)]
    detail = (
        f"{own[seeds].mean():.2f} ({ours}) against {rival[seeds].mean():.2f} ({theirs}), chance "
        f"{_chance(rows, metrics):.1f}{_untrained(rows, metrics)}{_item_error(rows, metrics)}; of {_named(metrics)}; "
        f"losses {losses[0]:.3f} and {losses[1]:.3f} nats{'; ' + remark if remark else ''}"
    )
    return over_seeds(own[seeds] - rival[seeds], unit="points", detail=detail)


def _chance(rows: pd.DataFrame, metrics: tuple[str, ...]) -> float:
    return float(np.mean([100 * final(rows, "full", f"{metric}_chance").mean() for metric in metrics]))


def _untrained(rows: pd.DataFrame, metrics: tuple[str, ...]) -> str:
    """What a model at initialisation scores, where that was measured."""
    first = [run[0] for run in scores(rows, "full", metrics).values() if 0 in run.index]
    return f", untrained {np.mean(first):.1f}" if first else ""


def _item_error(rows: pd.DataFrame, metrics: tuple[str, ...]) -> str:
    """Standard error over test items of the mean of `metrics`, of one checkpoint, where it was measured; pairs have
    less."""
    try:
        errors = [100 * final(rows, "full", f"{metric}_stderr").mean() for metric in metrics]
    except NotMeasured:
        return ""
    return f", one checkpoint's error over items {np.sqrt(np.sum(np.square(errors))) / len(errors):.1f} points"


def difference_at_equal_loss(frame: pd.DataFrame, *, theirs: str) -> Measured:
    """EST's final score minus that of `theirs` at EST's final loss, linear in the loss between its checkpoints.

    The score is the mean of those measured along the runs. The rival is read while its learning rate is still high.
    """
    rows = of_corpus(frame, "text")
    ours, rival = (_points(rows, method) for method in ("est", theirs))
    gaps, levels = {}, {}
    for seed in common_seeds(ours, rival):
        level = max(ours[seed]["loss"].iloc[-1], rival[seed]["loss"].iloc[-1])
        read = [at_loss(points[seed], level, "score") for points in (ours, rival)]
        gaps[seed], levels[seed] = read[0] - read[1], level
    detail = (
        f"mean of {_named(telling(rows, ALONG))}, read at {np.mean(list(levels.values())):.3f} nats; {theirs} had "
        "more of its learning rate left there"
    )
    return over_seeds(pd.Series(gaps), unit="points", detail=detail)


def _points(rows: pd.DataFrame, method: str) -> dict[int, pd.DataFrame]:
    """One frame a seed, by step: validation `loss` and `score`, the mean of those measured along runs."""
    found, losses = scores(rows, method, telling(rows, ALONG)), runs_of(rows, method, "validation_loss")
    return {
        seed: pd.DataFrame({"loss": losses[seed], "score": found[seed]}).dropna()
        for seed in common_seeds(found, losses)
    }


def checkpoints(frame: pd.DataFrame) -> pd.DataFrame:
    """Every measured checkpoint of the later part of its run.

    Returns:
        Columns method, seed, step, loss, score (mean of those measured along runs, percent), log_trace.
    """
    rows = of_corpus(frame, "text")
    found = []
    for method in rows["method"].unique():
        try:
            points, traces = _points(rows, method), runs_of(rows, method, "hessian_trace")
        except NotMeasured:
            continue
        for seed in sorted(set(points) & set(traces)):
            table = points[seed].assign(trace=traces[seed]).dropna()
            table = table[(table.index >= _LATE * table.index.max()) & (table["trace"] > 0)]
            found.append(table.assign(method=method, seed=seed, log_trace=np.log(table["trace"])))
    if not found:
        raise NotMeasured("no checkpoint has both a downstream score and a Hessian trace")
    whole = pd.concat(found).rename_axis("step").reset_index()
    return whole[["method", "seed", "step", "loss", "score", "log_trace"]]


def beyond_the_loss(points: pd.DataFrame) -> pd.DataFrame:
    """`points` of one seed, and what a parabola in the loss leaves of both: score_left, log_trace_left."""
    loss = points["loss"].to_numpy()
    base = np.vander((loss - loss.mean()) / (loss.std() or 1.0), 3)
    left = {
        f"{name}_left": points[name] - base @ np.linalg.lstsq(base, points[name], rcond=None)[0]
        for name in ("score", "log_trace")
    }
    return points.assign(**left)


def partial_correlation(points: pd.DataFrame) -> float:
    """Correlation of score and log trace once what a parabola in the loss tells of each is taken away."""
    left = beyond_the_loss(points)[["score_left", "log_trace_left"]].to_numpy().T
    if min(np.std(part) for part in left) < 1e-9:
        raise NotMeasured("at equal loss the scores, or the traces, do not differ")
    return float(np.corrcoef(*left)[0, 1])


def flat_is_good(frame: pd.DataFrame) -> Measured:
    """Partial correlation of score with log trace given the loss, over all methods' checkpoints: one number a seed.

    Runs of one seed share initialisation, order of the data and test items, so that seeds are the clusters.
    """
    found = checkpoints(frame)
    sizes = found.groupby("seed").size()
    if sizes.min() < _FEWEST:
        raise NotMeasured(f"{sizes.min()} checkpoints of a seed have loss, trace and score, too few (under {_FEWEST})")
    values = pd.Series({seed: partial_correlation(points) for seed, points in found.groupby("seed")})
    parts = [f"{np.mean(_without(found, method)):+.2f} without {method}" for method in found["method"].unique()]
    detail = (
        f"{len(found)} checkpoints of {found['method'].nunique()} methods, from {_LATE:.0%} of the steps on; "
        f"{', '.join(parts)}; checkpoints of one run are not independent, and methods are few: the interval is over "
        "seeds"
    )
    return over_seeds(values, unit="partial correlation", detail=detail)


def _without(found: pd.DataFrame, method: str) -> list[float]:
    rest = found[found["method"] != method]
    return [partial_correlation(points) for _, points in rest.groupby("seed")]


def rises_with_training(frame: pd.DataFrame) -> Measured:
    """The baseline's last score minus that of its first measured checkpoint: whether the proxies tell anything."""
    rows = of_corpus(frame, "text")
    metrics = telling(rows, ALONG)
    found = {seed: run[run.index > 0] for seed, run in scores(rows, "full", metrics).items()}
    if min(map(len, found.values())) < 2:
        raise NotMeasured("the baseline was measured at one checkpoint only")
    change = pd.Series({seed: run.iloc[-1] - run.iloc[0] for seed, run in found.items()})
    run = next(iter(found.values()))
    detail = f"from step {run.index[0]} to step {run.index[-1]}, mean of {_named(metrics)}"
    return over_seeds(change, unit="points", detail=detail)


_ALL = tuple(SCORES.values())
_HIGHER = ("final score minus the baseline's, paired by seed, above 0 percentage points", (0.0, inf))
_MEAN = "mean GLUE 80.66 against 79.84, SQuAD 67.14/77.15 against 66.74/77.06, LAMBADA 32.01 against 29.44"
_TABLES = f"ours: tasks of our own for those of Section 4.1, Table 2 ({_MEAN})"
_STATEMENTS = {
    "last-word": "EST predicts the last identifier of a line of held-out Python better than the baseline",
    "probe-kinds": "A linear probe reads the kind of a token better from EST's hidden states than from the baseline's",
    "probe-library": "A linear probe reads the package of a text better from EST's hidden states than the baseline's",
    "finetune-library": "Fine-tuned to tell packages apart, EST's checkpoint ends better than the baseline's",
}
_LOCI = {
    "last-word": "ours: a task of our own for LAMBADA, Section 4.1, Table 2 (32.01 against 29.44)",
    "finetune-library": "ours: a task of our own for fine-tuning on GLUE, Section 4.1, Table 2 (80.66 against 79.84)",
}
_WITH_LAST_WORDS = ("last-word", "mean", "mean-same-rate", "no-worse", "equal-loss", "flat-is-good", "proxies-rise")
_KNOWN = "the rows, when scores by chance were left out; the threshold is older"


def _claim(topic: str, locus: str, statement: str, rule: tuple[str, tuple[float, float]], check) -> Claim:
    threshold, region = rule
    return Claim(
        id=f"est.downstream.{topic}",
        paper=_PAPER,
        locus=locus,
        statement=f"{statement}.",
        threshold=threshold,
        region=region,
        recipe="flatness",
        check=check,
        known=_KNOWN if topic in _WITH_LAST_WORDS else "",
    )


_CLAIMS = (
    *(
        _claim(
            topic,
            _LOCI.get(topic, _TABLES),
            f"{_STATEMENTS[topic]}, after equally many steps",
            _HIGHER,
            partial(final_difference, theirs="full", metrics=(metric,)),
        )
        for topic, metric in SCORES.items()
    ),
    _claim(
        "mean",
        _TABLES,
        "After equally many steps EST's mean score over the proxies is higher than the baseline's",
        _HIGHER,
        partial(final_difference, theirs="full", metrics=_ALL, remark="the paper's mean GLUE differs by 0.82"),
    ),
    _claim(
        "mean-same-rate",
        f"{_TABLES}; both methods have one learning rate there",
        "After equally many steps at EST's learning rate, EST's mean score over the proxies is higher",
        _HIGHER,
        partial(final_difference, theirs="full/est-rate", metrics=_ALL, remark="the paper's mean GLUE differs by 0.82"),
    ),
    _claim(
        "no-worse",
        f"{_TABLES}, read as: no worse",
        "After equally many steps EST's mean score over the proxies is at most one point below the baseline's",
        ("final mean score minus the baseline's, paired by seed, above -1 percentage points", (-1.0, inf)),
        partial(final_difference, theirs="full", metrics=_ALL),
    ),
    _claim(
        "equal-loss",
        "ours: tasks of our own for GLUE, Section 5.2, Table 5 (with almost the same loss, 74.66 against 73.89)",
        "At equal loss EST's score is higher than the baseline's",
        ("score minus the baseline's at equal loss, paired by seed, above 0 percentage points", (0.0, inf)),
        partial(difference_at_equal_loss, theirs="full"),
    ),
    _claim(
        "flat-is-good",
        "ours: on tasks of our own, Section 5.2 after Liu et al. 2023 (generalisation and trace correlate strongly)",
        "At equal loss, the smaller the trace of the Hessian of a checkpoint, the better its downstream score",
        ("partial correlation of score and log trace given the loss, mean over seeds, below 0", (-inf, 0.0)),
        flat_is_good,
    ),
    _claim(
        "proxies-rise",
        "ours: a control; proxies that training does not improve would tell nothing",
        "From the first measured checkpoint to the last the baseline's score rises",
        ("last score minus the first, mean over seeds, above 0 percentage points", (0.0, inf)),
        rises_with_training,
    ),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
GROUPS = {"est.downstream": "EST's downstream scores beside the baseline's, and beside the trace at equal loss."}
