import ctypes
import sys

import pytest
import torch

from est_analysis.train.allocator import keep_freed_memory


def test_says_whether_it_could():
    assert keep_freed_memory() in (True, False)
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        assert keep_freed_memory() is True
    assert float(torch.ones(1 << 22).sum()) == 1 << 22  # memory still works


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_it_does_nothing(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_another_libc(monkeypatch, error):
    def absent(name):
        raise error(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert keep_freed_memory() is False
