"""What `est trace` says: a live line while it measures, then numbers for a person or a program."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table


class Live:
    """A line on stderr that shows estimate and error shrinking; in a log, a line whenever the pairs have doubled."""

    def __init__(self, label: str, *, shown: bool):
        self._console = Console(stderr=True)
        self._label, self._shown, self._next = label, shown, 1
        self._status = Status(f"{label}: preparing", console=self._console)

    def __enter__(self) -> "Live":
        if self._shown and self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def announce(self, prepared: Any) -> None:
        """Say what is about to be measured, and the memory it will take."""
        if not self._shown:
            return
        plan, identity = prepared.plan, prepared.identity
        if prepared.fallback:
            self._say(f"engine hvp instead of taylor: {prepared.fallback}")
        self._say(
            f"{self._label}: {prepared.objective.num_parameters:,} parameters, {identity['loss']} loss, engine "
            f"{identity['engine']}, {plan.micro_batch} x {identity['seq_len']} tokens and {plan.probes} probes "
            f"at once; predicted peak {plan.peak_bytes / 2**30:.2f} GiB"
        )

    def update(self, found: Any) -> None:
        """Show the estimate so far."""
        if not self._shown:
            return
        error = "" if math.isnan(found.stderr) else f" ± {found.stderr:.3g} ({100 * found.relative_stderr:.1f} %)"
        line = f"trace {found.value:.5g}{error}, {found.pairs} pairs, {found.seconds:.0f} s"
        if self._console.is_terminal:
            self._status.update(f"{self._label}: {line}")
        elif found.pairs >= self._next:
            self._next = 2 * found.pairs
            self._say(line)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def record_of(prepared: Any, found: Any, file: Path, settings: Any) -> dict[str, Any]:
    """All there is to say about an estimate, as plain values."""
    from est_analysis.any_checkpoint.trace import budget_of
    from est_analysis.curvature.memory import peak_bytes, peak_rss_bytes

    located = prepared.loaded.located
    low, high = found.interval()
    record = {
        "checkpoint": located.name,
        "revision": located.revision,
        "commit": located.commit,
        "weight_hash": prepared.loaded.weight_hash,
        "quantity": _QUANTITIES[found.engine],
        **estimate_record(found),
        "interval": [finite(low), finite(high)],
        "num_parameters": prepared.objective.num_parameters,
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_bytes": peak_bytes(prepared.device),
        "predicted_peak_bytes": prepared.plan.peak_bytes,
        "fallback": prepared.fallback,
        **{name: prepared.identity[name] for name in ("text", "seq_len", "micro_batch", "probes", "dtype", "seed")},
        "loss_kind": prepared.identity["loss"],
        "text_source": asdict(settings.text),
        "over": settings.over,
        "file": str(file),
        "batches_left": len(prepared.inputs) - found.batches,
        "reached": budget_of(settings, prepared).reached(found, len(prepared.inputs)),
        "rel_se": settings.rel_se,
    }
    if settings.over == "batches" and found.batches < len(prepared.inputs):
        record["stderr_data"] = None  # what the other batches would change is not in any spread
    if settings.blocks:
        record["blocks"], record["kinds"] = _blocks(prepared, found)
        if settings.over == "batches":  # measured is each row's spread over batches, which is another question
            for row in (*record["blocks"], *record["kinds"]):
                row["stderr"] = None
    return record


_QUANTITIES = {
    "taylor": "Hessian trace",
    "hvp": "Hessian trace",
    "fisher": "trace of the Fisher matrix (GGN)",
    "empirical-fisher": "trace of the empirical Fisher matrix",
}


def estimate_record(found: Any) -> dict[str, Any]:
    """The estimate itself; NaN, which JSON lacks, as None."""
    values = {
        "trace": found.value,
        "stderr": found.stderr,
        "stderr_data": found.stderr_data,
        "stderr_probes": found.stderr_probes,
        "relative_stderr": found.relative_stderr,
        "pairs": found.pairs,
        "batches": found.batches,
        "targets": found.targets,
        "loss": found.loss,
        "engine": found.engine,
        "seconds": found.seconds,
    }
    return {name: finite(value) for name, value in values.items()}


def finite(value: Any) -> Any:
    """`value`, or None for a number that JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _blocks(prepared: Any, found: Any) -> tuple[list[dict], list[dict]]:
    from est_analysis.curvature.blocks import breakdown, by_batch, kind_totals

    tables = (make(prepared.objective, *by_batch(found.samples)) for make in (breakdown, kind_totals))
    blocks, kinds = ([{k: finite(v) for k, v in asdict(row).items()} for row in table] for table in tables)
    return blocks, kinds


def print_trace(record: dict[str, Any]) -> None:
    """The numbers for a person."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    error = "no standard error"
    if record["stderr"] is not None:
        low, high = record["interval"]
        error = (
            f"± {record['stderr']:.3g} ({100 * record['relative_stderr']:.1f} %), 95 % interval {low:.5g} to {high:.5g}"
        )
    say(f"{record['quantity']}  {record['trace']:.5g} {error}")
    split = ""
    if record["stderr_data"] is not None and record["stderr_probes"] is not None:
        split = f"; of the error {record['stderr_data']:.3g} is the data's, {record['stderr_probes']:.3g} the probes'"
    say(
        f"{record['pairs']} pairs over {record['batches']} batches ({record['targets']:,} targets, loss "
        f"{record['loss']:.4f} nats) in {record['seconds']:.1f} s{split}"
    )
    peak, predicted = (record[f"{name}_bytes"] / 2**30 for name in ("peak", "predicted_peak"))
    say(f"memory: peak {peak:.2f} GiB, predicted {predicted:.2f} GiB")
    say(f"weights {record['weight_hash'][:12]}, text {record['text'][:12]}")
    for key, title in (("kinds", "by kind of module"), ("blocks", "by layer")):
        if key in record:
            console.print(_block_table(record[key], record["trace"], title))
    if "spectrum" in record:
        top = ", ".join(f"{value:.4g}" for value in record["spectrum"]["top_eigenvalues"])
        say(f"largest eigenvalues of the Hessian (of {record['spectrum']['targets']:,} targets): {top}")
    say(f"kept in {record['file']}")
    warn_unless_reached(record)


def warn_unless_reached(record: dict[str, Any]) -> None:
    """Say on stderr that the error asked for was not reached."""
    if record["reached"]:
        return
    error, asked = record["relative_stderr"], record["rel_se"]
    got = "unknown" if error is None else f"{100 * error:.1f} %"
    found = f"relative standard error {got} after {record['pairs']} pairs, not {100 * asked:g} %"
    remedy, no_more = "raise --max-pairs to go on", record.get("batches_left") == 0
    data, trace = record.get("stderr_data"), record.get("trace")
    if error is not None and error <= asked:
        found = f"{record['pairs']} pairs over {record['batches']} batches are too few to trust their error of {got}"
        if no_more:
            remedy = "the text has no more: give a longer one, a smaller --micro-batch, or --over batches"
    elif no_more and data is not None and trace is not None and data > asked * abs(trace):
        remedy = "the text itself is too short for less: give a longer one, or --over batches"
    print(f"est: warning: {found}; {remedy}", file=sys.stderr)


def _block_table(rows: list[dict], total: float, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("layer", "kind", "parameters", "trace", "stderr", "share", "|w|", "|w|² tr / n"):
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right")
    for row in rows:
        table.add_row(
            row["layer"], row["kind"], f"{row['parameters']:,}", f"{row['trace']:.4g}",
            "" if row["stderr"] is None else f"{row['stderr']:.2g}", f"{100 * row['trace'] / total:.1f} %",
            f"{row['weight_norm']:.3g}", f"{row['scale_invariant']:.3g}",
        )  # fmt: skip
    return table


def print_row(record: dict[str, Any], *, header: bool) -> None:
    """One revision of a series."""
    if header:
        print(f"{'revision':>16} {'trace':>12} {'stderr':>10} {'loss':>9} {'pairs':>7} {'seconds':>8}", flush=True)
    if "error" in record:
        print(f"{record['revision']:>16} not loaded: {record['error']}", flush=True)
        return
    if "duplicate_of" in record:
        print(f"{record['revision']:>16} refused: the same weights as {record['duplicate_of']}", flush=True)
        return
    error = "" if record["stderr"] is None else f"{record['stderr']:.3g}"
    print(
        f"{record['revision']:>16} {record['trace']:>12.5g} {error:>10} {record['loss']:>9.4f} {record['pairs']:>7} "
        f"{record['seconds']:>8.1f}",
        flush=True,
    )
    warn_unless_reached(record)


def print_merged(identity: dict[str, Any], found: Any, *, as_json: bool) -> None:
    """The estimate of several shards."""
    record = {**estimate_record(found), "interval": [finite(end) for end in found.interval()], "identity": identity}
    if as_json:
        print(json.dumps(record, indent=1))
        return
    error = f"± {found.stderr:.3g} ({100 * found.relative_stderr:.1f} %)"
    if math.isnan(found.stderr):
        error = "no standard error"
    print(
        f"{_QUANTITIES[found.engine]}  {found.value:.5g} {error}, "
        f"{found.pairs} pairs over {found.batches} batches, loss {found.loss:.4f}"
    )
