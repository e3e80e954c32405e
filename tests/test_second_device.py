"""`--device cuda` gives what the CPU gives: on a device that computes like the CPU, and on CUDA where there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

SCRIPT = Path(__file__).with_name("second_device.py")
SMALL = "--preset tiny --steps 12 --batch 4 --seq-len 32 --threads 1 --log-every 4 --eval-every 6 --save-every 5"
# Every family; every method with a way of its own to change the model or its masks.
TRAINED = {
    "gpt2-est": "--method est",
    "llama-est": "--family llama --method est",
    "bert-raptr": "--family bert --method raptr",
    "t5-est": "--family t5 --method est",
    "msg": "--method msg",
    "staged": "--method staged --schedule 4:0.5,0.5,0.5;12:1,1,1",
    "stacking": "--method gradual_stacking --schedule 4:1,1,0.5;12:1,1,1",
    "dropout": "--method dropout",
}
MEASURED = {
    "taylor": "trace gpt2 --engine taylor",
    "hvp": "trace gpt2 --engine hvp --by-layer",
    "fisher": "trace gpt2 --engine fisher",
    "t5": "trace t5 --engine taylor",
}
DEVICES = [
    pytest.param("second", id="second"),
    pytest.param(
        "cuda",
        id="cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture
def text(tmp_path, shared):
    """A file of few bytes: a device written in Python is slow."""
    path = tmp_path / "text.txt"
    path.write_text((shared / "text.txt").read_text()[:6_000])
    return path


@pytest.fixture
def est(tmp_path, shared):
    """Runs commands on a device, in one process of its own; they all have to end well."""

    def run(device, commands):
        environment = os.environ | {"EST_ANALYSIS_CACHE": str(shared / "cache"), "HF_HUB_OFFLINE": "1"}
        script = [sys.executable, str(SCRIPT), device]
        asked = json.dumps([command.split() for command in commands])
        ended = subprocess.run(script, input=asked, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert json.loads(ended.stdout.splitlines()[-1]) == [None] * len(commands), ended.stderr[-3000:]

    return run


def measurements(path):
    """A row for each (micro-batch, probe): the loss, the trace and its parts."""
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [[row["loss"], *np.ravel(row["values"]), *np.ravel(row["blocks"])] for row in rows]


@pytest.mark.parametrize("device", DEVICES)
def test_training(device, est, text, tmp_path):
    """The losses of every row, through stages, growth and a checkpoint."""
    runs = {name: method for name, method in TRAINED.items() if (device, name) != ("cuda", "dropout")}  # other draws
    for where in ("cpu", device):
        est(where, [f"train {method} {SMALL} --corpus {text} --out {where}/{name}" for name, method in runs.items()])
    for name in runs:
        ours, theirs = (pd.read_csv(tmp_path / where / name / "rows.csv") for where in (device, "cpu"))
        losses = [rows[rows["metric"].str.endswith("loss")].reset_index(drop=True) for rows in (ours, theirs)]
        assert len(losses[0]) > 5
        pd.testing.assert_frame_equal(*losses, rtol=1e-5, obj=name)  # some kernels are the CPU's own


@pytest.mark.parametrize("device", DEVICES)
def test_measuring(device, est, text, tmp_path):
    """Traces by every engine, and what a layer's bypass does."""
    est(
        "cpu",
        [f"train --family {family} --method full {SMALL} --corpus {text} --out {family}" for family in ("gpt2", "t5")],
    )
    few = f"--text {text} --seq-len 32 --micro-batch 2 --probes 1 --max-pairs 4"
    for where in ("cpu", device):
        traces = [f"{command} {few} --out {where}-{name}.json" for name, command in MEASURED.items()]
        est(where, [*traces, f"stability gpt2 --text {text} --seq-len 32"])
    for name in MEASURED:
        ours, theirs = (measurements(tmp_path / f"{where}-{name}.json") for where in (device, "cpu"))
        assert len(ours) == 4
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3, err_msg=name)


def test_the_second_device_refuses_what_cuda_would():
    """Else the tests above could not fail."""
    lines = (
        "import torch; from second_device import second_device",
        "with second_device():",
        "    a = torch.ones(2, 3, device='cuda')",
        "    assert (a.device.type, a[torch.tensor([0, 1])].sum().item()) == ('elsewhere', 6)",
        "    assert a.cpu().device.type == 'cpu'",
        "    for wrong in ('a + torch.ones(2, 3)', 'a.index_select(0, torch.tensor([0]))', 'a @ torch.ones(3)'):",
        "        try: eval(wrong)",
        "        except RuntimeError as error: assert 'tensors on two devices' in str(error)",
        "        else: raise AssertionError(wrong)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=SCRIPT.parent)
