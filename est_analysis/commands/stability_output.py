"""What `est stability` says: a table and a verdict for a person, one record for a program."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

_SURE = 2.0  # standard errors


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
        **{name: identity[name] for name in ("text", "seq_len", "micro_batch", "dtype", "seed")},
        "loss_kind": identity["loss"],
        "text_source": asdict(settings.text),
    }


def print_stability(record: dict[str, Any]) -> None:
    """The numbers for a person."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    console.print(_table(record))
    number = len(record["layers"])
    say(f"loss of all {number} layers (L2)            {record['loss_full']:.4f} nats a token")
    say(f"loss with one layer dropped at random (L1)  {record['loss_one_dropped']:.4f}")
    say(f"gap L1 - L2                                 {record['gap']:+.4f} ± {record['gap_stderr']:.2g}")
    say(
        f"bound on it, measured                       {record['bound']:.4f}  (mu = {record['mu']:.4g}, the least that "
        "no layer of no batch contradicts)"
    )
    if record["mu_predicted"] is not None:
        say(
            f"bound on it, predicted to first order       {record['bound_predicted']:.4f}  (mu = "
            f"{record['mu_predicted']:.4g}, from the gradients of the full network alone)"
        )
    say("")
    say(verdict(record))
    say("")
    say(
        f"{record['targets']:,} targets in {record['batches']} batches, {record['seconds']:.1f} s; weights "
        f"{record['weight_hash'][:12]}, text {record['text'][:12]}"
    )


def verdict(record: dict[str, Any]) -> str:
    """Which layers may be bypassed, and whether a stage transition is safe, in plain words."""
    layers, tolerance = record["layers"], record["tolerance"]
    close = sum(abs(one["loss_change"] - tolerance) < _SURE * one["loss_change_stderr"] for one in layers)
    unsure = f" ({close} of all {len(layers)} too close to tell)" if close else ""
    gap, error = abs(record["gap"]), record["gap_stderr"]
    if abs(gap - tolerance) < _SURE * error:
        transition = "is too close to it to tell whether a stage transition is safe here"
    else:
        moves = "fall" if record["gap"] > 0 else "rise"
        transition = (
            f"is {'below' if gap < tolerance else 'above'} it: a stage transition, from one layer less to all of them, "
            f"is {'' if gap < tolerance else 'not '}safe here (the loss would {moves} by that)"
        )
    return (
        f"{record['layers_below_tolerance']} of {len(layers)} layers may each alone be bypassed within a tolerance of "
        f"{tolerance:g} nats{unsure}. Dropping one at random costs {record['gap']:+.4f}, which {transition}."
    )


def _table(record: dict[str, Any]) -> Table:
    table = Table()
    for heading in ("layer", "Psi", "± se", "loss change", "± se", ""):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for one in record["layers"]:
        table.add_row(
            one["name"], f"{one['psi']:.4f}", f"{one['psi_stderr']:.1g}", f"{one['loss_change']:+.4f}",
            f"{one['loss_change_stderr']:.1g}", "" if one["loss_change"] < record["tolerance"] else "needed",
        )  # fmt: skip
    return table
