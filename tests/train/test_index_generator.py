import threading
import time
from dataclasses import dataclass, field

import pytest

from est_analysis.methods import METHODS
from est_analysis.train.index_generator import IndexGenerator


def content(mask):
    """A mask as plain values."""
    if mask is None:
        return None

    def plain(index):
        return None if index is None else index.tolist()

    return [
        layer and (plain(layer.heads), plain(layer.columns), layer.head_scale, layer.scale, layer.sublayer_scale)
        for layer in mask.layers
    ]


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "index-generator"]


@dataclass
class Recorder:
    """A method that notes which masks were asked for, and fails at one step."""

    fails_at: int = 10**9
    drawn: list[int] = field(default_factory=list)

    def mask(self, step):
        self.drawn.append(step)
        if step == self.fails_at:
            raise RuntimeError(f"no mask for step {step}")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_the_same_masks_however_far_ahead(harness, tmp_path, name, ahead):
    method = harness.job(tmp_path, method=name).method
    expected = [content(method.mask(step)) for step in range(3, 13)]
    with IndexGenerator(method, 3, 12, ahead=ahead) as masks:
        assert [content(mask) for mask in masks] == expected
    assert not alive()


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_queue_is_bounded(ahead):
    method = Recorder()
    with IndexGenerator(method, 1, 50, ahead=ahead) as masks:
        iterator = iter(masks)
        for consumed in range(1, 8):
            next(iterator)
            # Full: the block in use, one waiting, and one in the hands of the thread.
            drawn = (-(-consumed // ahead) + 2) * ahead
            deadline = time.monotonic() + 5
            while len(method.drawn) < drawn and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert method.drawn == list(range(1, drawn + 1))


def test_nothing_is_drawn_ahead_inline():
    method = Recorder()
    with IndexGenerator(method, 1, 50, ahead=0) as masks:
        for step, _ in enumerate(masks, start=1):
            assert method.drawn == list(range(1, step + 1))
            assert not alive()


@pytest.mark.parametrize("ahead", [0, 1, 8])
def test_an_error_is_raised_at_its_own_step(ahead):
    seen = []
    with IndexGenerator(Recorder(fails_at=4), 1, 9, ahead=ahead) as masks:
        iterator = iter(masks)
        for _ in range(3):
            seen.append(next(iterator))
        with pytest.raises(RuntimeError, match="no mask for step 4"):
            next(iterator)
    assert seen == [None] * 3
    assert not alive()


def leave_by_break(masks):
    for _ in masks:
        break


def leave_by_error(masks):
    for _ in masks:
        raise ZeroDivisionError


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, lambda masks: None])
def test_the_thread_ends_with_the_block(leave):
    start = time.monotonic()
    try:
        with IndexGenerator(Recorder(), 1, 10**6, ahead=4) as masks:
            assert len(alive()) == 1
            leave(masks)
    except ZeroDivisionError:
        pass
    assert not alive()
    assert time.monotonic() - start < 2  # it looks up ten times a second


def test_an_empty_range_gives_nothing():
    with IndexGenerator(Recorder(), 5, 4, ahead=2) as masks:
        assert list(masks) == []


def test_training_leaves_no_thread(harness, tmp_path):
    harness.train(tmp_path / "whole", steps=4)
    assert not alive()
    with pytest.raises(harness.Killed):
        harness.train(tmp_path / "killed", at=2)
    assert not alive()
