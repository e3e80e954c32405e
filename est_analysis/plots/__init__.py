"""Figures of tidy frames (run_id, method, schedule, seed, step, metric, value): summarise, then draw."""

from .ablations import (
    ablation_components,
    ablation_schedules,
    raptr_ablations,
    summarise_ablations,
    sums_of_single,
    table_3,
)
from .components import component_curves, final_components, summarise_components, summarise_final_components
from .curves import loss_curves, summarise_curves, summarise_stages
from .downstream import (
    downstream_against_trace,
    downstream_scores,
    summarise_downstream,
)
from .estimators import estimator_convergence, summarise_convergence, trace_by_kind
from .first_experiments import (
    first_gaps,
    first_linear,
    first_stacks,
    summarise_changes,
    summarise_first_gaps,
    summarise_linear,
)
from .flatness import (
    flatness_along_training,
    flatness_ratios,
    summarise_flatness,
    table_5,
)
from .flops import loss_against_flops, summarise_loss_against_flops
from .grid import frontier, grid_gaps, grid_lengths, summarise_frontier, summarise_grid_gaps
from .learning_rates import learning_rates
from .sampling_loss import sampling_costs
from .speed import step_time_by_stage, summarise_step_time
from .stability import psi_by_layer, stability_against_depth, summarise_psi_by_layer, summarise_stability
from .stability_layers import stability_by_layer
from .stage_transitions import stage_transitions, summarise_transition_windows
from .style import METHOD_STYLES, MethodStyle, in_order, method_style, save, style
from .traces import final_traces, summarise_traces
from .transitions import (
    summarise_transition_changes,
    summarise_transition_losses,
    summarise_transitions,
    transition_changes,
    transition_losses,
)

__all__ = [
    "METHOD_STYLES",
    "MethodStyle",
    "ablation_components",
    "ablation_schedules",
    "component_curves",
    "downstream_against_trace",
    "downstream_scores",
    "estimator_convergence",
    "final_components",
    "final_traces",
    "first_gaps",
    "first_linear",
    "first_stacks",
    "flatness_along_training",
    "flatness_ratios",
    "frontier",
    "grid_gaps",
    "grid_lengths",
    "in_order",
    "learning_rates",
    "loss_against_flops",
    "loss_curves",
    "method_style",
    "psi_by_layer",
    "raptr_ablations",
    "sampling_costs",
    "save",
    "stability_against_depth",
    "stability_by_layer",
    "stage_transitions",
    "step_time_by_stage",
    "style",
    "summarise_ablations",
    "summarise_changes",
    "summarise_components",
    "summarise_convergence",
    "summarise_curves",
    "summarise_downstream",
    "summarise_final_components",
    "summarise_first_gaps",
    "summarise_flatness",
    "summarise_frontier",
    "summarise_grid_gaps",
    "summarise_linear",
    "summarise_loss_against_flops",
    "summarise_psi_by_layer",
    "summarise_stability",
    "summarise_stages",
    "summarise_step_time",
    "summarise_traces",
    "summarise_transition_changes",
    "summarise_transition_losses",
    "summarise_transition_windows",
    "summarise_transitions",
    "sums_of_single",
    "table_3",
    "table_5",
    "trace_by_kind",
    "transition_changes",
    "transition_losses",
]
