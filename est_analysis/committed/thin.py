"""Thins the rows of a report to what figures and claims need, for committing; what it does not know it keeps whole.

Where stage transitions were studied, with variants (a method's name with a slash), these are the losses around
transitions and the plain methods' loss curves; of other polynomials the errors by degree and the relative loss at every
evaluation. What is logged more often is kept at evaluations. Of the grid: every run's last losses and costs (its
step times say more of what else the machine did), and the loss curves of EST and the full model on Llama. Of the
ablations also the stages and every validation loss. Of the first experiments last losses and costs, the losses around
those transitions that are judged, and the linear nets whole; their schedules stand beside their labels in the code.
Of flatness along training what was measured of checkpoints, of standard errors those of whole traces, weight norms and
the groups of Fisher traces at the end, every validation loss, and the stages of the runs whose transitions count.
"""

import pandas as pd

BY_DEGREE = r"(?:tail_)?error_\d+|(?:tail_)?relative_loss|subnet_loss_(?:before|after)|stage|layer_flops|active_layers"
AROUND_TRANSITIONS = r"relative_loss|subnet_loss_(?:before|after)"
CURVES = r"train_loss|validation_loss|stage|layer_flops|active_layers"
OFTEN = ("stage", "layer_flops", "active_layers")
AT_THE_END = "validation_loss|layer_flops|total_flops"
LOSS_CURVES = "train_loss|validation_loss|stage"
OF_CHECKPOINTS = (
    r"(?:hessian_trace|scale_invariant)(?:_\w+)?|fisher_trace(?:_stderr)?|top_eigenvalue|best_loss|downstream_\w+"
)
ABLATED = ("est/only-layers", "raptr/two-stage")  # what tells an ablation by
STAGES_OF = ("est", "est/constant-lr")
CURVES_OF = {"llama": ("full", "est")}
JUMPS_OF = ("est", "raptr", "raptr/sqrt_gap", "raptr/linear_gap")
RUN = ["run_id", "seed", "step"]


def thin(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows worth keeping, values to six digits."""
    if "task" in rows.columns:
        rows = _first_experiments(rows)
    elif "budget" in rows.columns:
        rows = _grid(rows)
    elif (rows["metric"] == "relative_loss").any():
        rows = _polynomials(rows)
    elif (rows["metric"] == "hessian_trace_tokens").any():
        rows = _flatness(rows)
    elif rows["method"].isin(ABLATED).any():
        rows = _ablations(rows)
    found = rows.assign(value=rows["value"].map(lambda value: float(f"{value:.6g}")))
    order = [name for name in ("family", "corpus", "task", "net", "method", "budget") if name in found.columns]
    return found.sort_values([*order, "seed", "metric", "step"], kind="stable", ignore_index=True)


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    ends = rows["step"] == rows.groupby("run_id")["step"].transform("max")
    kept = ends & rows["metric"].str.fullmatch(AT_THE_END)
    for family, methods in CURVES_OF.items():
        drawn = (rows["family"] == family) & rows["method"].isin(methods) & (rows["budget"] == 1)
        kept |= drawn & rows["metric"].str.fullmatch(LOSS_CURVES)
    return rows[kept]


def _first_experiments(rows: pd.DataFrame) -> pd.DataFrame:
    """Of validation losses also those at and after transitions."""
    runs = rows.groupby(["run_id", "seed"])["step"]
    ends = (rows["step"] == runs.transform("max")) & rows["metric"].isin(("validation_loss", "accuracy", "layer_flops"))
    around = rows["metric"].str.fullmatch("subnet_loss_(?:before|after)") & rows["method"].isin(JUMPS_OF)
    losses = rows[rows["metric"] == "validation_loss"].sort_values("step")
    at = set(rows.loc[around, RUN].itertuples(index=False, name=None))
    at_transition = pd.Series([key in at for key in losses[RUN].itertuples(index=False, name=None)], index=losses.index)
    following = at_transition.groupby([losses["run_id"], losses["seed"]]).shift(fill_value=False)
    near = (at_transition | following).reindex(rows.index, fill_value=False)
    return rows[ends | around | near | (rows["task"] == "linear")].assign(schedule="")


def _ablations(rows: pd.DataFrame) -> pd.DataFrame:
    ends = rows["step"] == rows.groupby("run_id")["step"].transform("max")
    return rows[rows["metric"].isin(("validation_loss", "stage")) | ends & rows["metric"].str.fullmatch(AT_THE_END)]


def _flatness(rows: pd.DataFrame) -> pd.DataFrame:
    metric = rows["metric"]
    ends = rows["step"] == rows.groupby("run_id")["step"].transform("max")
    of_checkpoints = metric.str.fullmatch(OF_CHECKPOINTS) & ~metric.str.fullmatch(
        r"(?:hessian|fisher)_trace_\w+_stderr"
    )
    stages = (metric == "stage") & rows["method"].isin(STAGES_OF)
    return rows[
        of_checkpoints
        | (metric == "validation_loss")
        | stages
        | ends & metric.str.fullmatch(r"weight_norm\w*|fisher_trace_\w+")
    ]


def _polynomials(rows: pd.DataFrame) -> pd.DataFrame:
    evaluated = pd.MultiIndex.from_frame(rows.loc[rows["metric"] == "relative_loss", RUN])
    kept = rows[~rows["metric"].isin(OFTEN) | pd.MultiIndex.from_frame(rows[RUN]).isin(evaluated)]
    variant = kept["method"].str.contains("/")
    if variant.any():
        at = pd.MultiIndex.from_frame(rows.loc[rows["metric"] == "subnet_loss_before", RUN])
        last = kept["step"] == kept.groupby(["run_id", "seed"])["step"].transform("max")
        around = kept["metric"].str.fullmatch(AROUND_TRANSITIONS) & (
            last | pd.MultiIndex.from_frame(kept[RUN]).isin(at)
        )
        kept = kept[around | (~variant & kept["metric"].str.fullmatch(f"{CURVES}|relative_loss"))]
    else:
        kept = kept[kept["metric"].str.fullmatch(BY_DEGREE)]
    return kept
