import random

import huggingface_hub.constants
import pytest


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No test reaches the hub, nor the user's own cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(tmp_path / "default-cache"))


@pytest.fixture
def folder(tmp_path):
    """30 small text files, some of them held out, with accents, CRLF and emoji in them."""
    root = tmp_path / "texts"
    (root / "sub").mkdir(parents=True)
    draw = random.Random(0)
    words = ["the", "model", "été", "layer", "😀", "rate", "depth"]
    for i in range(30):
        text = "\r\n".join(" ".join(draw.choices(words, k=20)) for _ in range(10))
        (root / ("sub" if i % 2 else ".") / f"{i}.txt").write_bytes(text.encode())
    return root
