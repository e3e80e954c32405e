"""Claims that only runs of the papers' own size could test, each with the commands that would.

What the commands say where a paper could not be read, or says nothing, is ours; `needs` then says so.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from .claim import Claim, Measured, NotMeasured

_EST, _RAPTR = "EST, arXiv 2406.06962", "RaPTr, arXiv 2402.05913"
GROUPS = {
    "est.paper-scale": "EST's losses, traces, times and downstream scores at its own scale.",
    "raptr.paper-scale": "RaPTr's losses, times and downstream scores at its own scale.",
}
_TRAIN = "torchrun --nproc-per-node 8 -m est_analysis train --device cuda --precision bfloat16"


def _each(methods: str, command: str) -> str:
    """For three seeds, and for each of `methods`."""
    return f"for seed in 0 1 2; do for method in {methods}; do {command}; done; done"


def _pair(methods: str, run: str, options: str) -> str:
    """One run after the other, on eight GPUs."""
    return _each(methods, f"{_TRAIN} --method $method --seed $seed --out runs/{run}-$method-$seed {options}")


_GPT2_OPTIONS = (
    "--preset gpt2 --corpus hf:Skylion007/openwebtext --tokenizer openai-community/gpt2 --seq-len 1024 --batch 512 "
    "--accumulation 4 --steps 150000 --lr 6e-4 --warmup 2000 --eval-every 1000 --save-every 2000"
)
_GPT2 = _pair("full est", "gpt2", _GPT2_OPTIONS)
_TINYLLAMA = _pair(
    "full est",
    "tinyllama",
    "--family llama --preset tinyllama --corpus hf:cerebras/SlimPajama-627B --max-bytes 550000000000 --tokenizer "
    "TinyLlama/TinyLlama_v1.1 --seq-len 2048 --batch 1024 --accumulation 16 --steps 60000 --lr 4e-4 --warmup 2000 "
    "--decay cosine --eval-every 1000 --save-every 1000",
)
_BERT = _pair(
    "full raptr",
    "bert",
    "--family bert --preset bert-base --corpus hf:wikimedia/wikipedia --dataset-config 20231101.en --tokenizer "
    "google-bert/bert-base-uncased --seq-len 512 --batch 256 --steps 400000 --lr 1e-4 --eval-every 2000",
)
_SCHEDULES = (
    "for schedule in gpt2-one-stage gpt2-two-stage-a gpt2-two-stage-b gpt2-two-stage-c gpt2-three-stage; do "
    + _pair("est", "gpt2-$schedule", f"--schedule $schedule {_GPT2_OPTIONS}")
    + "; done"
)
_STEP_TIMES = "python benchmarks/est_tables_8_9.py --device cuda --out paper_figures/data/est_step_times.csv"
_UL2 = _pair(
    "full raptr",
    "ul2",
    "--family t5 --preset t5-v1.1-small --objective ul2 --corpus hf:allenai/c4 --dataset-config en --tokenizer "
    "google/t5-v1_1-small --seq-len 512 --batch 512 --accumulation 4 --steps 100000 --schedule ul2-raptr-12-16-20-24",
)


_GPT2_END = "gpt2-$method-$seed/checkpoints/step150000"
_FINE_TUNING = "the runs of est.paper-scale.gpt2-loss, and fine-tuning, whose settings the paper does not give"


def _evaluate(checkpoints: str, methods: str, tasks: str) -> str:
    """With `est eval`, the runs being there; three seeds of fine-tuning."""
    return _each(methods, f"est eval runs/{checkpoints} --tasks {tasks} --device cuda")


def _harness(checkpoints: str, methods: str, tasks: str) -> str:
    """With the lm-evaluation-harness, the runs being there: models that are not causal, tasks that `est eval` lacks."""
    return _each(methods, f"lm_eval --model hf --model_args pretrained=runs/{checkpoints} --tasks {tasks}")


def not_here(evidence: Any, *, needs: str) -> Measured:
    """Not measured, whatever the evidence: the runs it needs are of another size."""
    raise NotMeasured(f"needs {needs}")


def _claim(
    id: str, locus: str, statement: str, threshold: str, region: tuple[float, float], command: str, needs: str
) -> Claim:
    check: Callable[[Any], Measured] = partial(not_here, needs=needs)
    return Claim(
        id=id,
        paper=_EST if id.startswith("est.") else _RAPTR,
        locus=locus,
        statement=statement,
        threshold=threshold,
        region=region,
        recipe="paper-scale",
        check=check,
        by_hand=command,
    )


_LOSS = "final validation loss, mean over seeds, no more than 0.01 nats above the full model's"
_HIGHER = "difference of the scores, mean over seeds, above 0"
_CLAIMS = (
    _claim(
        "est.paper-scale.gpt2-loss",
        "Section 4.1, Table 2 (3.05 against 3.06)",
        "GPT-2 trained on OpenWebText with EST ends no worse than the full model.",
        _LOSS,
        (-inf, 0.01),
        _GPT2,
        "78.6B tokens through 124M parameters twice for each seed",
    ),
    _claim(
        "est.paper-scale.tinyllama-loss",
        "Section 4.2, Table 4 (2.65 against 2.64)",
        "TinyLlama trained with EST ends no worse than the full model.",
        _LOSS,
        (-inf, 0.01),
        _TINYLLAMA,
        "125.8B tokens through 1.1B parameters twice for each seed; which text the paper took is not certain",
    ),
    _claim(
        "est.paper-scale.trace",
        "Section 5.2, Table 5 (2510 against 11763 at almost the same loss)",
        "EST's GPT-2 has a smaller Hessian trace than the full model at almost the same loss.",
        "logarithm of the ratio of the traces, mean over seeds, below 0",
        (-inf, 0.0),
        _each("full est", f"est trace runs/{_GPT2_END} --rel-se 0.02 --device cuda"),
        "the runs of est.paper-scale.gpt2-loss; text, samples and estimator of Table 5 are not given",
    ),
    _claim(
        "est.paper-scale.gpt2-clock",
        "Section 4.1, Table 2 (1.22x)",
        "GPT-2 trains 1.22 times faster by the clock with EST.",
        "measured speed-up, mean over seeds, of at least 1.2",
        (1.2, inf),
        _GPT2,
        "the runs of est.paper-scale.gpt2-loss on machines of their own",
    ),
    _claim(
        "est.paper-scale.tinyllama-clock",
        "Section 4.2, Table 4 (1.22x)",
        "TinyLlama trains 1.22 times faster by the clock with EST.",
        "measured speed-up, mean over seeds, of at least 1.2",
        (1.2, inf),
        _TINYLLAMA,
        "the runs of est.paper-scale.tinyllama-loss on machines of their own",
    ),
    _claim(
        "est.paper-scale.gpt2-step-times",
        "Section A.3, Table 8 (A100 80GB: stages 1 and 2 at micro-batch 48 take 0.49 and 0.68 of a full step)",
        "On a GPU EST's stages of GPT-2 take no more of a full step's time than Table 8 has, at every micro-batch.",
        "time of a stage's step over the full one's, over the printed quotient, largest of two stages and four "
        "micro-batches, no more than 1.02",
        (-inf, 1.02),
        _STEP_TIMES,
        "a GPU of 80 GB; it is the same measurement as est.paper-scale.tinyllama-step-times",
    ),
    _claim(
        "est.paper-scale.tinyllama-step-times",
        "Section A.3, Table 9 (A100 80GB: stages 1 and 2 at micro-batch 8 take 0.55 and 0.72 of a full step)",
        "On a GPU EST's stages of TinyLlama take no more of a full step's time than Table 9 has, at every micro-batch.",
        "time of a stage's step over the full one's, over the printed quotient, largest of two stages and four "
        "micro-batches, no more than 1.02",
        (-inf, 1.02),
        _STEP_TIMES,
        "a GPU of 80 GB",
    ),
    _claim(
        "est.paper-scale.schedules",
        "Section 4.1, Table 3 (mean GLUE 77.78 to 81.05); left open: how the choice of the schedule bears on "
        "generalisation",
        "Among Table 3's schedules a lower validation loss goes with a higher mean score on GLUE.",
        "rank correlation of loss and mean score over the seven models, mean over seeds, below 0",
        (-inf, 0.0),
        _SCHEDULES,
        "seven runs of GPT-2 for each seed, and fine-tuning",
    ),
    _claim(
        "est.paper-scale.glue",
        "Section 4.1, Tables 2, 6 (80.66 against 79.84)",
        "EST's GPT-2, fine-tuned, has a higher mean score on GLUE.",
        _HIGHER,
        (0.0, inf),
        _evaluate(_GPT2_END, "full est", "glue"),
        _FINE_TUNING,
    ),
    _claim(
        "est.paper-scale.squad",
        "Section 4.1, Table 2 (67.14/77.15 against 66.74/77.06)",
        "EST's GPT-2, fine-tuned, has a higher F1 on SQuAD.",
        _HIGHER,
        (0.0, inf),
        _evaluate(_GPT2_END, "full est", "squad"),
        _FINE_TUNING,
    ),
    _claim(
        "est.paper-scale.lambada",
        "Section 4.1, Table 3 (32.01 against 29.44)",
        "EST's GPT-2 has a higher accuracy on LAMBADA.",
        _HIGHER,
        (0.0, inf),
        _evaluate(_GPT2_END, "full est", "lambada"),
        "the runs of est.paper-scale.gpt2-loss",
    ),
    _claim(
        "est.paper-scale.gpt4all",
        "Section 4.2, Table 7 (42.79 against 42.40)",
        "EST's TinyLlama has a higher mean score on the seven tasks of GPT4All.",
        _HIGHER,
        (0.0, inf),
        _evaluate("tinyllama-$method-$seed/checkpoints/step060000", "full est", "gpt4all"),
        "the runs of est.paper-scale.tinyllama-loss; the printed difference is within the sampling error of the tests",
    ),
    _claim(
        "raptr.paper-scale.bert-loss",
        "BERT-base experiments (1.75 against 1.76)",
        "BERT-base trained by RaPTr's 6-8-10-12 ends no worse than the full model.",
        _LOSS,
        (-inf, 0.01),
        _BERT,
        "two BERT-base runs for each seed; text, steps, batch size and learning rate are ours",
    ),
    _claim(
        "raptr.paper-scale.bert-clock",
        "BERT-base experiments (1.26x)",
        "BERT-base trains 1.26 times faster by the clock with RaPTr's 6-8-10-12.",
        "measured speed-up, mean over seeds, of at least 1.2",
        (1.2, inf),
        _BERT,
        "the same two runs on a machine of their own; the paper's accelerators are others",
    ),
    _claim(
        "raptr.paper-scale.ul2-clock",
        "UL2 experiments (1.19x)",
        "UL2-1.6B trains 1.19 times faster by the clock with RaPTr.",
        "measured speed-up, mean over seeds, of at least 1.15",
        (1.15, inf),
        _UL2,
        "the runs of raptr.paper-scale.ul2-perplexity on machines of their own",
    ),
    _claim(
        "raptr.paper-scale.ul2-perplexity",
        "UL2 experiments, 1.6B parameters",
        "UL2-1.6B trained by RaPTr with 1.2 times fewer FLOPs ends no worse than the full model.",
        _LOSS,
        (-inf, 0.01),
        _UL2,
        "1.6B parameters for each of two runs a seed: a preset of 24 layers has to be added first (the command's is "
        "the largest there is), and depths, steps and text are ours",
    ),
    _claim(
        "raptr.paper-scale.ul2-downstream",
        "UL2 experiments: question answering and SuperGLUE (+1.5 %)",
        "UL2-1.6B trained by RaPTr has a higher mean downstream score (printed: by 1.5 points).",
        "difference of the mean scores, mean over seeds, above 0",
        (0.0, inf),
        _harness(
            "ul2-$method-$seed/checkpoints/step100000",
            "full raptr",
            "boolq,cb,copa,multirc,record,rte,wic,wsc,triviaqa,nq_open,webqs",
        ),
        "the runs of raptr.paper-scale.ul2-perplexity; the twelve tasks could not all be read",
    ),
    _claim(
        "raptr.paper-scale.bert-exponent",
        "theory of stage transitions, measured on BERT (a fit of L^-0.88)",
        "In trained BERTs the mean of Psi falls with the depth L at least as fast as the bound's L^-1/2.",
        "slope of the logarithm of mean Psi against that of L over BERTs of 4, 8 and 12 layers, below -0.5",
        (-inf, -0.5),
        "for layers in 4 8 12; do est stability google/bert_uncased_L-${layers}_H-768_A-12 "
        "--corpus hf:wikimedia/wikipedia --dataset-config 20231101.en; done",
        "trained BERTs of several depths, the paper's own rather than Google's; which they are could not be read",
    ),
    _claim(
        "raptr.paper-scale.bert-stability",
        "theory of stage transitions, measured on BERT with 24 layers",
        "In a trained BERT of 24 layers Psi falls from layer to layer up to about layer 21.",
        "rank correlation of Psi with the layer's number over layers 1 to 21, below -0.5",
        (-inf, -0.5),
        "est stability google-bert/bert-large-uncased --corpus hf:wikimedia/wikipedia --dataset-config 20231101.en",
        "checkpoints of the paper's own BERT (the command's is Google's)",
    ),
)

CLAIMS = {claim.id: claim for claim in _CLAIMS}
