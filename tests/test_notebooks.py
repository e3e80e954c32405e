"""Every notebook runs at smoke scale, and the committed .ipynb is that source, executed."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_runs(source, tmp_path):
    environment = os.environ | {"EST_SCALE": "smoke", "EST_ANALYSIS_CACHE": str(tmp_path), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, source.name], cwd=source.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_committed_notebook_is_the_source_executed(source):
    built = jupytext.read(source.with_suffix(".ipynb"))
    written = [cell.source for cell in jupytext.read(source).cells]
    assert [cell.source for cell in built.cells] == written
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
