import subprocess
import sys

import pytest


def _loads_torch(statement):
    probe = f"import sys; {statement}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "True"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import est_analysis", False),
        ("import est_analysis.errors", False),
        ("import est_analysis.plots", False),
        ("import est_analysis.exhibits.script", False),
        ("import est_analysis.rng", True),  # planted: the probe can tell
    ],
)
def test_drawing_a_figure_never_loads_torch(statement, expected):
    assert _loads_torch(statement) is expected
