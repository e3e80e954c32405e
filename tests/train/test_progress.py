import re
from dataclasses import replace

import pytest

from est_analysis.train.progress import display


def test_plain_lines_in_a_log(harness, tmp_path, capsys):
    harness.train(tmp_path, replace(harness.quiet, progress=True))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    found = [re.fullmatch(r"est-test  step (\d+)/12  validation loss (\d\.\d{4})", line).groups() for line in lines]
    losses = harness.losses(tmp_path, "validation_loss")
    assert found == [(str(step), f"{loss:.4f}") for step, loss in losses.items()]


def test_a_resumed_run_says_so(harness, tmp_path, capsys):
    with pytest.raises(harness.Killed):
        harness.train(tmp_path, at=8)
    harness.train(tmp_path, replace(harness.quiet, progress=True))
    assert capsys.readouterr().err.splitlines()[0] == "est-test  step 6/12  resumed from step 6"


def test_nothing_unless_shown(harness, tmp_path, capsys):
    harness.train(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    with display("some-run", 10, shown=True) as screen:
        screen.advance(7)
        screen.note("validation loss 1.5000")
    err = capsys.readouterr().err
    assert "some-run" in err
    assert "7/10" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert "validation loss 1.5000" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
