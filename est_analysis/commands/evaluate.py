"""`est eval`: what a checkpoint is good for besides its own loss."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands import checkpoint_options as options
from est_analysis.commands.checkpoint_options import open_checkpoint, set_up
from est_analysis.commands.options import Device, Json, Threads
from est_analysis.errors import InputError, unknown_name

_LOCAL = ("last-word", "kinds", "library", "library-finetune")  # `downstream.proxies.PROXIES`, which loads torch
_GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
_KNOWN = (*_LOCAL, "glue", *_GLUE, "squad", "gpt4all", "lambada")


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A causal model: a hub name, a folder, or one of our runs.")],
    tasks: Annotated[
        str,
        typer.Option(
            help="Separated by commas. Offline: last-word, kinds, library, library-finetune. With the network: "
            "lambada, gpt4all (lm-evaluation-harness); glue or one of its tasks, squad (fine-tuning; also from --data)."
        ),
    ] = ",".join(_LOCAL),
    data: Annotated[
        Path | None, typer.Option(help="Folder with TASK/train and TASK/validation tables for glue and squad.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds of fine-tuning on glue and squad.")] = 3,
    lr: Annotated[float, typer.Option(help="Highest learning rate of that fine-tuning.")] = 2e-5,
    epochs: Annotated[int, typer.Option(help="Its passes over the data.")] = 3,
    batch: Annotated[int, typer.Option(help="Its examples a step; requests at once for lambada and gpt4all.")] = 32,
    few_shot: Annotated[int, typer.Option(help="Examples before each question of lambada and gpt4all.")] = 0,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub; a step of one of our runs.")] = "",
    seq_len: options.SeqLen = 0,
    device: Device = "cpu",
    threads: Threads = 0,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Downstream scores of a checkpoint. Proxies made of the installed Python's source work offline, in seconds."""
    chosen = _chosen(tasks)
    if seeds < 1:
        raise InputError(f"--seeds {seeds} is none; give at least 1")
    if data is not None and not data.is_dir():
        raise InputError(f"no folder '{data}'; give --data the folder that holds the tasks' tables")
    set_up(threads)
    how = {"loss": "auto", "dtype": "float32", "device": device, "trust_remote_code": trust_remote_code}
    loaded = open_checkpoint(checkpoint, revision or None, how)
    if loaded.loss != "causal":  # a masked model has a causal class too, in which it would see what it predicts
        raise InputError(f"'{checkpoint}' is a {loaded.loss} model; the tasks are for causal ones")

    from est_analysis.any_checkpoint.text import sequence_length
    from est_analysis.downstream.fine_tune import FineTuning
    from est_analysis.downstream.subject import Subject

    window = sequence_length(loaded, seq_len or None, 1 << 62)
    subject = Subject(model=loaded.model, tokenizer=loaded.tokenizer, window=window)
    tuning = FineTuning(lr=lr, epochs=epochs, batch_size=batch)
    found = [_measure(subject, name, data, tuning, range(seeds), few_shot) for name in chosen]
    record = {
        "checkpoint": checkpoint,
        "revision": revision or None,
        "commit": loaded.located.commit,
        "weight_hash": loaded.weight_hash,
        "window": window,
        "scores": [asdict(score) for scores, _ in found for score in scores],
        "means": {name: mean for name, (_, mean) in zip(chosen, found, strict=True) if mean is not None},
    }
    print(json.dumps(record, indent=1)) if as_json else _print(record)


def _chosen(tasks: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise InputError(f"--tasks '{tasks}' names none; known are {', '.join(_KNOWN)}")
    for name in names:
        if name not in _KNOWN:
            raise unknown_name("task", name, _KNOWN)
    return names


def _measure(subject, name: str, data: Path | None, tuning, seeds: Sequence[int], few_shot: int) -> tuple[list, Any]:
    """The scores of one task or suite, and the suite's mean."""
    from est_analysis.downstream import glue, harness, proxies, squad

    if name in _LOCAL:
        return proxies.measure_proxies(subject, [name]), None
    if name == "squad":
        return squad.measure_squad(subject, data=data, how=tuning, seeds=seeds), None
    if name == "glue" or name in _GLUE:
        wanted = _GLUE if name == "glue" else (name,)
        scores = [
            score for task in wanted for score in glue.measure_glue(subject, task, data=data, how=tuning, seeds=seeds)
        ]
        return scores, glue.mean_glue(scores) if name == "glue" else None
    scores = harness.measure_suite(subject, name, batch_size=tuning.batch_size, few_shot=few_shot)
    return scores, harness.mean_score(scores) if len(scores) > 1 else None


def _print(record: dict[str, Any]) -> None:
    table = Table(title=f"{record['checkpoint']}, {record['window']} tokens at once", title_justify="left")
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("score", "standard error", "chance", "items"):
        table.add_column(heading, justify="right")
    for score in record["scores"]:
        value, stderr, chance = (_percent(score[name]) for name in ("value", "stderr", "chance"))
        over = " (seeds)" if score["over"] == "seeds" and stderr else ""
        table.add_row(score["task"], score["metric"], value, f"{stderr}{over}", chance, str(score["items"]))
    for name, mean in record["means"].items():
        table.add_row(name, "mean", _percent(mean), "", "", "")
    console = Console()
    console.print(table)
    console.print("In percent. The standard error is over the tested items unless it says seeds.", highlight=False)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
