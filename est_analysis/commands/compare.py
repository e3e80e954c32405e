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
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Also compare each kind of module (hvp).")] = False,
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
    columns = [_columns(one) for one in found.comparisons]
    if settings.blocks:
        from est_analysis.any_checkpoint.compare import compare_kinds

        for column, kinds in zip(columns, compare_kinds(found), strict=True):
            column["kinds"] = {kind: _columns(one) for kind, one in kinds.items()}
    single = len(columns) == 1
    return {
        "traces": traces,
        **(columns[0] if single else {name: [column[name] for column in columns] for name in columns[0]}),
        "paired": found.paired,
        "reached": found.reached,
        "rel_se": settings.rel_se,
        "engine": found.estimates[0].engine,
        "fallback": next((one.fallback for one in found.prepared if one.fallback), ""),
    }


def _columns(one: Any) -> dict[str, Any]:
    return {
        "difference": one.difference,
        "difference_stderr": one.difference_stderr,
        "ratio": finite(one.ratio),
        "ratio_ci": [finite(end) for end in one.ratio_ci],
        "correlation": finite(one.correlation),
    }


def _kinds(prepared: Any, estimate: Any) -> dict[str, float]:
    from est_analysis.curvature.blocks import by_batch, kind_totals

    return {row.kind: row.trace for row in kind_totals(prepared.objective, *by_batch(estimate.samples))}


def _print(record: dict[str, Any]) -> None:
    console, traces = Console(), record["traces"]
    table = Table()
    for heading in ("", "trace", "stderr", "loss", "to A", "95 % interval", "difference to A"):
        table.add_column(heading, justify="right")
    for number, one in enumerate(traces):
        console.print(f"{_letter(number)}  {one['checkpoint']}", highlight=False, soft_wrap=True)
        beside = _beside(record, number)
        cells = [_letter(number), f"{one['trace']:.5g}", f"{one['stderr']:.3g}", f"{one['loss']:.4f}"]
        table.add_row(*cells, *(_ratio_cells(beside) if beside else ()))
    console.print(table)
    if "kinds" in traces[0]:
        console.print(_kind_table(record))
    how = "same batches and probes" if record["paired"] else "different tokens, so not paired"
    console.print(f"{traces[0]['pairs']} pairs each, engine {record['engine']}, {how}.", highlight=False)
    if not record["reached"]:
        asked = f"{100 * record['rel_se']:g} %"
        print(
            f"est: warning: a ratio is not as sure as {asked}; raise --max-pairs to go on, or give more text",
            file=sys.stderr,
        )


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number)


def _beside(record: dict[str, Any], number: int) -> dict[str, Any]:
    """What a record says of checkpoint `number` beside the first; nothing of the first itself."""
    names = ("ratio", "ratio_ci", "difference", "difference_stderr", "kinds")
    if number == 0:
        return {}
    found = {name: record[name] for name in names if name in record}
    return found if len(record["traces"]) == 2 else {name: values[number - 1] for name, values in found.items()}


def _ratio_cells(beside: dict[str, Any]) -> list[str]:
    low, high = (("-∞", "∞")[i] if end is None else f"{end:.4g}" for i, end in enumerate(beside["ratio_ci"]))
    error = f"{beside['difference']:+.4g} ± {beside['difference_stderr']:.2g}"
    ratio = "-" if beside["ratio"] is None else f"{beside['ratio']:.4g}x"
    return [ratio, f"{low} to {high}", error]


def _kind_table(record: dict[str, Any]) -> Table:
    """A row a kind and checkpoint, each beside the first one's."""
    table = Table(title="by kind of module", title_justify="left")
    for heading in ("kind", "", "trace", "to A", "95 % interval", "difference to A"):
        table.add_column(heading, justify="right")
    traces = record["traces"]
    for kind in dict.fromkeys(kind for one in traces for kind in one["kinds"]):
        for number, one in enumerate(traces):
            if kind in one["kinds"]:
                beside = _beside(record, number).get("kinds", {}).get(kind)
                cells = _ratio_cells(beside) if beside else ()
                table.add_row(kind, _letter(number), f"{one['kinds'][kind]:.4g}", *cells)
    return table
