"""The pool of processes, with calls that take no time."""

import os
import signal
import subprocess
import sys
import time
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


def _calls(folder: Path, *numbers: int) -> list[list[partial]]:
    return [[partial(_stop_or_begin, folder, number)] for number in numbers]


def test_what_stopped_one_call_lets_no_other_begin(tmp_path):
    """The parent looks twice a second, and a process has its next call at once."""
    with pytest.raises(Stopped, match="saved in runs, run the same command to resume"):
        run_in_pool(_calls(tmp_path, 0, 1, 2), workers=1, show=lambda: None, saved="runs")
    assert list(tmp_path.iterdir()) == []


def _killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_the_system_kills_is_a_line_and_no_traceback():
    with pytest.raises(
        InputError, match="a worker process was killed, perhaps for want of memory; runs are saved in r"
    ):
        run_in_pool([[partial(_killed, 0)], [partial(_killed, 1)]], workers=2, show=lambda: None, saved="r")


DEAF = """
import signal, sys, time
from functools import partial
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
        run_in_pool([[partial(call, 0)], [partial(call, 1)]], workers=2, show=lambda: None, saved="runs")
    except Stopped as stopped:
        sys.exit(str(stopped))
"""


def test_a_worker_that_saves_while_it_is_told_to_end_ends_afterwards(tmp_path):
    """Told once, it is busy; idle then, it would wait for a call that never comes, and its parent for it."""
    (tmp_path / "deaf.py").write_text(DEAF)
    found = subprocess.run([sys.executable, "deaf.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.stderr.endswith("saved in runs, run the same command to resume\n")
    assert (tmp_path / "saved").exists()


IDLE = """
import sys, time
from functools import partial
from pathlib import Path
from est_analysis.experiments.runs.pool import run_in_pool
from est_analysis.train.loop import Stopped


def call(number):
    Path(str(number)).touch()
    time.sleep(60 * number)


if __name__ == "__main__":
    try:
        run_in_pool([[partial(call, 0)], [partial(call, 1)]], workers=2, show=lambda: None, saved="runs")
    except Stopped as stopped:
        sys.exit(str(stopped))
"""


def test_ctrl_c_is_one_line_whatever_a_worker_does(tmp_path):
    """The terminal sends it to all: one waits for a call that does not come, one works and knows of no signal."""
    (tmp_path / "idle.py").write_text(IDLE)
    process = subprocess.Popen(
        [sys.executable, "idle.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in "01") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said == "stopped; finished and unfinished runs are saved in runs, run the same command to resume\n"


def test_results_come_in_the_order_of_the_calls(tmp_path):
    found = run_in_pool(_calls(tmp_path, 2, 1), workers=2, show=lambda: None, saved="runs")
    assert found == [2, 1]


def _note(file: Path, name: str, before: str = "") -> str:
    with file.open("a") as notes:
        notes.write(f"{name} ")
    return before + name


def test_a_chain_goes_on_behind_the_calls_that_wait(tmp_path):
    """Long calls first: short ones that follow them fill the gap at the end."""
    file = tmp_path / "notes"
    chains = [[partial(_note, file, name) for name in names] for names in (("a1", "a2", "a3"), ("b1",), ("c1", "c2"))]
    assert run_in_pool(chains, workers=1, show=lambda: None, saved="runs") == ["a1a2a3", "b1", "c1c2"]
    order = file.read_text().split()
    assert order[:3] == ["a1", "b1", "c1"]
    assert order.index("a2") < order.index("a3")
    assert sorted(order) == ["a1", "a2", "a3", "b1", "c1", "c2"]


def test_what_fails_ends_its_chain(tmp_path):
    with pytest.raises(Stopped):
        run_in_pool(
            [[partial(_stop_or_begin, tmp_path, number) for number in (0, 1)]],
            workers=1,
            show=lambda: None,
            saved="runs",
        )
    assert list(tmp_path.iterdir()) == []
