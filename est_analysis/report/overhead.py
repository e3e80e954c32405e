"""Table, headline and caveat of the recipe that times the machinery of sampling."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from est_analysis.claims import Verdict, runs_of
from est_analysis.claims.est_overhead import overhead

from .tables import cell, effect_cell, tally

# Metric -> what it is in words, and the metric it is compared with.
_STEPS = {
    "seconds_ready": ("training step, masks at hand", ""),
    "seconds_inline": ("training step, masks drawn in it", "seconds_ready"),
    "seconds_ahead": ("training step, masks from the index generator", "seconds_ready"),
    "seconds_extracted": ("forward and backward, a model of one mask's heads and columns", ""),
    "seconds_sampled": ("forward and backward, heads and columns extracted", "seconds_extracted"),
}


def overhead_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of step: its time, and how much longer it takes than what it is compared with."""
    rows = []
    for metric, (name, base) in _STEPS.items():
        medians = cell(
            lambda metric=metric: pd.Series([run.median() for run in runs_of(frame, "est", metric).values()]),
            lambda found: f"{1e3 * found.mean():.4g}",
        )
        rows.append({"step": name, "milliseconds": medians, "extra [95 %]": _extra(frame, metric, base)})
    return pd.DataFrame(rows)


def _extra(frame: pd.DataFrame, metric: str, base: str) -> str:
    return effect_cell(partial(overhead, frame, metric=metric, base=base), "{:+.2f}".format, " %") if base else ""


def overhead_headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """What extraction and drawing cost a step, and how many claims held."""
    extras = {metric: _extra(frame, metric, base) for metric, (_, base) in _STEPS.items() if base}
    return (
        f"Extracting heads and columns makes a step longer by {extras['seconds_sampled']}, drawing their indices in it "
        f"by {extras['seconds_inline']}, the index generator by {extras['seconds_ahead']}. {tally(verdicts, scale)}"
    )


def caveat(context: Mapping[str, Any]) -> str:
    """What the times are of, in plain words."""
    spec = context.get("spec") or {}
    timed = "GPT-2s"
    if spec:
        timed = f"a GPT-2 ({spec['preset']}) on {spec['batch_size']} x {spec['seq_len']} tokens, {spec['device']}"
    return (
        f"The times are of {timed}, and of one machine, whose other work would be in them; EST's are of A100s. On a "
        "CPU steps are slower, so that drawing is a smaller part of them, and its indices need not be moved."
    )
