import timeit
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from est_analysis.data import Batches, validation_batches
from est_analysis.errors import InputError

RAMP = np.arange(1003, dtype=np.uint16)  # a token is its own position


def _equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _rows(batches, steps):
    return torch.cat([batches.batch(step)[0] for step in steps])


def test_shapes_and_shift():
    inputs, labels = Batches(RAMP, seq_len=10, batch_size=8, seed=0).batch(3)
    assert inputs.shape == labels.shape == (8, 10)
    assert inputs.dtype == labels.dtype == torch.int64
    assert inputs.is_contiguous()
    assert labels.is_contiguous()
    assert torch.equal(labels, (inputs + 1) % len(RAMP))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(-3, 2**64),
    steps=st.lists(st.integers(0, 500), min_size=1, max_size=8),
    world_size=st.sampled_from([1, 2, 4]),
)
def test_pure_in_step_for_any_order_and_rank_count(seed, steps, world_size):
    used = Batches(RAMP, seq_len=10, batch_size=12, seed=seed)
    for step in steps:
        fresh = Batches(RAMP, seq_len=10, batch_size=12, seed=seed).batch(step)
        parts = [used.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert all(len(part[0]) == 12 // world_size for part in parts)
        assert _equal([torch.cat(column) for column in zip(*parts, strict=True)], fresh)


def test_each_epoch_visits_each_window_once():
    batches = Batches(RAMP, seq_len=10, batch_size=20, seed=1)
    assert batches.num_windows == 100
    orders, phases = [], []
    for epoch in range(4):
        inputs = _rows(batches, range(5 * epoch, 5 * epoch + 5))  # (100, 10)
        counts = Counter(inputs.flatten().tolist())
        assert max(counts.values()) == 1, "no token twice in an epoch"
        assert len(counts) == 1000, "all but the remainder of 3"
        assert len(set((inputs[:, 0] % 10).tolist())) <= 2, "one grid of windows (two residues: it wraps)"
        starts = inputs[:, 0].tolist()
        left = (set(range(1003)) - set(counts)).pop()
        assert starts != sorted(starts)
        orders.append(starts)
        phases.append(left)
    assert len(set(phases)) > 1, "window borders move between epochs"
    assert all(a != b for a, b in pairwise(orders))


def test_seeds_differ():
    a, b = (Batches(RAMP, seq_len=10, batch_size=20, seed=seed).batch(0)[0] for seed in (0, 1))
    assert not torch.equal(a, b)


def test_batch_spans_epochs():
    """A batch size that does not divide the epoch loses and repeats no window."""
    one = Batches(RAMP, seq_len=10, batch_size=1, seed=2)
    seven = Batches(RAMP, seq_len=10, batch_size=7, seed=2)
    assert torch.equal(_rows(seven, range(43)), _rows(one, range(301)))
    # One batch over more than two epochs, on a text of two windows.
    tiny = np.arange(21)
    many = Batches(tiny, seq_len=10, batch_size=8, seed=2).batch(0)[0]
    assert torch.equal(many, _rows(Batches(tiny, seq_len=10, batch_size=1, seed=2), range(8)))
    for epoch in many.split(2):
        assert len(set(epoch.flatten().tolist())) == 20


def test_shortest_text():
    inputs, labels = Batches(np.arange(11), seq_len=10, batch_size=2, seed=0).batch(5)
    assert torch.equal(labels, (inputs + 1) % 11)


def test_global_random_state_is_untouched():
    torch.manual_seed(5)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches = Batches(RAMP, seq_len=10, batch_size=20, seed=0)
    first = batches.batch(0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(6)
    assert _equal(Batches(RAMP, seq_len=10, batch_size=20, seed=0).batch(0), first)


def test_memory_mapped_tokens(tmp_path):
    RAMP.tofile(tmp_path / "t.bin")
    mapped = np.memmap(tmp_path / "t.bin", dtype=np.uint16, mode="r")
    settings = {"seq_len": 10, "batch_size": 4, "seed": 0}
    assert _equal(Batches(mapped, **settings).batch(9), Batches(RAMP, **settings).batch(9))


def test_ids_beyond_16_bits():
    tokens = np.arange(70_000, 70_100, dtype=np.uint32)
    assert Batches(tokens, seq_len=10, batch_size=4, seed=0).batch(0)[0].min() >= 70_000


def test_batch_is_cheap():
    """0.03 ms is typical; the bound leaves room for a busy machine, and a permutation a step would take 10 ms."""
    batches = Batches(np.zeros(10_000_000, dtype=np.uint16), seq_len=128, batch_size=32, seed=0)
    steps = iter(range(2000))
    assert min(timeit.repeat(lambda: batches.batch(next(steps)), number=20, repeat=10)) / 20 < 0.5e-3


@pytest.mark.parametrize("name", ["seq_len", "batch_size"])
def test_sizes_must_be_positive(name):
    good = {"seq_len": 10, "batch_size": 4}
    with pytest.raises(InputError, match=f"{name}=0"):
        Batches(RAMP, **{**good, name: 0}, seed=0)
    with pytest.raises(InputError, match=f"{name}=-1"):
        validation_batches(RAMP, **{**good, name: -1}, max_tokens=100)


def test_bad_input():
    with pytest.raises(InputError, match="text of 10 tokens is shorter than one sequence; use seq_len <= 9"):
        Batches(np.arange(10), seq_len=10, batch_size=1, seed=0)
    batches = Batches(RAMP, seq_len=10, batch_size=6, seed=0)
    with pytest.raises(InputError, match="batch_size=6 cannot be shared by 4"):
        batches.batch(0, rank=0, world_size=4)
    with pytest.raises(InputError, match="step=-1"):
        batches.batch(-1)
    for rank in (-1, 2):
        with pytest.raises(InputError, match=f"rank={rank}"):
            batches.batch(0, rank=rank, world_size=2)
    with pytest.raises(InputError, match="max_tokens=9"):
        validation_batches(RAMP, seq_len=10, batch_size=1, max_tokens=9)
    with pytest.raises(InputError, match="shorter than one sequence"):
        validation_batches(np.arange(10), seq_len=10, batch_size=1, max_tokens=10)


@pytest.mark.parametrize(("max_tokens", "count"), [(10, 1), (70, 7), (79, 7), (1000, 100), (10**9, 100)])
def test_validation_windows(max_tokens, count):
    batches = validation_batches(RAMP, seq_len=10, batch_size=4, max_tokens=max_tokens)
    inputs = torch.cat([inputs for inputs, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert [len(inputs) for inputs, _ in batches] == [4] * (count // 4) + [count % 4] * bool(count % 4)
    assert torch.equal(labels, inputs + 1)
    assert len(set(inputs.flatten().tolist())) == 10 * count, "no token twice"
    gaps = inputs[:, 0].diff()
    assert count == 1 or gaps.max() - gaps.min() <= 10, "evenly spaced, to a window"
    assert count == 1 or inputs[-1, 0] >= 1000 - 2 * 1000 / count, "spread over the whole text"
    again = validation_batches(RAMP, seq_len=10, batch_size=4, max_tokens=max_tokens)
    assert all(_equal(a, b) for a, b in zip(batches, again, strict=True))
