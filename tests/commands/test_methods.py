"""`est methods`: complete, and the numbers of the schedules it stands on."""

import json
import os
import subprocess
import sys

import pytest

from est_analysis.methods import METHODS, method_options


@pytest.fixture
def listed(est):
    return json.loads(est("methods", "--json").out)


def test_every_method_with_its_options_and_cost(listed):
    assert (listed["model"], listed["architecture"]["seq_len"]) == ("gpt2", 1024)
    assert list(listed["methods"]) == list(METHODS)
    for name, record in listed["methods"].items():
        assert record["options"] == method_options(name)
        assert record["default_schedule"] == METHODS[name].default_schedule
        assert record["refused"] is None
        cost = record["cost"]
        # GPT-2's layers are 270336 of 370850 parts of all (test_flops); these two save of the head as well.
        if name not in {"short", "staged"}:
            assert cost["true_saving"] == pytest.approx(cost["paper_saving"] * 270336 / 370850, rel=1e-12, abs=1e-12)
        assert cost["ideal_speedup"] == pytest.approx(1 / (1 - cost["true_saving"] / 100), rel=1e-12)
    savings = {name: round(record["cost"]["paper_saving"], 1) for name, record in listed["methods"].items()}
    assert (savings.pop("full"), savings.pop("est"), savings.pop("progressive_stacking")) == (0, 26.7, 18.1)
    assert (savings.pop("msg"), savings.pop("structured_dropout"), savings.pop("dropout")) == (22.1, 0, 0)
    assert (savings.pop("short"), savings.pop("staged")) == (26.7, 23.5)
    assert set(savings.values()) == {25.0}


def test_a_method_that_does_not_fit_says_why_and_the_others_stay(est):
    records = json.loads(est("methods", "--model", "tinyllama", "--json").out)["methods"]
    refused = {name for name, record in records.items() if record["refused"]}
    assert refused == {name for name, record in records.items() if record["cost"] is None}
    assert refused == {"gradual_stacking", "progressive_stacking"}
    assert records["gradual_stacking"]["refused"].startswith("p_L=0.75 of 22 layers is 16.5 layers")
    assert "Does not fit: p_L=0.75 of 22 layers" in est("methods", "--model", "tinyllama").out


def test_a_table_for_a_person(est):
    out = est("methods").out
    words = ["26.7 %", "19.4 %", "1.241x", "arXiv 1909.11556", "optimizer=reset_all", "theta=None", "on gpt2"]
    for word in (*METHODS, *words):
        assert word in out


def test_a_terminal_that_knows_only_ascii():
    """Where a table is too narrow it has a sign beyond."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "est_analysis", "methods"], env=environment, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"gradual_stacking" in done.stdout
    assert b"?" in done.stdout
