"""A run, its last checkpoint, and `est trace` on them as it is typed."""

import json
import shutil

import pytest


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path, _place):
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(fork, shared, tmp_path_factory):
    """A run of ours with checkpoints of several steps."""
    folder = tmp_path_factory.mktemp("trained")
    line = "--steps 12 --batch 4 --seq-len 32 --threads 1 --log-every 4 --eval-every 7 --save-every 5 --method full"
    command = ["train", "--corpus", shared / "text.txt", *line.split(), "--out", "run"]
    assert fork.wait(fork.start(folder, *command)) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def checkpoint(run):
    """The last of them: a folder as `transformers` writes them."""
    return run / "checkpoints" / "step000012"


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged; outside of any run, so that its sequences are as long as it reads."""
    return shutil.copytree(checkpoint, tmp_path / "copied")


@pytest.fixture
def trace(est, shared):
    """`trace(run, "--max-pairs", 8)` on 32 tokens of the small text, 2 probes at once; later options override."""

    def call(checkpoint, line="", *more, text=("--corpus", shared / "text.txt")):
        small = "--seq-len 32 --micro-batch 1 --probes 2 --max-pairs 8 --threads 1"
        return est("trace", checkpoint, *text, *small.split(), *line.split(), *more)

    return call


@pytest.fixture
def record(trace):
    def record(*arguments, **options):
        result = trace(*arguments, "--json", **options)
        assert result.code == 0, result.err
        return json.loads(result.out)

    return record
