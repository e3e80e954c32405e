from pathlib import Path
from runpy import run_path

import pytest

# Test folders are no packages, so the shared generator is run rather than imported.
tidy_frame = run_path(str(Path(__file__).parents[1] / "claims" / "synthetic.py"))["tidy_frame"]


@pytest.fixture(scope="session")
def make_frame():
    return tidy_frame


@pytest.fixture
def frame():
    return tidy_frame()
