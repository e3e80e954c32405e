"""`est stability`: which layers of a checkpoint may be bypassed, and what dropping one at random costs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from est_analysis.commands import checkpoint_options as options
from est_analysis.commands.checkpoint_options import open_checkpoint, set_up, settings_of
from est_analysis.commands.options import DatasetConfig, Device, Json, TextColumn, Threads
from est_analysis.commands.stability_output import print_stability, record_of
from est_analysis.errors import InputError

_FIGURES = (".pdf", ".png", ".svg")


def stability(
    checkpoint: Annotated[str, typer.Argument(help="A hub name, a folder, or one of our runs.")],
    text: options.Text = None,
    corpus: options.HeldOut = "python",
    dataset_config: DatasetConfig = "",
    text_column: TextColumn = "text",
    max_bytes: options.MaxBytes = 0,
    tokenizer: options.Tokenizer = "",
    loss: options.Loss = "auto",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub; a step of one of our runs.")] = "",
    tolerance: Annotated[float, typer.Option(help="A change of the loss below this is small, nats a token.")] = 0.05,
    max_batches: Annotated[int, typer.Option(help="Micro-batches measured; all of the text if it has fewer.")] = 16,
    seq_len: options.SeqLen = 0,
    micro_batch: Annotated[int, typer.Option(help="Sequences measured at once; 0: some 1,024 tokens.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of weights and computation: float32, float64, bfloat16.")] = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Of windows, and of what is masked.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Also draw it, into this .png, .svg or .pdf.")] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Change of output and loss when each layer is bypassed, the gap of dropping one at random, and RaPTr's bound."""
    asked = settings_of(
        text=text, corpus=corpus, dataset_config=dataset_config, text_column=text_column,
        max_bytes=max_bytes, tokenizer=tokenizer, seq_len=seq_len, micro_batch=micro_batch, probes=0,
        over="distribution", seed=seed,
    )  # fmt: skip
    _check_plot(plot)
    from est_analysis.any_checkpoint.stability import StabilitySettings, prepare_stability, stability_of
    from est_analysis.train.progress import display

    settings = StabilitySettings(
        text=asked.text, seq_len=asked.seq_len, micro_batch=asked.micro_batch, max_batches=max_batches,
        tolerance=tolerance, seed=seed,
    )  # fmt: skip
    set_up(threads)
    how = {"loss": loss, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    prepared = prepare_stability(open_checkpoint(checkpoint, revision or None, how), settings)
    with display("batch", len(prepared.batches), shown=True) as shown:
        shown.note(f"of {prepared.identity['micro_batch']} x {prepared.identity['seq_len']} tokens, "
                   f"each {1 + len(prepared.layers)} times")  # fmt: skip
        found = stability_of(prepared, on_batch=lambda number, batch: shown.advance(number))
    record = record_of(prepared, found, settings)
    print(json.dumps(record, indent=1)) if as_json else print_stability(record)
    if plot is not None:  # last, so that a full disk costs no measurement
        _draw(record, plot)


def _check_plot(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in _FIGURES:
        raise InputError(f"--plot {path}: no kind of figure; end its name in one of {', '.join(_FIGURES)}")
    if path.is_dir():
        raise InputError(f"--plot {path}: a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: no folder {path.parent}; make it, or name another")


def _draw(record: dict[str, Any], path: Path) -> None:
    import pandas as pd

    from est_analysis.plots import stability_by_layer, style

    figure = stability_by_layer(pd.DataFrame(record["layers"]), tolerance=record["tolerance"])
    try:
        with style():
            figure.savefig(path, dpi=160)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); name another --plot") from error
