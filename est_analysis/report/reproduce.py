"""Table and headline of runs on text: EST and RaPTr beside the full model."""

from collections.abc import Iterable

import pandas as pd

from est_analysis.claims import NotMeasured, Verdict, final, runs_of, saving, speed_up, t_interval
from est_analysis.plots import in_order, method_style

from .tables import MISSING, cell, spread, tally


def _trace(frame: pd.DataFrame, method: str) -> str:
    """Mean trace and its standard error: over seeds, or the estimator's own where there is one seed."""
    traces = final(frame, method, "hessian_trace")
    if len(traces) > 1:
        return f"{traces.mean():.0f} ± {traces.sem():.0f}"
    return f"{traces.iloc[0]:.0f}" + cell(
        lambda: final(frame, method, "hessian_trace_stderr"), lambda error: f" ± {error.iloc[0]:.0f}"
    ).replace(MISSING, "")


def _peaks(frame: pd.DataFrame, method: str) -> pd.Series:
    return pd.Series({seed: rates.max() for seed, rates in runs_of(frame, method, "learning_rate").items()})


def methods_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a method: seeds, final loss, savings, speed-ups and Hessian trace; a dash for what was not measured."""

    def row(method: str) -> dict[str, str]:
        ideal = cell(lambda: 100 / (100 - saving(frame, method, "total_flops")), lambda ratio: f"{ratio.mean():.3f}x")
        try:
            trace = _trace(frame, method)
        except NotMeasured:
            trace = MISSING
        runs = frame[frame["method"] == method]
        return {
            "method": method_style(method).label,
            "schedule": ", ".join(sorted(runs["schedule"].unique())),
            "seeds": str(runs["seed"].nunique()),
            "peak learning rate": cell(lambda: _peaks(frame, method), lambda peaks: f"{peaks.mean():.2g}"),
            "final validation loss": cell(lambda: final(frame, method, "validation_loss"), spread),
            "layer FLOPs saved": cell(
                lambda: saving(frame, method, "layer_flops"), lambda part: f"{part.mean():.2f} %"
            ),
            "total FLOPs saved": cell(
                lambda: saving(frame, method, "total_flops"), lambda part: f"{part.mean():.2f} %"
            ),
            "speed-up FLOPs allow": ideal,
            "speed-up measured": cell(lambda: speed_up(frame, method), lambda ratio: f"{ratio.mean():.3f}x"),
            "Hessian trace": trace,
        }

    return pd.DataFrame([row(method) for method in in_order(frame["method"])])


def headline(frame: pd.DataFrame, verdicts: Iterable[Verdict], scale: str) -> str:
    """The report in two sentences: how the methods' final losses compare, and how many claims held."""
    parts = []
    for method in [name for name in in_order(frame["method"]) if name != "full"]:
        try:
            gap = final(frame, method, "validation_loss") - final(frame, "full", "validation_loss")
            part, gap = saving(frame, method, "total_flops").mean(), gap.dropna()
        except NotMeasured:
            continue
        if gap.empty:
            continue
        interval = t_interval(gap)
        spread = "one seed" if interval is None else f"95 % interval {interval[0]:+.4f} to {interval[1]:+.4f}"
        side = "above" if gap.mean() > 0 else "below"
        parts.append(
            f"{method_style(method).label} ended {abs(gap.mean()):.4f} nats {side} the "
            f"full model's validation loss ({spread}) with {part:.1f} % fewer total FLOPs"
        )
    opening = "; ".join(parts) or "No method could be compared with the full model"
    return f"{opening}. {tally(verdicts, scale)}"
