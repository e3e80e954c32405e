"""`est compare` as it is typed."""

import json

import pytest


@pytest.fixture
def compare(est, shared):
    def call(*checkpoints, line=""):
        small = "--seq-len 32 --micro-batch 1 --probes 2 --max-pairs 32 --threads 1"
        return est("compare", *checkpoints, "--corpus", shared / "text.txt", *small.split(), *line.split())

    return call


def test_compare(compare, run):
    steps = sorted((run / "checkpoints").iterdir())
    found = json.loads(compare(steps[0], steps[-1], line="--json").out)
    first, last = found["traces"]
    assert found["difference"] == pytest.approx(last["trace"] - first["trace"])
    assert found["ratio"] == pytest.approx(last["trace"] / first["trace"])
    assert found["difference_stderr"] > 0
    assert len(found["ratio_ci"]) == 2
    assert found["paired"] is True
    shown = compare(steps[0], steps[-1])
    assert shown.code == 0
    assert "32 pairs each, engine taylor, same batches and probes." in shown.out


def test_compare_three(compare, run):
    steps = sorted((run / "checkpoints").iterdir())
    found = json.loads(compare(*steps[:3], line="--json").out)
    assert len(found["traces"]) == 3
    for name in ("difference", "difference_stderr", "ratio", "ratio_ci"):
        assert len(found[name]) == 2
    assert compare(*steps[:3]).code == 0


def test_compare_by_kind(compare, run):
    steps = sorted((run / "checkpoints").iterdir())
    found = json.loads(compare(steps[0], steps[-1], line="--json --by-layer --max-pairs 4").out)
    for one in found["traces"]:
        assert sum(one["kinds"].values()) == pytest.approx(one["trace"], rel=1e-9)
    a, b = (one["kinds"] for one in found["traces"])
    assert found["kinds"].keys() == a.keys() == b.keys()
    for kind, beside in found["kinds"].items():
        assert beside["ratio"] == pytest.approx(b[kind] / a[kind])
        assert beside["difference"] == pytest.approx(b[kind] - a[kind])
        assert beside["difference_stderr"] > 0
    assert sum(one["difference"] for one in found["kinds"].values()) == pytest.approx(found["difference"])
    shown = compare(*steps[:3], line="--by-layer --max-pairs 4").out
    assert shown.count("mlp") == 3
    assert "by kind of module" in shown


def test_compare_what_cannot_be_compared(compare, run, checkpoint):
    assert compare(run).error == "one checkpoint has nothing to be compared with; name two or more"
    assert "hold the same weights; name different checkpoints" in compare(run, checkpoint).error
