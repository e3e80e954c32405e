"""Figures of tidy frames (run_id, method, schedule, seed, step, metric, value): summarise, then draw."""

from .curves import loss_curves, summarise_curves, summarise_stages
from .estimators import estimator_convergence, summarise_convergence, trace_by_kind
from .flops import loss_against_flops, summarise_loss_against_flops
from .speed import step_time_by_stage, summarise_step_time
from .style import METHOD_STYLES, MethodStyle, in_order, method_style, save, style
from .traces import final_traces, summarise_traces

__all__ = [
    "METHOD_STYLES",
    "MethodStyle",
    "estimator_convergence",
    "final_traces",
    "in_order",
    "loss_against_flops",
    "loss_curves",
    "method_style",
    "save",
    "step_time_by_stage",
    "style",
    "summarise_convergence",
    "summarise_curves",
    "summarise_loss_against_flops",
    "summarise_stages",
    "summarise_step_time",
    "summarise_traces",
    "trace_by_kind",
]
