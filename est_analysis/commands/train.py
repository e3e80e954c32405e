"""`est train`: one run of one method, resumable."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from est_analysis.commands.options import Corpus, DatasetConfig, Device, Json, TextColumn, Threads
from est_analysis.errors import InputError


def train(
    method: Annotated[
        str, typer.Option(help="One of those that est methods lists, such as full, est or raptr.")
    ] = "est",
    schedule: Annotated[
        str, typer.Option(help="A published schedule or END:HEADS,MLP,LAYERS;..., stretched to --steps.")
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, of the method: est methods lists them, such as output_scale=sqrt_gap of raptr."),
    ] = None,
    family: Annotated[str, typer.Option(help="Model family: gpt2, llama, bert, megatron-bert or t5.")] = "gpt2",
    objective: Annotated[
        str, typer.Option(help="causal, masked, ul2 or span_corruption; the family's usual one unless given.")
    ] = "",
    preset: Annotated[
        str,
        typer.Option(
            help="tiny (200k parameters), mini (3M), grid (of 'est run grid'); gpt2: small (20M), gpt2 (124M); "
            "llama: tinyllama (1.1B); bert: bert-base, bert-large; t5: t5-v1.1-small."
        ),
    ] = "tiny",
    corpus: Corpus = "python",
    dataset_config: DatasetConfig = "",
    text_column: TextColumn = "text",
    max_bytes: Annotated[int, typer.Option(help="Stop after this much text; 0 takes all of it.")] = 0,
    tokenizer: Annotated[str, typer.Option(help="bytes, bpe:SIZE, or a tokenizer's name or folder.")] = "bytes",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1000,
    batch: Annotated[int, typer.Option(help="Sequences a step, over all ranks.")] = 32,
    seq_len: Annotated[int, typer.Option(help="Tokens a sequence.")] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    warmup: Annotated[int | None, typer.Option(help="Warm-up steps; a twentieth of --steps unless given.")] = None,
    rewarm: Annotated[int, typer.Option(help="Steps of warm-up after every stage transition.")] = 0,
    decay: Annotated[str, typer.Option(help="linear, cosine or constant.")] = "linear",
    weight_decay: Annotated[float, typer.Option(help="AdamW's, on matrices and embeddings.")] = 0.1,
    embedding_decay: Annotated[
        float | None, typer.Option(help="Weight decay of the embeddings; as --weight-decay unless given.")
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest gradient norm; 0: no clipping.")] = 1.0,
    accumulation: Annotated[int, typer.Option(help="Micro-batches a step.")] = 1,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 (autocast).")] = "float32",
    skipped_gradient: Annotated[
        str, typer.Option(help="What bypassed layers get: zero (AdamW moves them) or none.")
    ] = "zero",
    seed: Annotated[int, typer.Option(help="Of initialisation, data order and masks.")] = 0,
    log_every: Annotated[int, typer.Option(help="Steps a row.")] = 10,
    eval_every: Annotated[int, typer.Option(help="Steps between full-model validations.")] = 100,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
    keep_every: Annotated[int, typer.Option(help="Steps between checkpoints that are kept for good; 0: none.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of this run; runs/<run_id> unless given.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue what --out holds, or refuse it.")] = True,
    device: Device = "cpu",
    threads: Threads = 0,
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile every block.")] = False,
    masks_ahead: Annotated[int, typer.Option(help="Masks the index generator draws at a time; 0: inline.")] = 8,
    logger: Annotated[str, typer.Option(help="none, tensorboard, trackio or wandb.")] = "none",
    as_json: Json = False,
) -> None:
    """Train one model; the same command again resumes an interrupted run. Works under torchrun."""
    from est_analysis.experiments.runs.run import run
    from est_analysis.experiments.runs.spec import TrainSpec
    from est_analysis.train.settings import Execution, Settings

    settings = Settings(
        steps=steps,
        lr=lr,
        warmup=steps // 20 if warmup is None else warmup,
        rewarm=rewarm,
        decay=decay,
        weight_decay=weight_decay,
        embedding_decay=embedding_decay,
        clip=clip,
        accumulation=accumulation,
        precision=precision,
        skipped_gradient=skipped_gradient,
        log_every=log_every,
        eval_every=eval_every,
        save_every=save_every,
        keep_every=keep_every,
    )
    spec = TrainSpec(
        family=family,
        preset=preset,
        method=method,
        schedule=schedule,
        options=_options(option or []),
        objective=objective,
        corpus=corpus,
        dataset_config=dataset_config,
        text_column=text_column,
        max_bytes=max_bytes,
        tokenizer=tokenizer,
        batch_size=batch,
        seq_len=seq_len,
        seed=seed,
        settings=settings,
    )
    execution = Execution(
        device=device, threads=threads, compile=compile_, masks_ahead=masks_ahead, tracker=logger, progress=True
    )
    result = run(spec, execution, out=out, resume=resume)
    _print_result(result, as_json=as_json)


def _options(texts: list[str]) -> dict[str, str | float | bool]:
    """NAME=VALUE as values: true and false, numbers, anything else as it is.

    >>> _options(["theta=0.5", "deepspeed_compat=true", "output_scale=inv_p"])
    {'theta': 0.5, 'deepspeed_compat': True, 'output_scale': 'inv_p'}
    """
    options: dict[str, str | float | bool] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given:
            raise InputError(f"option '{text}' has no value; write NAME=VALUE, such as output_scale=sqrt_gap")
        try:
            options[name] = {"true": True, "false": False}[value] if value in ("true", "false") else float(value)
        except ValueError:
            options[name] = value
    return options


def _print_result(result, *, as_json: bool) -> None:
    from est_analysis.experiments.runs.store import collect

    if int(os.environ.get("RANK", "0")):
        return
    rows = collect([result.folder])
    last = rows[rows["step"] == rows["step"].max()].set_index("metric")["value"]
    shown = ("validation_loss", "train_loss", "layer_flops", "total_flops")
    if missing := [name for name in shown if name not in last.index]:
        raise InputError(f"{result.folder}/rows.csv has lost its last {missing[0]}; delete the run to make it again")
    record = {
        "run_id": result.run_id,
        "folder": str(result.folder),
        "checkpoint": str(result.checkpoint),
        "cached": result.cached,
        "steps": int(rows["step"].max()),
        **{name: float(last[name]) for name in shown},
    }
    if as_json:
        print(json.dumps(record, indent=1))
        return
    print(f"{'finished before' if result.cached else 'finished'}: {result.run_id} in {result.folder}")
    print(f"validation loss {record['validation_loss']:.4f} nats a token (full model), {record['steps']} steps")
    print(f"open it with transformers: {result.auto_class}.from_pretrained('{result.checkpoint}')")
