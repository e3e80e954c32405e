"""Tables 8 and 9: the published speed-ups, planted times, and that the benchmark runs."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from est_analysis.exhibits.data import DataFolder
from est_analysis.exhibits.step_times import TIMED, WHOLE, table8, table9

ROOT = Path(__file__).parents[2]
# Milliseconds a token of a micro-batch: planted.
COST = {"full": 4.0, "stage 2": 2.0, "stage 1": 1.0}
FULL_STEP = "total time (ms) of stage 3 (original) training step"


def _times(preset="gpt2", family="gpt2", device="A GPU", modes=("eager", "compiled"), micro_batches=(8, 16)):
    parts = set(TIMED.values()) | {("step", "stage 1")}
    rows = [
        (device, family, preset, micro, part, active, mode, number, micro * COST[active] * factor + number - 1)
        for micro, (part, active), (mode, factor), number in product(
            micro_batches, parts, zip(modes, (1.0, 0.5), strict=False), range(3)
        )
    ]
    columns = ["device", "family", "preset", "micro_batch", "part", "active", "mode", "round", "milliseconds"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def folder(tmp_path):
    def write(*frames):
        pd.concat(frames).to_csv(tmp_path / "est_step_times.csv", index=False)
        return DataFolder(tmp_path)

    return write


def test_without_a_gpu_the_published_times_and_what_they_give():
    data = DataFolder(ROOT / "paper_figures" / "data")
    if data.find("step-times").frame is not None:
        pytest.skip("step times are committed")
    cells = table8(data).cells
    # By hand, micro-batches 8 and 48: the three stages take 20, 50 and 80 thousand steps.
    whole = 150 * 1065.23 / (20 * 525.55 + 50 * 721.37 + 80 * 1065.23)
    assert cells[WHOLE, "micro-batch size 48"].published == f"{whole:.2f}" == "1.21"
    assert cells[WHOLE, "micro-batch size 8"].published == "1.02"
    assert cells["speed-up of MHA", "micro-batch size 48"].published == "1.94"
    assert table9(data).cells[WHOLE, "micro-batch size 1"].published == "0.91"  # slower
    assert {cell.why.partition(":")[0] for cell in cells.values()} == {"this needs a GPU"}


def test_planted_times(folder):
    cells = table8(folder(_times())).cells
    step = cells[FULL_STEP, "micro-batch size 16"]
    assert (step.published, step.ours.effect, step.ours.interval, step.ours.seeds) == ("388.46", 64.0, (63.0, 65.0), 3)
    assert cells["speed-up of stage 1", "micro-batch size 8"].ours.effect == 4.0
    assert cells["speed-up of MLP", "micro-batch size 8"].ours.effect == 2.0
    assert cells[WHOLE, "micro-batch size 8"].ours.effect == pytest.approx(150 / (20 / 4 + 50 / 2 + 80))
    compiled = cells[f"{FULL_STEP}, compiled (ours)", "micro-batch size 16"]
    assert (compiled.published, compiled.ours.effect) == ("", 32.0)
    assert cells[FULL_STEP, "micro-batch size 48"].why == "not timed at a micro-batch of 48"


def test_rows_keep_their_order(folder):
    rows = table8(folder(_times())).rows
    assert rows[: len(TIMED)] == list(TIMED)
    assert all(row.endswith("compiled (ours)") for row in rows[len(rows) // 2 :])


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ((_times(preset="tiny"),), "no times of 'gpt2'"),
        ((_times(), _times(device="Another")), "several devices"),
        ((_times(family="llama", preset="tinyllama"),), "no times of 'gpt2'"),
    ],
)
def test_times_of_something_else_are_not_shown(folder, frames, why):
    assert all(why in cell.why for cell in table8(folder(*frames)).cells.values())


def test_the_benchmark_runs_on_a_cpu(tmp_path):
    out = tmp_path / "times.csv"
    command = [sys.executable, str(ROOT / "benchmarks" / "est_tables_8_9.py"), "--smoke", "--family", "llama"]
    options = ["--modes", "eager", "--rounds", "1", "--out", str(out)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # tests run side by side
    subprocess.run([*command, *options], check=True, capture_output=True, text=True, env=one_thread)
    frame = pd.read_csv(out)
    assert set(zip(frame["part"], frame["active"], strict=True)) == set(TIMED.values()) | {("step", "stage 1")}
    assert (frame["milliseconds"] > 0).all()
    assert set(frame["micro_batch"]) == {1, 2}
