"""Traces of several checkpoints on the same batches along the same probes, so that what they share drops out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from est_analysis.any_checkpoint.trace import Prepared, TraceSettings, budget_of, default_file, measure, prepare
from est_analysis.curvature.blocks import by_kind
from est_analysis.curvature.checkpoint import Loaded
from est_analysis.curvature.estimate import Comparison, TraceEstimate, compare
from est_analysis.curvature.trace import LEAST
from est_analysis.errors import InputError

_NORMAL = 1.96  # standard errors that half of a 95 % interval is wide, of many measurements


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Several checkpoints beside the first of them.

    Attributes:
        prepared: the checkpoints, the baseline first.
        estimates: their traces.
        comparisons: of each but the first against the first.
        paired: whether all saw the same batches.
        reached: whether every ratio is as sure as was asked.
    """

    prepared: tuple[Prepared, ...]
    estimates: tuple[TraceEstimate, ...]
    comparisons: tuple[Comparison, ...]
    paired: bool
    reached: bool


def compare_kinds(found: Compared) -> list[dict[str, Comparison]]:
    """Of each checkpoint but the first, the trace of each kind of module beside the first one's."""
    kinds = [
        by_kind(one.objective, estimate.samples) for one, estimate in zip(found.prepared, found.estimates, strict=True)
    ]
    base, *others = kinds
    return [
        {kind: compare(samples, base[kind], paired=found.paired) for kind, samples in other.items() if kind in base}
        for other in others
    ]


def prepare_alike(loaded: Sequence[Loaded], settings: TraceSettings) -> list[Prepared]:
    """Prepare checkpoints with sizes and an engine that suit all of them.

    Raises:
        InputError: fewer than two, two of them are the same weights or have other losses, or as `prepare`.
    """
    if len(loaded) < 2:
        raise InputError("one checkpoint has nothing to be compared with; name two or more")
    seen: dict[tuple[str, str], str] = {}
    for one in loaded:
        model = one.weight_hash, one.config_hash
        if (twin := seen.get(model)) is not None:
            raise InputError(f"{twin} and {one.located.name} hold the same weights; name different checkpoints")
        seen[model] = one.located.name
    first = loaded[0]
    if other := next((one for one in loaded if one.loss != first.loss), None):
        raise InputError(
            f"{first.located.name} has a {first.loss} loss and {other.located.name} a {other.loss} one; compare "
            "checkpoints of one kind"
        )
    found = [prepare(one, settings) for one in loaded]
    engines = {one.engine.name for one in found}
    common = replace(
        settings,
        engine=engines.pop() if len(engines) == 1 else "hvp",
        seq_len=min(one.identity["seq_len"] for one in found),
        micro_batch=min(one.plan.micro_batch for one in found),
        probes=min(one.plan.probes for one in found),
    )
    return [replace(prepare(one, common), fallback=before.fallback) for one, before in zip(loaded, found, strict=True)]


def compare_checkpoints(
    prepared: Sequence[Prepared],
    settings: TraceSettings,
    *,
    keep: bool = True,
    on_round: Callable[[Compared], None] = lambda found: None,
) -> Compared:
    """Measure until every ratio to the first checkpoint has the relative standard error asked for.

    Args:
        prepared: from `prepare_alike`.
        settings: as given there.
        keep: keep measurements in their default files, where the next comparison finds them.
        on_round: told after each round of measurements.
    """
    probes = prepared[0].plan.probes
    most = settings.max_pairs // probes
    read = [{name: one.identity.get(name) for name in ("text", "begin", "objective", "inputs")} for one in prepared]
    paired = all(one == read[0] for one in read)
    rounds = LEAST  # before the first look
    while True:
        rounds = min(rounds, most)
        # The error of one trace is not the question: each runs for as many rounds as the comparison needs.
        budget = replace(budget_of(settings, prepared[0]), max_pairs=rounds * probes, rel_se=1e-12)
        estimates = [measure(one, budget, file=default_file(one.identity) if keep else None) for one in prepared]
        comparisons = tuple(compare(one.samples, estimates[0].samples, paired=paired) for one in estimates[1:])
        found = Compared(
            prepared=tuple(prepared),
            estimates=tuple(estimates),
            comparisons=comparisons,
            paired=paired,
            reached=all(one.ratio_margin <= _NORMAL * settings.rel_se for one in comparisons),
        )
        on_round(found)
        if found.reached or rounds == most:
            return found
        rounds += max(8, rounds // 2)
