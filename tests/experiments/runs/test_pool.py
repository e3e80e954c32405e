"""The pool of processes, with calls that take no time."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from est_analysis.errors import InputError
from est_analysis.experiments.runs.pool import run_in_pool
from est_analysis.train.loop import Stopped


def _stop_or_begin(folder: Path, number: int) -> int:
    if number == 0:
        raise Stopped("stopped at step 3")
    (folder / str(number)).touch()
    return number


def test_what_stopped_one_call_lets_no_other_begin(tmp_path):
    """The parent looks twice a second, and a process has its next call at once."""
    with pytest.raises(Stopped, match="saved in runs, run the same command to resume"):
        run_in_pool(partial(_stop_or_begin, tmp_path), [(0,), (1,), (2,)], workers=1, show=lambda: None, saved="runs")
    assert list(tmp_path.iterdir()) == []


def _killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_the_system_kills_is_a_line_and_no_traceback():
    with pytest.raises(
        InputError, match="a worker process was killed, perhaps for want of memory; runs are saved in r"
    ):
        run_in_pool(_killed, [(0,), (1,)], workers=2, show=lambda: None, saved="r")


DEAF = """
import signal, sys, time
from pathlib import Path
from est_analysis.experiments.runs.pool import run_in_pool
from est_analysis.train.loop import Stopped


def call(number):
    heard = []
    usual = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    Path(str(number)).touch()
    if number:
        while not heard:
            time.sleep(0.1)
        time.sleep(1)  # saving, while the other process dies with the queue's lock
        Path("saved").touch()
    while not Path("1").exists():
        time.sleep(0.1)
    signal.signal(signal.SIGTERM, usual)
    raise Stopped("stopped at step 3")


if __name__ == "__main__":
    try:
        run_in_pool(call, [(0,), (1,)], workers=2, show=lambda: None, saved="runs")
    except Stopped as stopped:
        sys.exit(str(stopped))
"""


def test_a_worker_that_saves_while_it_is_told_to_end_ends_afterwards(tmp_path):
    """Told once, it is busy; idle then, it would wait for a call that never comes, and its parent for it."""
    (tmp_path / "deaf.py").write_text(DEAF)
    found = subprocess.run([sys.executable, "deaf.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.stderr.endswith("saved in runs, run the same command to resume\n")
    assert (tmp_path / "saved").exists()


def test_results_come_in_the_order_of_the_calls(tmp_path):
    found = run_in_pool(partial(_stop_or_begin, tmp_path), [(2,), (1,)], workers=2, show=lambda: None, saved="runs")
    assert found == [2, 1]
