"""`est trace --revisions`: a curve along training, one checkpoint at a time."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from est_analysis.commands.checkpoint_options import load_located, require_loadable
from est_analysis.commands.trace_output import Live, print_row, record_of
from est_analysis.errors import InputError

_STRIKES = 3  # revisions that cannot be loaded, with none before that could, end a series


def trace_series(name: str, pattern: str, settings: Any, how: dict[str, Any], *, as_json: bool) -> None:
    """Measure every revision of `name` that matches, print each as it comes, and refuse weights seen before.

    What is done is kept: the same command again fetches no hub revision a second time, unless it points elsewhere now.
    Downloads are evicted after use. One that cannot be loaded is named, and the others are measured.

    Raises:
        InputError: whatever is wrong with all of them; at the end, that some could not be loaded.
    """
    from est_analysis.curvature.locate import locate_revisions

    require_loadable(how)
    targets = locate_revisions(name, pattern)
    kept = _Kept(name, settings, how)
    seen: dict[str, dict[str, Any]] = {}
    records: list[dict[str, Any]] = []
    for reference, target in targets.items():
        record = kept.of(reference, target) or _measured(name, reference, settings, how, seen)
        if "error" not in record:
            record = {**record, "target_commit": target}
            kept.add(record)
            # Published series often serve late weights under an early name: such a point would be wrong in silence.
            twin = seen.setdefault(record["weight_hash"], record)["revision"]
            if twin != reference:
                record = {key: record[key] for key in ("revision", "step", "weight_hash")} | {"duplicate_of": twin}
        records.append(record)
        wrong = [record["error"] for record in records if "error" in record]
        if len(wrong) == len(records) == min(_STRIKES, len(targets)):
            raise InputError(wrong[0])
        if not as_json:
            print_row(record, header=len(records) == 1)
    if as_json:
        print(json.dumps({"checkpoint": name, "revisions": records}, indent=1))
    if wrong:
        raise InputError(f"{len(wrong)} of {len(records)} revisions could not be loaded; the first: {wrong[0]}")


def _measured(
    name: str, reference: str, settings: Any, how: dict[str, Any], seen: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The record of one revision, or why it cannot be loaded; weights that have been `seen` are not measured again."""
    from est_analysis.curvature.locate import evict, locate

    try:
        located = locate(name, revision=reference)
    except InputError as error:
        return {"revision": reference, "error": str(error)}
    try:
        loaded = load_located(located, how)
    except InputError as error:
        evict(located)
        return {"revision": reference, "error": str(error)}
    record = {"revision": reference, "step": located.step, "weight_hash": loaded.weight_hash}
    try:
        twin = seen.get(loaded.weight_hash)
        return {**twin, **record} if twin else record | _trace(f"{name} {reference}", loaded, settings)
    finally:
        evict(located)


def _trace(label: str, loaded: Any, settings: Any) -> dict[str, Any]:
    from est_analysis.any_checkpoint.trace import budget_of, default_file, measure, prepare

    prepared = prepare(loaded, settings)
    file = default_file(prepared.identity)
    with Live(label, shown=True) as live:
        live.announce(prepared)
        estimate = measure(prepared, budget_of(settings, prepared), file=file, on_estimate=live.update)
    return record_of(prepared, estimate, file, settings)


class _Kept:
    """Finished revisions of one series on the hub; local ones are read again, since folders change."""

    def __init__(self, name: str, settings: Any, how: dict[str, Any]):
        from est_analysis.data.cache import cache_root
        from est_analysis.data.corpus import open_corpus

        text = settings.text
        reading = {"dataset_config": text.dataset_config or None, "text_column": text.text_column}
        corpora = [open_corpus(one, **reading, max_bytes=text.max_bytes or None).identity for one in text.corpora]
        identity = json.dumps([name, asdict(settings), how, corpora], sort_keys=True)
        folder = cache_root() / "traces"
        self._path = None if Path(name).exists() else folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.series"
        self.records = {} if self._path is None else _read_records(self._path)

    def of(self, reference: str, target: str | None) -> dict[str, Any] | None:
        """What is kept of a revision, if it is of the commit that the revision points at."""
        record = self.records.get(reference)
        return record if record and record.get("target_commit") == target else None

    def add(self, record: dict[str, Any]) -> None:
        """Keep one more record, unless it is kept."""
        from est_analysis.experiments.runs.store import write_atomically

        if self.records.get(record["revision"]) == record:
            return
        self.records[record["revision"]] = record
        if self._path is not None:  # its folder is there: the first measurement has been kept in it
            write_atomically(self._path, "".join(json.dumps(one) + "\n" for one in self.records.values()))


def _read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Revision -> record; a damaged line is left out, so that its revision is measured again."""
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); delete it to measure the series again") from error
    records = {}
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            record = json.loads(line)
            records[record["revision"]] = {**record, "weight_hash": record["weight_hash"]}
    return records
