import random
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import torch

# Tests run side by side, one process a core.
torch.set_num_threads(1)

# Test folders are no packages, so the generators of known frames are run rather than imported.
tidy_frame = run_path(str(Path(__file__).parent / "synthetic.py"))["tidy_frame"]
polynomials = run_path(str(Path(__file__).parent / "synthetic_polynomials.py"))


@pytest.fixture(scope="session")
def make_frame():
    """Makes a tidy frame whose every effect is known."""
    return tidy_frame


@pytest.fixture(scope="session")
def make_polynomials():
    """Makes a tidy frame of polynomial runs whose every effect is known."""
    return polynomials["polynomial_frame"]


@pytest.fixture(scope="session")
def planted():
    """The effects that `make_polynomials` plants, by name."""
    return SimpleNamespace(**{name: value for name, value in polynomials.items() if name.isupper()})


@pytest.fixture
def frame():
    """A tidy frame of three methods and three seeds whose every effect is known."""
    return tidy_frame()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder with a small text and the cache of its tokens."""
    folder = tmp_path_factory.mktemp("shared")
    draw = random.Random(0)
    words = ["the", "model", "layer", "rate", "depth", "step", "of", "a", "mask"]
    text = "\n".join(" ".join(draw.choices(words, k=12)) for _ in range(1500))
    (folder / "text.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def spec(shared):
    """A run of four steps."""
    from est_analysis.experiments.runs.spec import (
        TrainSpec,  # not at the top: shapes are checked in what is imported later
    )
    from est_analysis.train.settings import Settings

    settings = Settings(steps=4, log_every=2, eval_every=2, save_every=2)
    return TrainSpec(
        corpus=str(shared / "text.txt"), batch_size=4, seq_len=32, validation_tokens=256, settings=settings
    )


@pytest.fixture(scope="session")
def quiet():
    """On one thread, without a progress bar."""
    from est_analysis.train.settings import Execution

    return Execution(threads=1, progress=False)
