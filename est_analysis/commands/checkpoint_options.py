"""Options of the commands that measure a checkpoint: the text, the method, the budget, how it is loaded."""

import re
from typing import Annotated, Any

import typer

from est_analysis.errors import InputError, unknown_name

Text = Annotated[
    list[str] | None, typer.Option(help="Measure on all of this file or folder; repeat for more. Instead of --corpus.")
]
HeldOut = Annotated[
    str,
    typer.Option(
        help="Measure on the held-out part of 'python' (the installed Python's own source), a file, a folder, hf:NAME "
        "or hmm:STATES,VOCAB,SEED."
    ),
]
MaxBytes = Annotated[int, typer.Option(help="Read no more bytes than this of each text; 0 reads all.")]
Tokenizer = Annotated[str, typer.Option(help="Instead of the checkpoint's own: bytes, a folder or a hub name.")]
Loss = Annotated[str, typer.Option(help="auto, causal, masked or seq2seq.")]
Engine = Annotated[str, typer.Option(help="auto, taylor, hvp (Hessian); fisher, empirical-fisher (other matrices).")]
SeqLen = Annotated[int, typer.Option(help="Tokens a sequence; 0: as trained, or the model's longest up to 1024.")]
MicroBatch = Annotated[int, typer.Option(help="Sequences measured at once; 0: what memory and speed suggest.")]
NumProbes = Annotated[int, typer.Option(help="Probes a micro-batch; 0: 2, or 1 where memory is short.")]
MaxPairs = Annotated[int, typer.Option(help="Stop at this many (micro-batch, probe) pairs even so.")]
Over = Annotated[
    str,
    typer.Option(
        help="distribution: the error includes the choice of text; batches: exactly --max-bytes of it, "
        "but for sequences that fill no micro-batch."
    ),
]
Dtype = Annotated[str, typer.Option(help="Of the weights: float32, float64, or bfloat16 (computed in float32).")]
Seed = Annotated[int, typer.Option(help="Of windows and probes.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint brings.")]

_DTYPES = ("float32", "float64", "bfloat16")


def target_of(over: str) -> Any:
    """What was typed as `--over`.

    Raises:
        InputError: it is no target.
    """
    if over not in ("distribution", "batches"):
        raise unknown_name("--over", over, ("distribution", "batches"))
    return over


def settings_of(
    *, text: list[str] | None, corpus: str, dataset_config: str, text_column: str, max_bytes: int,
    tokenizer: str, over: str, seq_len: int, micro_batch: int, probes: int, **rest: Any,
) -> Any:  # fmt: skip
    """The `TraceSettings` that were typed.

    Raises:
        InputError: two sources of text, or a value that is none.
    """
    from est_analysis.any_checkpoint.text import TextSource
    from est_analysis.any_checkpoint.trace import TraceSettings

    if text and corpus != "python":
        raise InputError("--text and --corpus each name a text; give one of them")
    source = TextSource(
        corpora=tuple(text) if text else (corpus,),
        split="all" if text else "validation",
        dataset_config=dataset_config,
        text_column=text_column,
        max_bytes=max_bytes,
        tokenizer=tokenizer,
    )
    target_of(over)
    for name, value in {"--seq-len": seq_len, "--micro-batch": micro_batch, "--probes": probes}.items():
        if value < 0:
            raise InputError(f"{name} {value} is negative; use at least 1, or 0 for the default")
    sizes = {"seq_len": seq_len or None, "micro_batch": micro_batch or None, "probes": probes or None}
    return TraceSettings(text=source, over=over, **sizes, **rest)


def set_up(threads: int) -> None:
    """Threads, and an allocator that keeps what it has: a fifth faster for small models."""
    import torch

    from est_analysis.train.allocator import keep_freed_memory

    keep_freed_memory()
    if threads < 0:
        raise InputError(f"--threads {threads} is negative; use 0 for torch's choice")
    if threads:
        torch.set_num_threads(threads)


def require_loadable(how: dict[str, Any]) -> None:
    """Check the options that say how a checkpoint is loaded.

    Raises:
        InputError: one of them is none.
    """
    import torch

    for name, known in {"dtype": _DTYPES, "loss": ("auto", "causal", "masked", "seq2seq")}.items():
        if how[name] not in known:
            raise unknown_name(f"--{name}", how[name], known)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", how["device"]):
        raise InputError(f"unknown --device '{how['device']}'; use cpu, cuda or cuda:NUMBER")
    if how["device"].startswith("cuda"):
        number, there = int(how["device"][5:] or 0), torch.cuda.device_count()
        if number >= there:
            raise InputError(
                f"--device {how['device']}: torch sees {there or 'no'} GPU{'s' * (there > 1)} here; use "
                f"{'cpu' if not there else f'cuda:0 to cuda:{there - 1}'}"
            )


def open_checkpoint(name: str, revision: str | None, how: dict[str, Any]) -> Any:
    """The checkpoint `name`, loaded as the options `how` say.

    Raises:
        InputError: whatever is wrong with it, or with an option.
    """
    from est_analysis.curvature.locate import locate

    require_loadable(how)
    return load_located(locate(name, revision=revision), how)


def load_located(located: Any, how: dict[str, Any]) -> Any:
    """A checkpoint whose files are here, loaded as the options `how` say.

    Raises:
        InputError: whatever is wrong with it.
    """
    import torch

    from est_analysis.curvature.checkpoint import load

    dtype = getattr(torch, how["dtype"])
    return load(located, **{**how, "dtype": dtype})
