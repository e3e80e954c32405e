from dataclasses import replace

import huggingface_hub.constants
import pytest


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, shared):
    """No test reaches the hub, nor the user's own cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(shared / "cache"))


@pytest.fixture(scope="session")
def changed():
    """`spec` with some fields changed, those of `settings` by `settings__name`."""

    def change(spec, **fields):
        inner = {name.removeprefix("settings__"): value for name, value in fields.items() if "settings__" in name}
        outer = {name: value for name, value in fields.items() if "settings__" not in name}
        return replace(spec, **outer, settings=replace(spec.settings, **inner))

    return change
