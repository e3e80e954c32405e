"""How every committed run was made, by its run_id: `runs.jsonl` beside the rows.

A line is one of three: an environment under a short key; what the runs of a kind have in common; a run, with what is
its own. All fields together and the hash of the data give the run's id, so that the file is checked, not believed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_analysis.errors import InputError
from est_analysis.experiments.runs.identity import name_of_linear_net, name_of_random_net, name_of_training

RUNS_FILE = "runs.jsonl"
NOT_KEPT = "not kept"
Place = tuple[str, ...]  # of a field in a nested spec


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """How a run was made.

    Attributes:
        run_id: its name.
        kind: the class of its spec, such as `TrainSpec`.
        spec: every field that is in its name, nested as in `spec.json`.
        data_hash: of the tokens it trained on; empty where the spec says what the data are.
        numerics: version of the numerics of its kind.
        environment: what it was carried out with (`store.environment`); None where that was not kept.
    """

    run_id: str
    kind: str
    spec: Mapping[str, Any]
    data_hash: str = ""
    numerics: int = 1
    environment: Mapping[str, Any] | None = None

    @property
    def expected_id(self) -> str:
        """The id that a run of this spec on this data has."""
        own = {name: value for name, value in self.spec.items() if name not in ("variant", "seed", "law")}
        if self.kind == "DepthSettings":
            return name_of_random_net(own, self.spec["variant"], self.spec["seed"], numerics=self.numerics)
        if self.kind == "LinearSettings":
            return name_of_linear_net(own, self.spec["law"])
        return name_of_training(self.spec, data_hash=self.data_hash, numerics=self.numerics)

    def check(self) -> None:
        """Raise an `InputError` unless the spec is that of the id."""
        if self.expected_id != self.run_id:
            raise InputError(
                f"the spec that {RUNS_FILE} gives for '{self.run_id}' is that of '{self.expected_id}'; restore it with "
                "git"
            )


def find_run(folder: Path, run_id: str) -> RunRecord:
    """How a committed run was made, checked against its id.

    Args:
        folder: `paper_figures/data` of the repository.
        run_id: from a CSV in it, or from a claim.

    Raises:
        InputError: no such run, or the file is missing, damaged or wrong about it.
    """
    found = read_runs(folder / RUNS_FILE)
    if run_id not in found:
        raise InputError(f"no run '{run_id}' in '{folder / RUNS_FILE}'; give a run_id of a CSV file beside it")
    found[run_id].check()
    return found[run_id]


def read_runs(path: Path) -> dict[str, RunRecord]:
    """Every run of a file that `runs_text` made, by its id; unchecked.

    Raises:
        InputError: the file is not there or damaged.
    """
    environments: dict[str, Any] = {NOT_KEPT: None}
    common: dict[str, dict[Place, Any]] = {}
    runs = {}
    try:
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if "common" in line:
                common[line["kind"]] = _flat(line["common"])
            elif "run_id" in line:
                spec = _nested({**common[line["kind"]], **_flat(line["spec"])})
                values = {**line, "spec": spec, "environment": environments[line["environment"]]}
                runs[line["run_id"]] = RunRecord(**values)
            else:
                environments[line["key"]] = line["environment"]
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}; give the repository's paper_figures/data") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{path}' is damaged ({' '.join(str(error).split())}); restore it with git") from error
    return runs


def runs_text(runs: Iterable[RunRecord]) -> str:
    """The lines of a file with `runs`, sorted by id: the same text for the same runs, in whatever order."""
    runs = sorted(runs, key=lambda run: run.run_id)
    environments = {_key(run.environment): run.environment for run in runs if run.environment is not None}
    specs: dict[str, list[dict[Place, Any]]] = {}
    for run in runs:
        specs.setdefault(run.kind, []).append(_flat(run.spec))
    common = {kind: _common(ones) for kind, ones in sorted(specs.items())}
    lines = [{"key": key, "environment": environments[key]} for key in sorted(environments)]
    lines += [{"kind": kind, "common": _nested(values)} for kind, values in common.items()]
    for run in runs:
        shared = _texts(common[run.kind])
        own = {place: value for place, value in _flat(run.spec).items() if shared.get(place) != json.dumps(value)}
        environment = NOT_KEPT if run.environment is None else _key(run.environment)
        lines.append({**vars(run), "spec": _nested(own), "environment": environment})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _key(environment: Mapping[str, Any]) -> str:
    return "e" + hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:8]


def _common(specs: list[dict[Place, Any]]) -> dict[Place, Any]:
    """The values that more than half of `specs` have, of fields that all of them have."""
    texts = [_texts(spec) for spec in specs]
    found = {}
    for place in texts[0]:
        text, count = Counter(spec.get(place) for spec in texts).most_common(1)[0]
        if text is not None and 2 * count > len(specs) and all(place in spec for spec in texts):
            found[place] = json.loads(text)
    return found


def _texts(values: Mapping[Place, Any]) -> dict[Place, str]:
    """As JSON: 1, 1.0 and True are equal, but not in a hash."""
    return {place: json.dumps(value) for place, value in values.items()}


def _flat(values: Mapping[str, Any], above: Place = ()) -> dict[Place, Any]:
    """A value for every path; an empty mapping is a value."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, (*above, name))
        else:
            found[(*above, name)] = value
    return found


def _nested(values: Mapping[Place, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for *above, name in sorted(values):
        part = found
        for outer in above:
            part = part.setdefault(outer, {})
        part[name] = values[(*above, name)]
    return found
