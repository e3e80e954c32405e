"""The trace of the loss Hessian at the end of training, run by run."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import in_order, method_style, rows_of, style


def summarise_traces(frame: pd.DataFrame) -> pd.DataFrame:
    """The final Hessian trace of every run with its standard error (missing where none was recorded).

    Returns:
        Columns method, seed, run_id, trace and stderr, one row a run.
    """
    keys = ["method", "seed", "run_id"]
    last = rows_of(frame, "hessian_trace").groupby(keys, as_index=False).last()
    traces = last.rename(columns={"value": "trace"})[[*keys, "trace"]]
    errors = frame[frame["metric"] == "hessian_trace_stderr"].set_index("run_id")["value"]
    return traces.assign(stderr=traces["run_id"].map(errors))


def final_traces(frame: pd.DataFrame) -> Figure:
    """The final Hessian trace of every run, with its standard error, and the mean over the runs of each method.

    Args:
        frame: tidy rows with `hessian_trace` and, for the bars, `hessian_trace_stderr`.

    Returns:
        The figure; its points carry `trace:<method>` as group identifier.
    """
    traces = summarise_traces(frame)
    methods = in_order(traces["method"])
    with style():
        figure = Figure(figsize=(max(4.2, 1.5 * len(methods) + 1.2), 3.4), layout="constrained")
        ax = figure.subplots()
        for place, method in enumerate(methods):
            look, rows = method_style(method), traces[traces["method"] == method]
            x = place + (np.linspace(-0.18, 0.18, len(rows)) if len(rows) > 1 else np.zeros(1))
            drawn = ax.errorbar(
                x, rows["trace"], rows["stderr"].fillna(0.0), fmt=look.marker, color=look.colour, ms=5, capsize=4
            )
            drawn.lines[0].set_gid(f"trace:{method}")
            ax.hlines(rows["trace"].mean(), place - 0.32, place + 0.32, color=look.colour, lw=1.2, alpha=0.6)
        ax.set_xticks(range(len(methods)), [method_style(name).label for name in methods])
        ax.set_xlim(-0.6, len(methods) - 0.4)
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.0), max(high, 0.0))
        ax.set_ylabel("trace of the loss Hessian")
        ax.grid(False, axis="x")
    return figure
