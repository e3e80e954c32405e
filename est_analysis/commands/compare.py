"""`est compare`: traces of several checkpoints on the same batches along the same probes."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from est_analysis.commands import checkpoint_options as options
from est_analysis.commands.checkpoint_options import open_checkpoint, set_up, settings_of
from est_analysis.commands.options import DatasetConfig, Device, Json, TextColumn, Threads
from est_analysis.commands.trace_output import estimate_record, finite


def compare(
    checkpoints: Annotated[list[str], typer.Argument(help="The baseline, then one or more to set beside it.")],
    text: options.Text = None,
    corpus: options.HeldOut = "python",
    dataset_config: DatasetConfig = "",
    text_column: TextColumn = "text",
    max_bytes: options.MaxBytes = 0,
    tokenizer: options.Tokenizer = "",
    loss: options.Loss = "auto",
    rel_se: Annotated[float, typer.Option(help="Stop at this standard error of every ratio, relative to it.")] = 0.05,
    max_pairs: options.MaxPairs = 4096,
    seq_len: options.SeqLen = 0,
    micro_batch: options.MicroBatch = 0,
    probes: options.NumProbes = 0,
    engine: options.Engine = "auto",
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Also compare module kinds (hvp).")] = False,
    dtype: options.Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
    seed: options.Seed = 0,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Differences and ratios of Hessian traces, with intervals: what the checkpoints share drops out."""
    settings = settings_of(
        text=text, corpus=corpus, dataset_config=dataset_config, text_column=text_column,
        max_bytes=max_bytes, tokenizer=tokenizer, engine=engine, seq_len=seq_len, micro_batch=micro_batch,
        probes=probes, rel_se=rel_se, max_pairs=max_pairs, over="distribution", blocks=by_layer, seed=seed,
    )  # fmt: skip
    set_up(threads)
    from est_analysis.any_checkpoint.compare import compare_checkpoints, prepare_alike

    how = {"loss": loss, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    prepared = prepare_alike([open_checkpoint(name, None, how) for name in checkpoints], settings)
    console = Console(stderr=True)
    for reason in dict.fromkeys(one.fallback for one in prepared if one.fallback):
        console.print(f"engine hvp instead of taylor: {reason}", highlight=False, soft_wrap=True)
    found = compare_checkpoints(prepared, settings, on_round=lambda compared: console.print(_line(compared)))
    record = _record(found, settings)
    print(json.dumps(record, indent=1)) if as_json else _print(record)


def _line(found: Any) -> str:
    ratios = ", ".join(f"{c.ratio:.4g} [{c.ratio_ci[0]:.4g}, {c.ratio_ci[1]:.4g}]" for c in found.comparisons)
    return f"{found.estimates[0].pairs} pairs each: ratio {ratios}"


def _record(found: Any, settings: Any) -> dict[str, Any]:
    """For two checkpoints the keys `difference`, `difference_stderr`, `ratio`, `ratio_ci` are numbers, else lists."""
    traces = []
    for one, estimate in zip(found.prepared, found.estimates, strict=True):
        identity = {"checkpoint": one.loaded.located.name, "weight_hash": one.loaded.weight_hash}
        traces.append(identity | {"interval": list(estimate.interval()), **estimate_record(estimate)})
        if settings.blocks:
            traces[-1]["kinds"] = _kinds(one, estimate)
    columns = {
        "difference": [c.difference for c in found.comparisons],
        "difference_stderr": [c.difference_stderr for c in found.comparisons],
        "ratio": [c.ratio for c in found.comparisons],
        "ratio_ci": [[finite(end) for end in c.ratio_ci] for c in found.comparisons],
        "correlation": [finite(c.correlation) for c in found.comparisons],
    }
    single = len(found.comparisons) == 1
    return {
        "traces": traces,
        **{name: values[0] if single else values for name, values in columns.items()},
        "paired": found.paired,
        "reached": found.reached,
        "rel_se": settings.rel_se,
        "engine": found.estimates[0].engine,
        "fallback": next((one.fallback for one in found.prepared if one.fallback), ""),
    }


def _kinds(prepared: Any, estimate: Any) -> dict[str, float]:
    from est_analysis.curvature.blocks import by_batch, kind_totals

    return {row.kind: row.trace for row in kind_totals(prepared.objective, *by_batch(estimate.samples))}


def _print(record: dict[str, Any]) -> None:
    console = Console()
    table = Table()
    for heading in ("", "trace", "stderr", "loss", "to A", "95 % interval", "difference to A"):
        table.add_column(heading, justify="right")
    lists = {name: record[name] for name in ("difference", "difference_stderr", "ratio", "ratio_ci")}
    if len(record["traces"]) == 2:
        lists = {name: [value] for name, value in lists.items()}
    for number, one in enumerate(record["traces"]):
        console.print(f"{_letter(number)}  {one['checkpoint']}", highlight=False, soft_wrap=True)
        cells = [_letter(number), f"{one['trace']:.5g}", f"{one['stderr']:.3g}", f"{one['loss']:.4f}"]
        if number:
            low, high = (
                ("-∞", "∞")[i] if end is None else f"{end:.4g}" for i, end in enumerate(lists["ratio_ci"][number - 1])
            )
            cells += [f"{lists['ratio'][number - 1]:.4g}x", f"{low} to {high}"]
            cells += [f"{lists['difference'][number - 1]:+.4g} ± {lists['difference_stderr'][number - 1]:.2g}"]
        table.add_row(*cells)
    console.print(table)
    if "kinds" in record["traces"][0]:
        console.print(_kind_table(record["traces"]))
    how = "same batches and probes" if record["paired"] else "different tokens, so not paired"
    console.print(f"{record['traces'][0]['pairs']} pairs each, engine {record['engine']}, {how}.", highlight=False)
    if not record["reached"]:
        asked = f"{100 * record['rel_se']:g} %"
        print(
            f"est: warning: a ratio is not as sure as {asked}; raise --max-pairs to go on, or give more text",
            file=sys.stderr,
        )


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number)


def _kind_table(traces: list[dict[str, Any]]) -> Table:
    table = Table(title="by kind of module", title_justify="left")
    table.add_column("kind")
    for number in range(len(traces)):
        table.add_column(_letter(number), justify="right")
    for kind in dict.fromkeys(kind for one in traces for kind in one["kinds"]):
        table.add_row(kind, *(f"{one['kinds'][kind]:.4g}" if kind in one["kinds"] else "" for one in traces))
    return table
