"""What draws each figure from a folder of data: the drawing of `plots`, with the published numbers in words.

They are of other models on other data, so they have no place on the axes.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from est_analysis import plots
from est_analysis.claims import Measured, NotMeasured, final
from est_analysis.claims.checks import transition_drop
from est_analysis.claims.equal_loss import log_ratios, of_corpus, traces_by_part
from est_analysis.claims.est_downstream import ALONG, beyond_the_loss, checkpoints, telling
from est_analysis.claims.raptr_stability import depth_exponent, predicted_stability
from est_analysis.claims.sampling_costs import side_by_side

from . import own_tables
from .cells import of_the_family
from .data import DataFolder
from .est_tables import SCHEDULES
from .raptr_tables import EXPONENT, THEORY
from .table import Table

Figures = Mapping[str, Figure | Table]  # and tables of our own, which belong to a figure
_ENDINGS = ("", "_longer")  # of what is drawn once for each length of training


def _say(figure: Figure, words: str, *, below: bool = False) -> Figure:
    """Writes `words` above everything else, or below it."""
    with plots.style():
        (figure.supxlabel if below else figure.suptitle)(words, fontsize=8.5, color="#555555")
    return figure


def _in_words(found: Measured, form: str) -> str:
    low, high = found.interval or (found.effect, found.effect)
    return f"{found.effect:{form}} [{low:{form}}, {high:{form}}]"


def est_figure2(data: DataFolder) -> Figures:
    """Figure 2: the loss drops at stage transitions."""
    frame = data.rows("reproduce")
    figure = plots.stage_transitions(frame)
    try:
        drop = f"{_in_words(transition_drop(frame, 'est'), '+.3f')} nats (mean over transitions, 95 % over seeds)"
    except NotMeasured as missing:
        drop = f"not known ({missing})"
    return {
        "est_figure2": _say(
            figure,
            "Published for TinyLlama: curves that drop sharply, an image whose values could not be read (arXiv "
            f"2406.06962, Figure 2).\nHere the loss changes, beyond its trend, by {drop}.",
        )
    }


def est_figure3(data: DataFolder) -> Figures:
    """Figure 3: training and validation loss of GPT-2."""
    frame = data.rows("reproduce")
    figure = plots.loss_curves(frame[frame["method"].isin(["full", "est"])])
    return {"est_figure3": _say(figure, _final_losses(data, "GPT-2 on OpenWebText", "5"))}


def raptr_losses(data: DataFolder) -> Figures:
    """Training and validation loss of the full model and RaPTr."""
    frame = data.rows("reproduce")
    return {"raptr_losses": plots.loss_curves(frame[frame["method"].isin(["full", "raptr"])])}


def est_figure4(data: DataFolder) -> Figures:
    """Figure 4: training and validation loss of TinyLlama (its caption says GPT2-base, section A.2 TinyLlama)."""
    data.rows("grid")
    rows = of_the_family(data, "llama")
    try:
        if (frame := rows.frame) is None:
            raise NotMeasured(rows.missing)
        for method in ("full", "est"):
            final(frame, method, "train_loss")
    except NotMeasured as missing:
        raise ValueError(f"no loss curves of Llama to draw: {missing}") from missing
    figure = plots.loss_curves(frame[frame["method"].isin(["full", "est"])])
    return {"est_figure4": _say(figure, _final_losses(data, "TinyLlama on SlimPajama", "4"))}


def _final_losses(data: DataFolder, model: str, table: str) -> str:
    losses = {row: data.published.text("EST", table, row, "loss") for row in ("Original", "EST")}
    return (
        f"Published for {model}: final validation loss {losses['Original']} (full model) and {losses['EST']} (EST), "
        f"arXiv 2406.06962, Table {table}."
    )


def est_sampling_penalty(data: DataFolder) -> Figures:
    """What sampling costs at EST's transitions: under drawn masks, to second order, and in the training curve."""
    return {"est_sampling_penalty": plots.sampling_costs(side_by_side(data.rows("reproduce")))}


def est_ablations(data: DataFolder) -> Figures:
    """What each dimension costs, loss against saving, and Table 3's losses beside ours, at every length there is."""
    lengths = data.lengths("est-ablations")
    losses = {
        method: data.published.value("EST", "3", row, "loss")
        for row, method in SCHEDULES.items()
        if data.published.text("EST", "3", row, "loss")
    }
    figures: dict[str, Figure | Table] = {
        "est_components": plots.ablation_components(lengths[0]),
        "est_schedules": plots.ablation_schedules(lengths[0]),
        "est_ablations_table3": plots.table_3(lengths, losses),
    }
    if len(lengths) > 1:
        figures["est_schedules_longer"] = plots.ablation_schedules(lengths[-1])
    return figures | _ablation_losses("est", lengths, "EST's dimensions, schedules and sampling law")


def raptr_ablations(data: DataFolder) -> Figures:
    """RaPTr's schedules beside stacking's, its scaling and its axis, at every length there is."""
    lengths = data.lengths("raptr-ablations")
    figures = {
        f"raptr_ablations{ending}": plots.raptr_ablations(frame)
        for ending, frame in zip(_ENDINGS, lengths, strict=False)
    }
    return figures | _ablation_losses("raptr", lengths, "RaPTr's schedule, scaling and axis")


def _ablation_losses(paper: str, lengths: Sequence[pd.DataFrame], title: str) -> dict[str, Table]:
    return {
        f"{paper}_ablations_losses{ending}": own_tables.ablation_losses(frame, title)
        for ending, frame in zip(_ENDINGS, lengths, strict=False)
    }


def est_flatness(data: DataFolder) -> Figures:
    """The Hessian trace along training, at equal loss, and by groups of parameters beside Table 5."""
    frame, *longer = data.lengths("flatness")
    rows = {"full": "Original", "est": "EST"}
    traces = {method: data.published.value("EST", "5", row, "Hessian trace") for method, row in rows.items()}
    ratios = [*map(log_ratios, (frame, *longer))]
    figures: dict[str, Figure | Table] = {
        "est_flatness": plots.flatness_along_training(frame),
        "est_flatness_ratios": plots.flatness_ratios(ratios[:1], traces),
        "est_flatness_table5": plots.table_5(traces_by_part(frame), traces),
    }
    if longer:
        figures["est_flatness_longer"] = plots.flatness_along_training(longer[-1])
        figures["est_flatness_lengths"] = plots.flatness_ratios(ratios, traces)
    return figures | {"est_flatness_traces": own_tables.traces_at_equal_loss(ratios)}


def est_downstream(data: DataFolder) -> Figures:
    """Downstream proxies by method, and against the trace at equal loss."""
    frame = data.lengths("flatness")[0]
    points = pd.concat([beyond_the_loss(seed) for _, seed in checkpoints(frame).groupby("seed")])
    return {
        "est_downstream": plots.downstream_scores(frame),
        "est_downstream_trace": plots.downstream_against_trace(points, telling(of_corpus(frame, "text"), ALONG)),
    }


def first_experiments(data: DataFolder) -> Figures:
    """What summaries of the papers would try first: nets of two layers, stacks without parts, linear nets."""
    frame = data.rows("first-experiments")
    return {
        "first_gaps": plots.first_gaps(frame),
        "first_stacks": plots.first_stacks(frame),
        "first_linear": plots.first_linear(frame),
    }


def raptr_polynomials(data: DataFolder) -> Figures:
    """What each method learns of each degree, and what is left."""
    frame = data.rows("poly-raptr-vs-pld")
    return {
        "raptr_polynomials": plots.component_curves(frame),
        "raptr_polynomials_final": plots.final_components(frame),
    }


def raptr_transitions(data: DataFolder) -> Figures:
    """What a stage transition does to the loss, with and without residual connections, layer norm and scaling."""
    frame = data.rows("transition-smoothness")
    return {
        "raptr_transitions": plots.transition_changes(frame),
        "raptr_transitions_losses": plots.transition_losses(frame),
    }


def raptr_stability(data: DataFolder) -> Figures:
    """How much a net at initialisation moves when one layer is bypassed, beside the exact limit of infinite width."""
    frame = data.rows("stability-vs-depth")
    predicted = predicted_stability(frame)
    printed = data.published.text("RaPTr", THEORY, "BERT of 24 layers", EXPONENT)
    return {
        "raptr_stability": _say(
            plots.stability_against_depth(frame, predicted),
            f"Published: O($L^{{-1/2}}$) for residual + norm at initialisation; a fit of $L^{{-{printed}}}$ for BERT.\n"
            f"Here, residual + norm: {_fit(frame)}.",
            below=True,
        ),
        "raptr_stability_layers": plots.psi_by_layer(frame, predicted),
    }


def _fit(frame: pd.DataFrame) -> str:
    try:
        found = depth_exponent(frame, "residual+norm")
    except NotMeasured as missing:
        return f"no fit: {missing}"
    low, high = found.interval or (found.effect, found.effect)
    return f"$L^{{-{found.effect:.2f}}}$ [{low:.3f}, {high:.3f}] from depth 32 on"


def grid(data: DataFolder) -> Figures:
    """Every method's distance from the full model by family, and the loss against FLOPs; all scales in a row."""
    frame, *longer = data.lengths("grid")
    figures: dict[str, Figure | Table] = {
        "grid_gaps": plots.grid_gaps(frame),
        "grid_frontier": plots.frontier(frame),
    }
    if longer:
        figures["grid_lengths"] = plots.grid_lengths([frame, *longer])
    return figures | own_tables.grid_losses([frame, *longer])


def learning_rates(data: DataFolder) -> Figures:
    """The sweep behind the learning rates of `reproduce`."""
    return {"learning_rates": plots.learning_rates(data.rows("learning-rates"))}


def learning_rates_longer(data: DataFolder) -> Figures:
    """The same for the longer training."""
    return {"learning_rates_longer": plots.learning_rates(data.rows("learning-rates-longer"))}


def grid_rates(data: DataFolder) -> Figures:
    """The sweep behind the learning rates of `grid`, at the common budget."""
    sweep = data.rows("grid-rates")
    return {"grid_rates": plots.learning_rates(sweep[sweep["budget"] == 1])}


def longer_pair(data: DataFolder) -> Figures:
    """EST and the full model trained for 6,000 steps, one seed each."""
    return {"longer_pair": plots.loss_curves(data.rows("longer-pair"))}
