"""The claims of "Efficient Stagewise Pretraining via Progressive Subnetworks" (RaPTr, arXiv 2402.05913).

The paper trains BERT and UL2; the models judged here are small causal models of GPT-2's shape, so a verdict is about
the method on such models. Every threshold was fixed before any run, but where `known` says otherwise.
"""

from functools import partial
from math import inf

import pandas as pd

from .checks import beside_the_full_model, final_loss_gap, transition_drop, transition_jump, whole_run_speed_up
from .claim import Claim, Measured
from .equal_loss import CORPORA
from .est_downstream import SCORES, final_difference
from .flatness_checks import at_equal_loss
from .statistics import over_seeds, saving
from .transition_losses import WINDOWS

_PAPER = "RaPTr, arXiv 2402.05913"


def layer_flops(frame: pd.DataFrame) -> Measured:
    """Realised saving of layer FLOPs, averaged over seeds: layers are drawn one by one, so runs differ."""
    saved = saving(frame, "raptr", "layer_flops")
    detail = f"computed from the masks drawn; runs range from {saved.min():.2f} to {saved.max():.2f} %"
    return over_seeds(saved, unit="%", detail=detail)


_CLAIMS = (
    Claim(
        id="raptr.layer-flops",
        paper=_PAPER,
        locus="BERT-base experiments, schedule 6-8-10-12 (there BERT, here a causal model)",
        statement="The schedule 6-8-10-12 of twelve layers spends 25 % fewer layer FLOPs than the full model.",
        threshold="realised saving of layer FLOPs, mean over seeds, within 1.5 percentage points of 25 %",
        region=(23.5, 26.5),
        recipe="reproduce",
        check=layer_flops,
    ),
    Claim(
        id="raptr.loss",
        paper=_PAPER,
        locus="BERT-base experiments (1.75 against 1.76; there BERT, here a causal model)",
        statement="After equally many steps, RaPTr's full-model validation loss is no worse than the baseline's.",
        threshold="final loss difference, paired by seed, no more than 0.01 nats",
        region=(-inf, 0.01),
        recipe="reproduce",
        check=partial(final_loss_gap, ours="raptr"),
    ),
    Claim(
        id="raptr.speed-up",
        paper=_PAPER,
        locus="BERT-base experiments (1.26x on accelerators; there BERT, here a causal model)",
        statement="A whole RaPTr run takes less wall-clock time than the full model's run of as many steps.",
        threshold="measured speed-up of the optimizer steps, paired by seed, above 1",
        region=(1.0, inf),
        recipe="reproduce",
        check=partial(whole_run_speed_up, method="raptr"),
        known="the step times of these runs",
    ),
    Claim(
        id="raptr.transition-drop",
        paper=_PAPER,
        locus="discussion of the stage transitions (there BERT, here a causal model)",
        statement="The sampled subnetwork's training loss goes down when RaPTr enlarges the subnetwork.",
        threshold="loss after a transition minus the line through the two windows before it, mean over a run, below 0",
        region=(-inf, 0.0),
        recipe="reproduce",
        check=partial(transition_drop, method="raptr"),
        known=WINDOWS,
    ),
    Claim(
        id="raptr.full-loss-smooth",
        paper=_PAPER,
        locus="stability of the loss across stages (there BERT, here a causal model)",
        statement="The full model's validation loss does not jump up after any transition of RaPTr.",
        threshold="next evaluation minus that at a transition, largest of a run, no more than 0.05 nats",
        region=(-inf, 0.05),
        recipe="reproduce",
        check=partial(transition_jump, method="raptr"),
    ),
)

_BESIDE = [beside_the_full_model(claim, "raptr") for claim in _CLAIMS if claim.id == "raptr.transition-drop"]
_DOWNSTREAM = Claim(
    id="raptr.downstream",
    paper=_PAPER,
    locus="ours: the paper's scores are of UL2 (question answering and SuperGLUE, +1.5 %); model and tasks are ours",
    statement="After equally many steps RaPTr's mean score over the proxies is higher than the baseline's.",
    threshold="final score minus the baseline's, paired by seed, above 0 percentage points",
    region=(0.0, inf),
    recipe="flatness",
    check=partial(final_difference, ours="raptr", theirs="full", metrics=tuple(SCORES.values())),
    known="the rows",
)
_FLATNESS = [
    Claim(
        id=f"raptr.flatness.{corpus}",
        paper=_PAPER,
        locus="ours: flatness is how EST explains better scores at equal loss; for RaPTr's they are an open question",
        statement=f"At equal loss the Hessian of the RaPTr model has a smaller trace than the baseline's, on {words}.",
        threshold="logarithm of the ratio at equal loss, paired by seed, below 0",
        region=(-inf, 0.0),
        recipe="flatness",
        check=partial(at_equal_loss, corpus=corpus, ours="raptr", theirs="full"),
        known="the rows",
    )
    for corpus, words in CORPORA.items()
]
CLAIMS = {claim.id: claim for claim in (*_CLAIMS, *_BESIDE, _DOWNSTREAM, *_FLATNESS)}
