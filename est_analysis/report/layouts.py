"""What a report of each recipe shows: its figures, its table, its headline and how far to trust it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.claims import Verdict
from est_analysis.claims.equal_loss import log_ratios, traces_by_part
from est_analysis.claims.raptr_stability import predicted_stability
from est_analysis.claims.sampling_costs import side_by_side

from . import ablations, first_experiments, flatness, grid, overhead, polynomials, rates, reproduce, stability, tables


@dataclass(frozen=True, kw_only=True)
class Illustration:
    """A figure of the report: its file name, its caption, and what draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[pd.DataFrame], Figure]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All of a report that depends on its recipe.

    Attributes:
        heading: above the table.
        table: frame -> one row a method or variant, as text.
        note: below the table, what its columns mean.
        illustrations: the figures, in order.
        headline: (frame, verdicts, scale) -> the report in two sentences.
        caveat: context -> how far the runs are from the paper's, in plain words.
        judges: whether claims are judged.
    """

    heading: str
    table: Callable[[pd.DataFrame], pd.DataFrame]
    note: str
    illustrations: tuple[Illustration, ...]
    headline: Callable[[pd.DataFrame, Iterable[Verdict], str], str]
    caveat: Callable[[Mapping[str, Any]], str]
    judges: bool = True


TEXT = Layout(
    heading="Methods",
    table=reproduce.methods_table,
    note="Loss: mean ± standard deviation over seeds, in nats per token, of the full model. Savings and speed-ups are "
    "against the full model's run of the same seed; the speed-up that FLOPs allow counts attention and LM head. "
    "Hessian trace: mean ± standard error over seeds (the estimator's own for a single seed).",
    illustrations=(
        Illustration(
            name="loss_curves",
            title="Loss against step",
            caption="Thin lines are runs, bold lines means over seeds, vertical lines stage transitions; only the "
            "subnetwork's loss can jump there, since a transition changes no weight; the inset is the end of training.",
            draw=plots.loss_curves,
        ),
        Illustration(
            name="loss_against_flops",
            title="Loss against FLOPs",
            caption="The same validation losses against the operations spent: a curve below another reaches a loss for "
            "less, and how much less depends on whether attention and LM head are counted.",
            draw=plots.loss_against_flops,
        ),
        Illustration(
            name="step_time_by_stage",
            title="Step time by stage",
            caption="A measured mark (median over windows, bars the quartiles) above its diamond is time that the "
            "smaller subnetwork should have saved and did not.",
            draw=plots.step_time_by_stage,
        ),
        Illustration(
            name="final_traces",
            title="Curvature at the end",
            caption="The trace of the loss Hessian of every finished model with the estimate's standard error; the "
            "short lines are means over seeds, and lower is flatter.",
            draw=plots.final_traces,
        ),
        Illustration(
            name="est_sampling_penalty",
            title="What EST's sampling costs",
            caption="At each transition of EST, with the weights as they are: held-out loss under sampled masks minus "
            "the full model's, by what is sampled, and how far it drops when the next stage's masks are drawn. Beside "
            "what drawn masks show stands what second-order theory predicts of it, with the loss's own second "
            "derivatives or with the Fisher matrix.",
            draw=lambda frame: plots.sampling_costs(side_by_side(frame)),
        ),
    ),
    headline=reproduce.headline,
    caveat=tables.caveat,
)

_COMPONENTS = Layout(
    heading="Methods",
    table=polynomials.components_table,
    note="Mean depth: layers that ran, mean over all steps. Layer FLOPs saved: against the full model's run of the "
    "same seed. Errors: the part of one degree's power that the whole net has not learned (0: learned, 1: not), mean ± "
    "standard deviation over seeds; every seed has a polynomial of its own, the same for all methods. Relative loss: "
    "squared error over the target's variance. The tail: a few more steps of the whole net, the same for all methods.",
    illustrations=(
        Illustration(
            name="component_curves",
            title="What is learned when, degree by degree",
            caption="Error of the terms of each degree: 0 is learned, 1 is not. Thin lines are seeds, bold lines their "
            "means; dashed vertical lines are the ends of the stages (PLD and stochastic depth have none), and in the "
            "shaded tail the full model trains.",
            draw=plots.component_curves,
        ),
        Illustration(
            name="final_components",
            title="What is learned in the end",
            caption="Means over seeds with 95 % intervals, dots the seeds, hollow marks after the tail. The intervals "
            "hold the difference between one polynomial and the next; methods share their polynomials, so the claims "
            "below compare them seed by seed, which is sharper.",
            draw=plots.final_components,
        ),
        Illustration(
            name="transition_losses",
            title="Losses over the run",
            caption="Thin lines are seeds, bold lines means, dashed grey the whole model on held-out points. The round "
            "marks are the subnetworks' held-out loss on both sides of a transition, the weights standing still. PLD "
            "and stochastic depth have no stages: their marks, at the same steps, show what the draw of masks does.",
            draw=lambda frame: plots.transition_losses(frame, ("raptr", "raptr_reversed", "stochastic_depth", "pld")),
        ),
    ),
    headline=polynomials.components_headline,
    caveat=polynomials.caveat,
)

_TRANSITIONS = Layout(
    heading="Methods and what was changed about them",
    table=polynomials.transitions_table,
    note="Change: held-out loss of the subnetworks just after a stage transition over that just before it, minus 1, "
    "with the same weights; mean over a run's transitions, then over seeds, with its 95 % interval. In brackets where "
    "a run had learned nothing by any of its transitions (loss above 0.9 of the target's variance), so that nothing "
    "could change. Relative loss: squared error over the target's variance at the end, mean ± standard deviation over "
    "seeds.",
    illustrations=(
        Illustration(
            name="transition_changes",
            title="What a stage transition does to the loss",
            caption="A mark is a seed at a transition (from left to right in the order of the run), with the same "
            "weights on both sides; short lines are means. The axis is linear up to 10 % and logarithmic beyond. Pale "
            "marks had learned nothing by then, so that nothing could change. PLD has no stages: its marks, at RaPTr's "
            "steps, show what the draw of masks does.",
            draw=plots.transition_changes,
        ),
        Illustration(
            name="transition_losses",
            title="Losses over the run",
            caption="Nets with residual connections and layer norm. Thin lines are seeds, bold lines means, dashed "
            "grey the whole model on held-out points; the round marks are the subnetworks' held-out loss on both sides "
            "of a transition, the weights standing still. Only gradual stacking, which copies layers, changes the "
            "whole model there.",
            draw=plots.transition_losses,
        ),
    ),
    headline=polynomials.transitions_headline,
    caveat=polynomials.caveat,
)

_STABILITY = Layout(
    heading="Nets",
    table=stability.stability_table,
    note="Psi of a layer: relative change of the output when it is bypassed; mean over layers, then over nets at "
    "initialisation. Exponent: c of mean Psi = C L^(-c) over depths from 32 on, with its 95 % interval.",
    illustrations=(
        Illustration(
            name="stability_against_depth",
            title="Stability against depth",
            caption="Mean over layers of the relative change of the output when one layer is bypassed; bars are the "
            "range over nets, dashed lines the exact limit of infinite width. A falling line means that a deeper net "
            "depends less on any one layer.",
            draw=lambda frame: plots.stability_against_depth(frame, predicted_stability(frame)),
        ),
        Illustration(
            name="psi_by_layer",
            title="Stability layer by layer",
            caption="The same at one depth, for every layer; bands are the range over nets.",
            draw=lambda frame: plots.psi_by_layer(frame, predicted_stability(frame)),
        ),
    ),
    headline=stability.stability_headline,
    caveat=stability.caveat,
)

_GRID = Layout(
    heading="Methods by family",
    table=grid.grid_table,
    note="Every method at about a quarter fewer layer FLOPs than the full model, but for the full model itself. Loss: "
    "mean ± standard deviation over seeds, full model, in nats per token (GPT-2, Llama), per masked token (BERT) or "
    "per target token (T5). Differences are paired by seed. Each method has its own best learning rate of a sweep on "
    "seeds that are not shown.",
    illustrations=(
        Illustration(
            name="grid_gaps",
            title="Distance from the full model",
            caption="Final validation loss minus the full model's of the same seed: means, 95 % intervals, and seeds "
            "(ticks). Left of the line a method is better than the full model at three quarters of its layer FLOPs; "
            "left of the shorter full model it is worth its trouble.",
            draw=plots.grid_gaps,
        ),
        Illustration(
            name="frontier",
            title="Loss against FLOPs at several budgets",
            caption="Each mark is a run trained to its own end, with its learning rate decayed: lines through means "
            "over seeds, dashes the seeds. A method below the full model's line reaches a loss for less.",
            draw=plots.frontier,
        ),
    ),
    headline=grid.grid_headline,
    caveat=tables.caveat,
)

_ABLATIONS = Layout(
    heading="EST taken apart",
    table=ablations.ablations_table,
    note="EST on a small GPT-2 with one thing changed at a time: which dimensions are sampled, the schedule, the law "
    "of the draw. Loss: mean ± standard deviation over seeds, full model, in nats per token. Differences are paired by "
    "seed. Each contender has its own best learning rate of a sweep on seeds that are not shown.",
    illustrations=(
        Illustration(
            name="est_components",
            title="What each dimension costs",
            caption="EST's stages with only some of its dimensions sampled: means, 95 % intervals and seeds (ticks). "
            "Hollow diamonds: the sum of the costs with one dimension sampled at a time.",
            draw=plots.ablation_components,
        ),
        Illustration(
            name="est_schedules",
            title="Loss against saving",
            caption="Every schedule at the layer FLOPs that it saves, with the 95 % interval of its distance from the "
            "full model. Below the dotted line it ends better than the full model trained on fewer steps.",
            draw=plots.ablation_schedules,
        ),
    ),
    headline=ablations.ablations_headline,
    caveat=tables.caveat,
)

_RAPTR_ABLATIONS = Layout(
    heading="RaPTr with one thing changed",
    table=ablations.ablations_table,
    note="RaPTr and gradual stacking on a small GPT-2 with one thing changed at a time: the schedule, the scaling of "
    "kept layers, what is sampled. Loss: mean ± standard deviation over seeds, full model, in nats per token. "
    "Differences are paired by seed. Each contender has its own best learning rate of a sweep on other seeds.",
    illustrations=(
        Illustration(
            name="raptr_ablations",
            title="Schedules, scaling, axis",
            caption="Distance from the full model: means, 95 % intervals and seeds (ticks). All save 25 % of the layer "
            "FLOPs, RaPTr after a warm-up of the full model 17.5 %. Dotted: the full model on 26.7 % fewer steps.",
            draw=plots.raptr_ablations,
        ),
    ),
    headline=ablations.ablations_headline,
    caveat=tables.caveat,
)

_FIRST = Layout(
    heading="Trainings",
    table=first_experiments.first_table,
    note="Loss: of the full net on held-out samples, cross-entropy in nats (digits) or squared error in parts of the "
    "target's variance (polynomials), mean ± standard deviation over seeds. Differences are paired by seed. Change at "
    "a transition: held-out loss of the subnetworks just after it over that just before, minus 1, with the same "
    "weights, mean over a run's transitions.",
    illustrations=(
        Illustration(
            name="first_gaps",
            title="Distance from the full net",
            caption="Final held-out loss minus the full net's of the same seed: means, 95 % intervals, and seeds "
            "(ticks). Left of the line a training is better than the full net on all steps.",
            draw=plots.first_gaps,
        ),
        Illustration(
            name="first_stacks",
            title="Without layer norm, without residual connections",
            caption="Above, what a transition does to the subnetwork's loss, no weight changing; below, what sampling "
            "layers costs in the end against the full net of the same kind. Short dashes are seeds, bars 95 % "
            "intervals. Nets that have learned nothing by a transition have nothing to lose there; they are drawn too.",
            draw=plots.first_stacks,
        ),
        Illustration(
            name="first_linear",
            title="Linear nets",
            caption="Left, how evenly hidden units share the product, 1 being the least that the penalty of sampling "
            "allows; right, the nuclear norm. Lines join the trainings of one seed, long dashes are means.",
            draw=plots.first_linear,
        ),
    ),
    headline=first_experiments.first_headline,
    caveat=first_experiments.caveat,
)

_FLATNESS = Layout(
    heading="Contenders",
    table=flatness.flatness_table,
    note="Small GPT-2s on Python source and on a hidden Markov model's language. Loss: mean ± standard deviation over "
    "seeds, in nats per token; above the least possible one where that is known. Traces: at the end of training, mean "
    "± standard error over seeds. Ratio at equal loss: to the full model's trace, the run that ended lower read where "
    "it last passed the other's final loss; geometric mean with its 95 % interval.",
    illustrations=(
        Illustration(
            name="flatness_along_training",
            title="Traces along training",
            caption="Hessian traces of checkpoints on the same held-out windows and probes: geometric means over "
            "seeds, bars their range; a trace that is not positive, lost in its noise, is left out. On the right the "
            "whole model's against the loss: at one height of loss the flatter is lower.",
            draw=plots.flatness_along_training,
        ),
        Illustration(
            name="flatness_ratios",
            title="Ratios at equal loss",
            caption="Trace over the full model's at equal loss: geometric means, 95 % intervals and seeds (ticks). "
            "Left of the line is flatter than the full model. A row at one rate is over the full model at EST's rate.",
            draw=lambda frame: plots.flatness_ratios([log_ratios(frame)]),
        ),
        Illustration(
            name="table_5",
            title="Table 5, split over groups of parameters",
            caption="The full model's and EST's trace at equal loss, means over seeds; each panel has its own scale.",
            draw=lambda frame: plots.table_5(traces_by_part(frame)),
        ),
    ),
    headline=flatness.flatness_headline,
    caveat=tables.caveat,
)

_OVERHEAD = Layout(
    heading="Steps",
    table=overhead.overhead_table,
    note="Milliseconds of a step of EST's second stage, medians over rounds, mean over runs; the extra is over the "
    "first row of its kind, by sums over eight rounds, in percent, with its 95 % interval over runs.",
    illustrations=(),
    headline=overhead.overhead_headline,
    caveat=overhead.caveat,
)

SWEEP = Layout(
    heading="Learning rates",
    table=rates.rates_table,
    note="Final validation loss in nats per token at each peak learning rate, mean over as many seeds as stand in "
    "brackets, and the best of the rates that most seeds ran at. The rule is that of experiments/runs/rate_sweep.py.",
    illustrations=(
        Illustration(
            name="learning_rates",
            title="Final loss against learning rate",
            caption="Means over seeds, the best filled; small marks are of one seed where others are of more.",
            draw=rates.rates_figure,
        ),
    ),
    headline=rates.rates_headline,
    caveat=rates.caveat,
    judges=False,
)

LAYOUTS: dict[str, Layout] = {
    "first-experiments": _FIRST,
    "est-ablations": _ABLATIONS,
    "raptr-ablations": _RAPTR_ABLATIONS,
    "flatness": _FLATNESS,
    "grid": _GRID,
    "poly-raptr-vs-pld": _COMPONENTS,
    "transition-smoothness": _TRANSITIONS,
    "stability-vs-depth": _STABILITY,
    "sampling-overhead": _OVERHEAD,
}


def find_layout(recipe: str | None, scale: str = "") -> Layout:
    """The layout of `recipe` at `scale`; of runs on text where it has none of its own, of a sweep at such a scale.

    >>> find_layout("reproduce") is find_layout(None) is TEXT
    True
    >>> find_layout("grid", "report-rates") is SWEEP
    True
    """
    return SWEEP if scale.endswith("rates") else LAYOUTS.get(recipe or "", TEXT)
