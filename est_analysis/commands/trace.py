"""`est trace` and `est merge`: the Hessian trace of a checkpoint, or of a series of them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from est_analysis.commands import checkpoint_options as options
from est_analysis.commands.checkpoint_options import open_checkpoint, set_up, settings_of
from est_analysis.commands.options import DatasetConfig, Device, Json, TextColumn, Threads
from est_analysis.commands.trace_output import Live, print_trace, record_of
from est_analysis.commands.trace_series import trace_series
from est_analysis.errors import InputError


def trace(
    checkpoint: Annotated[str, typer.Argument(help="A hub name, a folder, or one of our runs.")],
    text: options.Text = None,
    corpus: options.HeldOut = "python",
    dataset_config: DatasetConfig = "",
    text_column: TextColumn = "text",
    max_bytes: options.MaxBytes = 0,
    tokenizer: options.Tokenizer = "",
    loss: options.Loss = "auto",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub; a step of one of our runs.")] = "",
    revisions: Annotated[str, typer.Option(help="A curve: all revisions that match, such as 'step*'.")] = "",
    rel_se: Annotated[float, typer.Option(help="Stop at this standard error, relative to the trace.")] = 0.02,
    max_pairs: options.MaxPairs = 8192,
    seq_len: options.SeqLen = 0,
    micro_batch: options.MicroBatch = 0,
    probes: options.NumProbes = 0,
    engine: options.Engine = "auto",
    over: options.Over = "distribution",
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Split it over layers and module kinds (hvp).")] = False,
    spectrum: Annotated[bool, typer.Option("--spectrum", help="Top eigenvalues and density of one batch.")] = False,
    dtype: options.Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
    seed: options.Seed = 0,
    shard: Annotated[str, typer.Option(help="i/n: every n-th measurement from the i-th; then est merge.")] = "",
    out: Annotated[Path | None, typer.Option(help="File of the measurements; in the cache unless given.")] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Trace of the Hessian of the mean token loss, with its standard error. The same command again continues."""
    settings = settings_of(
        text=text, corpus=corpus, dataset_config=dataset_config, text_column=text_column,
        max_bytes=max_bytes, tokenizer=tokenizer, engine=engine, seq_len=seq_len, micro_batch=micro_batch,
        probes=probes, rel_se=rel_se, max_pairs=max_pairs, over=over, blocks=by_layer, seed=seed,
    )  # fmt: skip
    if revisions and (revision or shard or out or spectrum):
        raise InputError(
            f"--revisions '{revisions}' goes over many checkpoints; leave out --revision, --shard, --out, --spectrum"
        )
    how = {"loss": loss, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    set_up(threads)
    if revisions:
        trace_series(checkpoint, revisions, settings, how, as_json=as_json)
        return
    from est_analysis.train.distributed import local_device, ranks_from_environment

    with ranks_from_environment(device) as ranks:
        loaded = open_checkpoint(checkpoint, revision or None, {**how, "device": local_device(device)})
        part = _shard(shard, ranks)
        with Live(checkpoint, shown=ranks.main) as live:
            prepared = _prepare(loaded, settings, ranks, spectrum=spectrum)
            estimate, file = _measure(prepared, settings, live, part, out, ranks)
        ranks.wait()  # a process that leaves while another still talks to it may abort
        if not ranks.main:
            return
        record = record_of(prepared, estimate, file, settings)
        if spectrum:
            from est_analysis.any_checkpoint.spectrum import spectrum_record

            record["spectrum"] = spectrum_record(prepared)
        print(json.dumps(record, indent=1)) if as_json else print_trace(record)


def merge(
    files: Annotated[list[Path], typer.Argument(help="Files that `est trace --shard i/n --out FILE` wrote.")],
    over: options.Over = "distribution",
    as_json: Json = False,
) -> None:
    """Put the shards of one estimate together; --over as it was given to their `est trace`."""
    from est_analysis.commands.trace_output import print_merged
    from est_analysis.curvature.estimate import estimate
    from est_analysis.curvature.samples import merge as merge_files

    identity, samples = merge_files(files)
    if not samples:
        raise InputError(f"{files[0]} holds no measurement yet; let `est trace --shard` make some")
    found = estimate(samples, engine=identity["engine"], target=options.target_of(over))
    print_merged(identity, found, as_json=as_json)


def _prepare(loaded, settings, ranks, *, spectrum):
    from est_analysis.any_checkpoint.spectrum import require_spectrum
    from est_analysis.any_checkpoint.trace import prepare

    prepared = prepare(loaded, settings)
    if spectrum:
        require_spectrum(prepared)
    if any(identity != prepared.identity for identity in ranks.union([prepared.identity])):
        raise InputError("the processes' memory allows them different sizes; give --micro-batch and --probes")
    return prepared


def _measure(prepared, settings, live, shard, out, ranks):
    from est_analysis.any_checkpoint.trace import budget_of, default_file, measure

    live.announce(prepared)
    file = out or default_file(prepared.identity, shard if ranks.world_size == 1 else (0, 1))
    estimate = measure(
        prepared,
        budget_of(settings, prepared),
        file=file if ranks.main else None,
        shard=shard,
        exchange=ranks.union,
        on_estimate=live.update,
    )
    return estimate, file


def _shard(text: str, ranks) -> tuple[int, int]:
    """(index from 0, count) of `--shard i/n`, or of this process under torchrun."""
    if not text:
        return ranks.rank, ranks.world_size
    if ranks.world_size > 1:
        raise InputError(f"--shard {text} under torchrun: its processes share the work already; leave it out")
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--shard '{text}' is not i/n with 1 <= i <= n; the third of sixteen is 3/16")
    return int(number) - 1, int(count)
