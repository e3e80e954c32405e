"""`est eval`: what a checkpoint is good for besides its own loss."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
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
_SUITES = ("gpt4all", "lambada")  # `downstream.harness.SUITES`
_KNOWN = (*_LOCAL, "glue", *_GLUE, "squad", *_SUITES)
_NEXT = ("last-word", *_SUITES)  # ask for the next token, which a masked model has been shown


def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="A causal or masked model: a hub name, a folder, or one of our runs.")
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="Separated by commas. Offline: last-word, kinds, library, library-finetune. With the network: "
            "lambada, gpt4all (lm-evaluation-harness); glue or one of its tasks, squad (fine-tuning; --data: offline).",
            show_default="the offline ones",
        ),
    ] = "",
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
    _require_data(chosen, data)
    set_up(threads)
    how = {"loss": "auto", "dtype": "float32", "device": device, "trust_remote_code": trust_remote_code}
    loaded = open_checkpoint(checkpoint, revision or None, how)
    chosen = _suitable(chosen, loaded.loss, checkpoint)

    from est_analysis.any_checkpoint.text import context_length, trained_spec
    from est_analysis.downstream.fine_tune import FineTuning
    from est_analysis.experiments.runs.store import environment

    subject = _subject(loaded, seq_len)
    context = seq_len or trained_spec(loaded).get("seq_len") or context_length(loaded.model)
    tuning = FineTuning(lr=lr, epochs=epochs, batch_size=batch, pool="last" if loaded.loss == "causal" else "mean")
    tables = {"data": data, "how": tuning, "seeds": range(seeds)}
    suites = {"batch_size": batch, "few_shot": few_shot, "context": context}
    found = {name: _measure(subject, name, tables, suites) for name in chosen}
    record = {
        "checkpoint": checkpoint,
        "revision": revision or None,
        "commit": loaded.located.commit,
        "weight_hash": loaded.weight_hash,
        "window": subject.window,
        "scores": [asdict(score) for scores, _ in found.values() for score in scores],
        "means": {name: mean for name, (_, mean) in found.items() if mean is not None},
        "settings": {"environment": environment(device), **_settings(chosen, subject.window, tables, suites)},
    }
    print(json.dumps(record, indent=1)) if as_json else _print(record)


def _chosen(tasks: str) -> list[str]:
    """The tasks that were named; none of them for the default."""
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if tasks and not names:
        raise InputError(f"--tasks '{tasks}' names none; known are {', '.join(_KNOWN)}")
    for name in names:
        if name not in _KNOWN:
            raise unknown_name("task", name, _KNOWN)
    return names


def _require_data(chosen: Sequence[str], data: Path | None) -> None:
    """Miss what is missing before anything is measured."""
    if data is not None and not data.is_dir():
        raise InputError(f"no folder '{data}'; give --data the folder that holds the tasks' tables")
    from est_analysis.downstream import glue, harness
    from est_analysis.downstream.tables import find_table

    for name in chosen:
        if name in _SUITES:
            harness.imported(name)
        for task in _parts(name) if data is not None else ():
            if task in _GLUE:
                glue.require_tables(task, data)
            if task == "squad":
                for split in ("train", "validation"):
                    find_table(data / task, split)


def _suitable(chosen: Sequence[str], loss: str, checkpoint: str) -> list[str]:
    """What the model can do of what was asked for; the offline tasks unless some were named."""
    if loss == "seq2seq":
        raise InputError(f"'{checkpoint}' is an encoder-decoder; the tasks are for causal and masked models")
    able = [name for name in chosen or _LOCAL if loss == "causal" or name not in _NEXT]
    if chosen and len(able) < len(chosen):
        wrong = next(name for name in chosen if name not in able)
        raise InputError(
            f"'{checkpoint}' is a masked model, and {wrong} asks for the next token, which it has been shown; use "
            "others, such as kinds,library"
        )
    return able


def _subject(loaded: Any, seq_len: int) -> Any:
    from est_analysis.any_checkpoint.text import frame_of, sequence_length
    from est_analysis.downstream.subject import Subject

    before, after = frame_of(loaded, loaded.tokenizer) if loaded.tokenizer is not None else ((), ())
    after = after if loaded.loss == "masked" else ()
    window = sequence_length(loaded, seq_len or None, 1 << 62) - len(before) - len(after)
    return Subject(model=loaded.model, tokenizer=loaded.tokenizer, window=window, before=before, after=after)


def _parts(name: str) -> tuple[str, ...]:
    return _GLUE if name == "glue" else (name,)


def _measure(subject: Any, name: str, tables: dict[str, Any], suites: dict[str, Any]) -> tuple[list, Any]:
    """The scores of one task or suite, each said as it is found, and the suite's mean."""
    from est_analysis.downstream import glue, harness, proxies, squad

    console, found = Console(stderr=True), []
    for task in _parts(name):
        if task in _LOCAL:
            scores = proxies.measure_proxies(subject, [task])
        elif task == "squad":
            scores = squad.measure_squad(subject, **tables)
        elif task in _GLUE:
            scores = glue.measure_glue(subject, task, **tables)
        else:
            scores = harness.measure_suite(subject, task, **suites)
        for score in scores:
            console.print(f"{score.task} {score.metric} {_percent(score.value)}", highlight=False)
        found += scores
    if name == "glue":
        return found, glue.mean_glue(found)
    return found, harness.mean_score(found) if name in _SUITES and len(found) > 1 else None


def _settings(chosen: Sequence[str], window: int, tables: dict[str, Any], suites: dict[str, Any]) -> dict[str, Any]:
    """What decides the scores besides the checkpoint."""
    from est_analysis.data.corpus import open_corpus
    from est_analysis.downstream.proxies import LONGEST

    found: dict[str, Any] = {}
    if any(name in _LOCAL for name in chosen):
        found |= {"proxies_window": min(LONGEST, window), "proxies_text": open_corpus("python").identity}
    if any(name in (*_GLUE, "glue", "squad") for name in chosen):
        data = tables["data"] and str(tables["data"])
        found |= {"fine_tuning": asdict(tables["how"]), "seeds": len(tables["seeds"]), "data": data}
    if any(name in _SUITES for name in chosen):
        found |= {"harness": {**suites, "version": version("lm_eval")}}
    return found


def _print(record: dict[str, Any]) -> None:
    shorter = record["settings"].get("proxies_window", record["window"])
    offline = f" (offline tasks: {shorter})" if shorter < record["window"] else ""
    title = f"{record['checkpoint']}, {record['window']} tokens at once{offline}"
    table = Table(title=title, title_justify="left")
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
