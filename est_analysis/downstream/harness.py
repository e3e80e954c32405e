"""The benchmarks that need no fine-tuning, through EleutherAI's lm-evaluation-harness (an optional extra)."""

import copy
from typing import Any

import numpy as np

from est_analysis.data.tokenizer import separator_id
from est_analysis.downstream.score import Score
from est_analysis.downstream.subject import Subject
from est_analysis.errors import InputError, reason

INSTALL = "pip install 'lm-eval[hf]>=0.4.9'"

# EST's Table 7. Normalised accuracy where the harness has it, as TinyLlama reports these; the paper does not say.
GPT4ALL = ("hellaswag", "openbookqa", "winogrande", "arc_challenge", "arc_easy", "boolq", "piqa")
SUITES: dict[str, tuple[str, ...]] = {"gpt4all": GPT4ALL, "lambada": ("lambada_openai",)}
_METRICS = (("acc_norm", "normalised accuracy"), ("acc", "accuracy"))


def imported(suite: str) -> tuple[Any, Any]:
    """The harness's `simple_evaluate` and `HFLM`.

    Raises:
        InputError: it is not installed.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise InputError(f"task {suite} needs the lm-evaluation-harness ({error}); {INSTALL}") from error
    return simple_evaluate, HFLM


def measure_suite(
    subject: Subject, suite: str, *, batch_size: int, few_shot: int | None = None, context: int | None = None
) -> list[Score]:
    """The scores of every task of `suite`; Python's, numpy's and torch's global generators stay as they are.

    Args:
        subject: the checkpoint.
        suite: a key of `SUITES`.
        batch_size: requests at once.
        few_shot: examples before each question; the task's own number (none) unless given. The paper says few-shot.
        context: tokens that the checkpoint reads at once, of longer requests the last ones; the harness's choice unless
            given.

    Raises:
        InputError: the harness is not installed, cannot load a task's data, or an answer is longer than the context.
    """
    simple_evaluate, model_class = imported(suite)
    tasks = list(SUITES[suite])
    model = model_class(
        pretrained=subject.model, tokenizer=_with_end(subject), batch_size=batch_size,
        add_bos_token=bool(subject.before),  # its default is the tokenizer's, also where training had none
        **({} if context is None else {"max_length": context}),
    )  # fmt: skip
    unseeded = {f"{name}random_seed": None for name in ("", "numpy_", "torch_")}
    try:
        found = simple_evaluate(model=model, tasks=tasks, num_fewshot=few_shot, log_samples=False, **unseeded)
    except AssertionError as error:  # of the length of an answer
        most = "all" if context is None else f"the {context}"
        raise InputError(
            f"task {suite}: the harness gave up ({reason(error)}), most likely at an answer longer than {most} tokens "
            "that the checkpoint reads at once; give one that was trained on longer sequences"
        ) from error
    except Exception as error:  # each task downloads its data in its own way
        raise InputError(
            f"task {suite}: the harness failed ({reason(error)}); it needs the network for its data"
        ) from error
    return [score_of(task, found["results"][task], _items(found, task)) for task in tasks]


def _with_end(subject: Subject) -> Any:
    """A copy of the tokenizer, to which the harness adds; the token between documents is its end where it has none."""
    found = copy.deepcopy(subject.tokenizer)
    if found.eos_token_id is None:  # requests open and are padded so
        found.eos_token = found.convert_ids_to_tokens(separator_id(found))
    return found


def score_of(task: str, result: dict[str, Any], items: int) -> Score:
    """The score of one task from what the harness reports: `acc,none`, `acc_stderr,none` and so on.

    >>> score_of("boolq", {"alias": "boolq", "acc,none": 0.6, "acc_stderr,none": 0.01}, 3270).value
    0.6
    """
    for key, name in _METRICS:
        if f"{key},none" in result:
            stderr = result.get(f"{key}_stderr,none")
            known = stderr if isinstance(stderr, float) else None  # the text N/A where it cannot tell
            value = result[f"{key},none"]
            return Score(task=task, metric=name, value=value, stderr=known, chance=None, items=items)
    raise InputError(f"the harness reports no accuracy of '{task}', only {', '.join(result)}; use another version")


def _items(found: dict[str, Any], task: str) -> int:
    return int(found.get("n-samples", {}).get(task, {}).get("effective", 0))


def mean_score(scores: list[Score]) -> float:
    """The plain mean, as EST's Table 4 has it for GPT4All."""
    return float(np.mean([score.value for score in scores]))
