"""What summary pages of both papers would try first, on nets so small that ten seeds are cheap.

Some of it the papers assert of their own, far larger models; some only a summary asks. `locus` says which: its
question is not ascribed to a paper. All regions were written before the first run at quick scale. Pilots fixed sizes
and steps: of the full nets, one each of EST and RaPTr on digits for its time, all on seeds that are not reported, and
one of the linear nets at other sizes. Learning rates are each training's own best of six: of four in a first pass, in
which every MLP on polynomials chose the largest, so that larger ones were added for all until none was chosen. No
region changed. Losses are cross-entropies of held-out digits in nats, and of polynomials the squared error in parts of
the target's variance.
"""

from collections.abc import Callable
from functools import partial
from math import inf

import pandas as pd

from .claim import Claim, Measured
from .first_checks import (
    accuracy_gap,
    balance,
    full_jump,
    jump_gap,
    loss_gap,
    nuclear_shrinkage,
    penalty_error,
    sampling_cost_gap,
    subnet_drop,
)
from .transition_losses import SIZES

WORDS = {"digits": "handwritten digits", "polynomial": "Boolean polynomials"}
_EST, _RAPTR = "EST, arXiv 2406.06962", "RaPTr, arXiv 2402.05913"
_BELOW, _ABOVE = (-inf, 0.0), (0.0, inf)
_NOT_WORSE = "final loss difference, paired by seed, no more than 0.01 (nats; of the variance)"
_LESS, _MORE = "final loss difference, paired by seed, below 0", "final loss difference, paired by seed, above 0"
_SMOOTH = "full net's loss at the evaluation after a transition minus that at it, largest of a run, no more than 0.05"
_SUMMARY = "asked: by a summary page, not the paper"
_SUMMARY_R = "asked: by a summary page, not the text of the paper that could be read"


def _claim(
    id: str, locus: str, statement: str, threshold: str, region: tuple[float, float],
    check: Callable[[pd.DataFrame], Measured],
) -> Claim:  # fmt: skip
    return Claim(
        id=id,
        paper=_EST if id.startswith("est.") else _RAPTR,
        locus=locus,
        statement=statement,
        threshold=threshold,
        region=region,
        recipe="first-experiments",
        check=check,
        known=SIZES if getattr(check, "func", None) is jump_gap else "",
    )


def _mlp_outcome(task: str) -> list[Claim]:
    """EST's columns in a plain two-layer MLP: how it ends, and its transition."""
    gap = partial(partial, loss_gap, task=task, net="mlp")
    first = f"{_SUMMARY}, first experiment 1 (section 4.1, Table 2, asserts it of GPT-2)"
    where = f"a two-layer MLP on {WORDS[task]}"
    table = (
        (
            "mlp-loss",
            first,
            f"After equally many steps EST, sampling columns, ends no worse than the full net: {where}.",
            _NOT_WORSE,
            (-inf, 0.01),
            gap(ours="est", theirs="full"),
        ),
        (
            "mlp-flops",
            "ours: the full net on fewer steps, a control for the abstract (saving without an increase in loss)",
            f"At equal layer FLOPs EST ends better than the full net: {where}.",
            _LESS,
            _BELOW,
            gap(ours="est", theirs="short"),
        ),
        (
            "mlp-transition",
            "ours: of a two-layer MLP what section 5.1 says of TinyLlama (Figure 2)",
            f"The subnetwork's loss drops at once when it grows, no weight changing: {where}.",
            "relative change of the subnetwork's held-out loss at the transition, below 0",
            _BELOW,
            partial(subnet_drop, task=task, net="mlp", method="est"),
        ),
        (
            "mlp-no-spike",
            f"{_SUMMARY}, failure signatures (loss spikes at stage transitions)",
            f"The full net's loss does not jump up after EST's transition: {where}.",
            _SMOOTH,
            (-inf, 0.05),
            partial(full_jump, task=task, net="mlp", method="est"),
        ),
    )
    return [_claim(f"est.first.{topic}.{task}", *row) for topic, *row in table]


def _mlp_pieces(task: str) -> list[Claim]:
    """The same MLP with a piece of EST taken away, or grown in another way."""
    gap = partial(partial, loss_gap, task=task, net="mlp")
    where = f"a two-layer MLP on {WORDS[task]}"
    table = (
        (
            "mlp-unscaled",
            "ours: of a two-layer MLP what section 3.2 says (the normalisation 1/p is crucial)",
            f"Without 1/p EST ends at a higher loss: {where}.",
            _MORE,
            _ABOVE,
            gap(ours="est/unscaled", theirs="est"),
        ),
        (
            "dropout-equivalence",
            "asked: of uniform dropout, by a summary page, next check 3; section 5.1 has Structural Dropout",
            f"EST ends where dropout of single units with EST's rates and stages does: {where}.",
            "final loss difference, EST minus dropout, paired by seed, between -0.01 and 0.01",
            (-0.01, 0.01),
            gap(ours="est", theirs="dropout"),
        ),
        (
            "last-stage",
            "ours: of a two-layer MLP what section 4.1, Table 3, says of GPT-2 (a long enough stage 3 is vital)",
            f"Half of the columns all the way, without a last stage of the full net, ends worse than EST: {where}.",
            _MORE,
            _ABOVE,
            gap(ours="est/one-stage", theirs="est"),
        ),
        (
            "growing",
            "ours: one rate all the way at the same cost, a control for section 3.3 (subnetworks increase)",
            f"Growing from a quarter of the columns to all ends better than 5/8 of them all the way: {where}.",
            _LESS,
            _BELOW,
            gap(ours="est/linear", theirs="est/flat"),
        ),
        (
            "growth-exponential",
            "asked: of RaPTr by a summary page, next check 3; here of EST's columns",
            f"Exponential growth of the keep rate ends where linear growth of equal cost does: {where}.",
            "final loss difference, paired by seed, between -0.02 and 0.02",
            (-0.02, 0.02),
            gap(ours="est/exponential", theirs="est/linear"),
        ),
        (
            "growth-step",
            f"{_SUMMARY}, break condition of mechanism 1 (stage transitions too sparse)",
            f"One step from a quarter of the columns to all ends worse than linear growth of equal cost: {where}.",
            _MORE,
            _ABOVE,
            gap(ours="est/step", theirs="est/linear"),
        ),
    )
    return [_claim(f"est.first.{topic}.{task}", *row) for topic, *row in table]


def _stack_outcome(task: str) -> list[Claim]:
    """EST's and RaPTr's layers in a stack of eight: how it ends, and its transitions."""
    gap = partial(partial, loss_gap, task=task, net="stack")
    where = f"a stack of eight on {WORDS[task]}"
    asked = "; digits are a summary page's next check 2 (image classification)" if task == "digits" else ""
    table = (
        (
            "est.first.stack-loss",
            f"{_SUMMARY}, first experiment 2 (layer sampling alone; there GPT-2)",
            f"After equally many steps EST, sampling layers alone, ends no worse than the full net: {where}.",
            _NOT_WORSE,
            (-inf, 0.01),
            gap(ours="est", theirs="full"),
        ),
        (
            "raptr.first.stack-loss",
            f"ours: of a stack of eight what the paper says of BERT-base (1.75 against 1.76){asked}",
            f"After equally many steps RaPTr ends no worse than the full net: {where}.",
            _NOT_WORSE,
            (-inf, 0.01),
            gap(ours="raptr", theirs="full"),
        ),
        (
            "raptr.first.stack-flops",
            f"ours: a control that the paper does not show{asked}",
            f"At equal layer FLOPs RaPTr ends better than the full net: {where}.",
            _LESS,
            _BELOW,
            gap(ours="raptr", theirs="short"),
        ),
        (
            "raptr.first.smooth",
            f"{_SUMMARY_R}, first experiment 1 (there 6-8-10-12 on BERT-base)",
            f"The full net's loss does not jump up after any of RaPTr's transitions: {where}.",
            _SMOOTH,
            (-inf, 0.05),
            partial(full_jump, task=task, net="stack", method="raptr"),
        ),
    )
    return [_claim(f"{topic}.{task}", *row) for topic, *row in table]


def _stack_pieces(task: str) -> list[Claim]:
    """The same stack under RaPTr with a warm-up, grown in another way, or with kept layers scaled."""
    gap = partial(partial, loss_gap, task=task, net="stack")
    where = f"a stack of eight on {WORDS[task]}"
    table = (
        (
            "raptr.first.warm-up",
            "ours: UL2 experiments use a warm-up; that it helps is not asserted where we could read it",
            f"RaPTr ends better with two thirds of its full steps moved to the beginning: {where}.",
            _LESS,
            _BELOW,
            gap(ours="raptr/warm-up", theirs="raptr"),
        ),
        (
            "raptr.first.growth-exponential",
            f"{_SUMMARY_R}, next check 3, and its key result that schedules matter little",
            f"Exponential growth of the mean depth ends where linear growth of equal cost does: {where}.",
            "final loss difference, paired by seed, between -0.02 and 0.02",
            (-0.02, 0.02),
            gap(ours="raptr/exponential", theirs="raptr/linear"),
        ),
        (
            "raptr.first.growth-step",
            f"{_SUMMARY_R}, break condition of mechanism 1 (sizes jump too aggressively between stages)",
            f"One step from a quarter of the layers to all ends worse than linear growth of equal cost: {where}.",
            _MORE,
            _ABOVE,
            gap(ours="raptr/step", theirs="raptr/linear"),
        ),
        (
            "raptr.first.scaling-sqrt",
            f"{_SUMMARY_R}, first experiment 3 (scaling functions and stability; the formula is our reading)",
            f"Square-root scaling of kept layers makes transitions smoother than none: {where}.",
            "size of the relative change of the subnetwork's loss, with minus without, paired by seed, below 0",
            _BELOW,
            partial(jump_gap, task=task, one=("stack", "raptr/sqrt_gap"), other=("stack", "raptr")),
        ),
        (
            "raptr.first.scaling-linear",
            f"{_SUMMARY_R}, first experiment 3 (scaling functions and stability; the formula is our reading)",
            f"Linear scaling of kept layers makes transitions rougher than square-root scaling: {where}.",
            "size of the relative change of the subnetwork's loss, linear minus square root, paired by seed, above 0",
            _ABOVE,
            partial(jump_gap, task=task, one=("stack", "raptr/linear_gap"), other=("stack", "raptr/sqrt_gap")),
        ),
    )
    return [_claim(f"{topic}.{task}", *row) for topic, *row in table]


def _broken(task: str, method: str, part: str) -> list[Claim]:
    """A stack without `part` under layer sampling."""
    variant, missing = f"stack/no-{part}", {"norm": "layer norm", "residual": "residual connections"}[part]
    name = {"est": "EST", "raptr": "RaPTr"}[method]
    locus = f"{_SUMMARY_R}, mechanism 2 and next check 1; theory of stage transitions (Omega(1) without {missing})"
    if method == "est":
        locus = f"asked: of EST's layer draw, RaPTr's theory of stage transitions (Omega(1) without {missing})"
    return [
        _claim(
            f"{method}.first.jump-no-{part}.{task}",
            locus,
            f"Without {missing} the subnetwork's loss changes more at {name}'s transitions: stacks on {WORDS[task]}.",
            f"size of the relative change, without minus with {missing}, paired by seed, above 0",
            _ABOVE,
            partial(jump_gap, task=task, one=(variant, method), other=("stack", method)),
        ),
        _claim(
            f"{method}.first.worse-no-{part}.{task}",
            locus,
            f"Without {missing} {name} costs more loss against the full net of its kind: stacks on {WORDS[task]}.",
            f"({method} minus full) without {missing} minus the same with, paired by seed, above 0",
            _ABOVE,
            partial(sampling_cost_gap, task=task, method=method, variant=variant),
        ),
    ]


_PAL = "ours: of linear nets what section 5.1 says through Pal et al. 2020 (arXiv 1910.14186), which it cites"


def _linear(law: str) -> list[Claim]:
    words = {"fixed_size": "EST's masks of a fixed size", "bernoulli": "independent masks"}[law]
    return [
        _claim(
            f"est.first.linear-balanced.{law}",
            f"{_PAL}, on minimisers; the form for {words} is our derivation",
            f"Trained with {words}, a linear net ends with units of equal |u_i||v_i|, where the penalty is least.",
            "n sum |u_i|^2 |v_i|^2 over the squared nuclear norm of U V', whose least is 1, below 1.05",
            (-inf, 1.05),
            partial(balance, law=law),
        ),
        _claim(
            f"est.first.linear-norm.{law}",
            f"{_PAL} (sampling introduces a regularisation term, a matrix norm)",
            f"Trained with {words}, a linear net ends with a smaller nuclear norm than without.",
            "logarithm of the ratio of nuclear norms of U V', paired by seed, below 0",
            _BELOW,
            partial(nuclear_shrinkage, law=law),
        ),
    ]


_TASKS = tuple(WORDS)
_CLAIMS = (
    *(claim for task in _TASKS for claim in (*_mlp_outcome(task), *_mlp_pieces(task))),
    _claim(
        "est.first.mlp-accuracy.digits",
        f"{_SUMMARY}, first experiment 1 (section 4.1, Table 2, asserts such of GPT-2)",
        "After equally many steps EST's two-layer MLP is no less accurate on handwritten digits than the full net.",
        "difference of accuracies, paired by seed, above -0.5 percentage points",
        (-0.5, inf),
        partial(accuracy_gap, net="mlp", ours="est", theirs="full"),
    ),
    *(claim for task in _TASKS for claim in (*_stack_outcome(task), *_stack_pieces(task))),
    *(
        claim
        for task in _TASKS
        for method in ("raptr", "est")
        for part in ("residual", "norm")
        for claim in _broken(task, method, part)
    ),
    _claim(
        "est.first.linear-penalty",
        f"{_PAL} (sampling introduces a regularisation term)",
        "In a linear net the mean loss over all masks is the full loss plus the penalty of theory, exactly.",
        "largest relative deviation of the enumerated mean, mean over seeds, below 1e-4",
        (-inf, 1e-4),
        penalty_error,
    ),
    *(claim for law in ("fixed_size", "bernoulli") for claim in _linear(law)),
)
CLAIMS = {claim.id: claim for claim in _CLAIMS}
