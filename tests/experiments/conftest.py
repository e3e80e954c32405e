from dataclasses import replace

import huggingface_hub.constants
import pytest

from est_analysis.experiments.spec import TrainSpec
from est_analysis.train.settings import Execution, Settings


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, shared):
    """No test reaches the hub, nor the user's own cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(shared / "cache"))


@pytest.fixture(scope="session")
def spec(shared):
    """A run of four steps."""
    settings = Settings(steps=4, log_every=2, eval_every=2, save_every=2)
    return TrainSpec(
        corpus=str(shared / "text.txt"), batch_size=4, seq_len=32, validation_tokens=256, settings=settings
    )


@pytest.fixture(scope="session")
def changed():
    """`spec` with some fields changed, those of `settings` by `settings__name`."""

    def change(spec, **fields):
        inner = {name.removeprefix("settings__"): value for name, value in fields.items() if "settings__" in name}
        outer = {name: value for name, value in fields.items() if "settings__" not in name}
        return replace(spec, **outer, settings=replace(spec.settings, **inner))

    return change


@pytest.fixture(scope="session")
def quiet():
    return Execution(threads=1, progress=False)
