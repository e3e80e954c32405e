"""What `est stability` says: a table and a verdict for a person, one record for a program."""

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

_SURE = 2.0  # standard errors
_CLOSE = "too close"


def record_of(prepared: Any, found: Any, settings: Any) -> dict[str, Any]:
    """All there is to say, as plain values; what cannot be told is None."""
    from est_analysis.commands.trace_output import finite

    located, identity = prepared.loaded.located, prepared.identity
    numbers = {name: finite(value) for name, value in asdict(found).items() if name != "layers"}
    return {
        "checkpoint": located.name,
        "revision": located.revision,
        "commit": located.commit,
        "weight_hash": prepared.loaded.weight_hash,
        "layers": [{name: finite(value) for name, value in asdict(layer).items()} for layer in found.layers],
        **numbers,
        "tolerance": settings.tolerance,
        "layers_below_tolerance": sum(layer.loss_change < settings.tolerance for layer in found.layers),
        "gap_below_tolerance": abs(found.gap) < settings.tolerance,
        "gap_inner_below_tolerance": None if math.isnan(found.gap_inner) else abs(found.gap_inner) < settings.tolerance,
        **{name: identity[name] for name in ("text", "seq_len", "micro_batch", "dtype", "seed")},
        "loss_kind": identity["loss"],
        "text_source": asdict(settings.text),
    }


def print_stability(record: dict[str, Any]) -> None:
    """The numbers for a person."""
    console = Console()
    console.print(_table(record))
    lines = _summary(record)
    width = max(len(name) for name, _ in lines)
    for text in (
        *(f"{name:<{width}}  {value}" for name, value in lines),
        "",
        verdict(record),
        "",
        f"{record['targets']:,} targets in {record['batches']} batches, {record['seconds']:.1f} s; weights "
        f"{record['weight_hash'][:12]}, text {record['text'][:12]}",
    ):
        console.print(text, highlight=False, soft_wrap=True)


def verdict(record: dict[str, Any]) -> str:
    """Which layers may be bypassed, and whether a stage transition is smooth: a sentence a line."""
    layers, tolerance = record["layers"], record["tolerance"]
    states = [_state(one["loss_change"], one["loss_change_stderr"], tolerance) for one in layers]
    number = states.count(_CLOSE)
    close = f"; {number} {'is' if number == 1 else 'are'} too close to call" if number else ""
    sentences = [
        f"{states.count('')} of {len(layers)} layers can each be bypassed alone within the tolerance of "
        f"{tolerance:g} nats a token{close}.",
        f"From one layer dropped at random, {_transition(record['gap'], record['gap_stderr'], tolerance)}.",
    ]
    if record["gap_inner"] is not None:
        inner = _transition(record["gap_inner"], record["gap_inner_stderr"], tolerance)
        sentences.append(f"Where first and last layer always stay, as in RaPTr's experiments, {inner}.")
    return "\n".join(sentences)


def _state(change: float, error: float, tolerance: float) -> str:
    if abs(change - tolerance) < _SURE * error:
        return _CLOSE
    return "" if change < tolerance else "needed"


def _transition(gap: float, error: float, tolerance: float) -> str:
    """What the loss does when the missing layer comes back."""
    moves = f"the transition to all layers would change the loss by {-gap:+.4f}"
    if abs(abs(gap) - tolerance) < _SURE * error:
        return f"{moves}: too close to the tolerance to call"
    return f"{moves}: {'stable, within' if abs(gap) < tolerance else 'not stable, beyond'} the tolerance"


def _summary(record: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        (f"loss of all {len(record['layers'])} layers (L2)", f"{record['loss_full']:.4f} nats a token"),
        ("loss with one layer dropped at random (L1)", f"{record['loss_one_dropped']:.4f}"),
        ("gap L1 - L2", f"{record['gap']:+.4f} ± {record['gap_stderr']:.2g}"),
    ]
    if record["gap_inner"] is not None:
        lines.append(
            ("gap if first and last layer stay", f"{record['gap_inner']:+.4f} ± {record['gap_inner_stderr']:.2g}")
        )
    lines.append(
        ("bound on the gap, measured", f"{record['bound']:.4f}  (mu = {record['mu']:.4g}, the least that fits)")
    )
    if record["mu_predicted"] is not None:
        lines.append(
            (
                "bound on the gap, predicted to first order",
                f"{record['bound_predicted']:.4f}  (mu = {record['mu_predicted']:.4g}, from gradients of all layers)",
            )
        )
    return lines


def _table(record: dict[str, Any]) -> Table:
    table = Table()
    for heading in ("layer", "Psi", "± se", "loss change", "± se", ""):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for one in record["layers"]:
        table.add_row(
            one["name"], f"{one['psi']:.4f}", f"{one['psi_stderr']:.1g}", f"{one['loss_change']:+.4f}",
            f"{one['loss_change_stderr']:.1g}",
            _state(one["loss_change"], one["loss_change_stderr"], record["tolerance"]),
        )  # fmt: skip
    return table
