"""The `est` command called in this process, or in a real one that can be killed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub.constants
import pytest

from est_analysis.__main__ import main

# A run of 12 steps with gpt2-est, which changes after steps 2 and 6.
SMALL = "--steps 12 --batch 4 --seq-len 32 --threads 1 --log-every 4 --eval-every 7 --save-every 5"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one line of an error; fails if there is more, or something on stdout."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("est: ")
        return self.err.removeprefix("est: ").rstrip("\n")


@pytest.fixture(autouse=True)
def _place(monkeypatch, tmp_path, shared):
    """Commands write into the current folder; no test reaches the hub, nor the user's own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(shared / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def est(monkeypatch, capsys):
    """`est("flops", "gpt2-est")` -> what it printed and its exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["est", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture
def train(est, shared):
    """`train("--method", "full")` on the small text; later options override the small defaults."""

    def call(*arguments):
        return est("train", "--corpus", shared / "text.txt", *SMALL.split(), *arguments)

    return call


class Fork:
    """Real processes that run the command: forks of one that has imported everything and computed nothing."""

    def __init__(self, cache):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "EST_ANALYSIS_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def _ask(self, **request):
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, folder, *arguments):
        """The id of a new process that runs `est` in `folder`; its output goes to files there."""
        return self._ask(folder=str(folder), arguments=[str(argument) for argument in arguments])

    def wait(self, process):
        """Its exit code, negative for a signal."""
        return self._ask(wait=process)

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture(scope="session")
def fork(shared):
    forks = Fork(shared / "cache")
    yield forks
    forks.close()
