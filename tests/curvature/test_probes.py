"""Probes: pure functions of where a sign is asked for, fair, and independent of each other."""

import itertools
import math

import pytest
import torch

from est_analysis.curvature import probes as module
from est_analysis.curvature.probes import Probes

COUNT = 1 << 14


def test_signs_depend_on_seed_number_name_and_position_alone():
    weight = torch.zeros(5, 30)
    signs = Probes(3, (0, 7, 2)).like("w", weight)
    assert signs.shape == (3, 5, 30)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    for row, number in enumerate((0, 7, 2)):
        assert torch.equal(Probes(3, (number,)).like("w", weight)[0], signs[row])
        assert torch.equal(Probes(3, range(number + 1))[number].like("w", weight)[0], signs[row])
    assert torch.equal(Probes(3, (0, 7, 2)).like("w", torch.zeros(150)).view(3, 5, 30), signs), "not on the shape"
    others = [Probes(4, (0,)), Probes(3, (1,)), Probes(-3, (0,))]
    changed = [other.like("w", weight)[0] for other in others] + [Probes(3, (0,)).like("v", weight)[0]]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations([signs[0], *changed], 2))


def test_numbers_that_numpy_or_torch_hold_are_numbers():
    plain = Probes(3, (5,)).like("w", torch.zeros(70))
    assert torch.equal(Probes(torch.tensor(3), torch.tensor([5])).like("w", torch.zeros(70)), plain)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, 64), (63, 65), (64, 128), (1, 200), (100, 100), (130, 131), (199, 200)]
)
def test_a_slice_is_that_of_the_whole(start, stop):
    probes, like = Probes(0, range(3)), torch.zeros(200)
    whole = probes.signs("w", 0, 200, like)
    assert torch.equal(probes.signs("w", start, stop, like), whole[:, start:stop])


def test_far_positions_and_empty_parameters():
    probes, like = Probes(0, range(2)), torch.zeros(())
    far = 10**12 + 7
    assert torch.equal(probes.signs("w", far, far + 9, like)[:, 4:], probes.signs("w", far + 4, far + 9, like))
    assert probes.like("w", torch.zeros(3, 0)).shape == (2, 3, 0)
    assert probes.like("w", like).shape == (2,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_same_in_every_dtype(dtype):
    signs = Probes(0, range(3)).like("w", torch.zeros(200, dtype=dtype))
    assert signs.dtype == dtype
    assert torch.equal(signs.double(), Probes(0, range(3)).like("w", torch.zeros(200)).double())


def test_signs_are_what_they_always_were():
    """Stored results name a seed: another stream of signs would make them irreproducible."""
    signs = Probes(0, (0, 1)).like("w", torch.zeros(16))
    text = ["".join("-+"[int(sign > 0)] for sign in row) for row in signs]
    assert text == ["-++-++-+++---+-+", "----+--+--+++++-"]


def test_the_global_generator_is_untouched():
    state = torch.get_rng_state()
    Probes(0, range(3)).like("w", torch.zeros(200))
    assert torch.equal(torch.get_rng_state(), state)


def _unfair(signs):
    """The largest |mean| among products of pairs of rows, and of rows alone, in deviations of one such mean.

    A mean of n independent fair signs has deviation 1 / sqrt(n).
    """
    pairs = [(a * b).mean() for a, b in itertools.combinations(signs, 2)]
    return max(abs(mean) for mean in [*signs.mean(1), *pairs]).item() * math.sqrt(signs.shape[1])


def _rows():
    """Signs of several seeds, probes and names, and of neighbours in one stream: 8 x 64 rows of them in all."""
    like = torch.zeros(COUNT)
    streams = [(seed, number, name) for seed in (0, 1) for number in (0, 1) for name in ("a", "b")]
    whole = torch.cat([Probes(seed, (number,)).like(name, like) for seed, number, name in streams])
    shifted = torch.stack([whole[0].roll(by) for by in (1, 2, 3, 8, 63, 64, 65, 128)])
    return torch.cat([whole, shifted])


# 16 means and 120 products: the largest of 136 deviations exceeds 4.5 once in a thousand seeds, and the seed is fixed.
LIMIT = 4.5


def test_signs_are_fair_and_pairwise_independent():
    assert _unfair(_rows()) < LIMIT


def test_the_bits_of_a_word_are_fair_and_pairwise_independent():
    bits = Probes(0, (0,)).like("w", torch.zeros(64 * COUNT)).view(COUNT, 64).T.contiguous()
    # 64 means and 2016 products: the largest of 2080 deviations exceeds 5 once in a thousand seeds.
    assert _unfair(bits) < 5


@pytest.mark.parametrize("mutant", ["biased", "same for all names", "counter shared by probes", "words repeated"])
def test_planted_mutants_are_caught(mutant, monkeypatch):
    words, key = module._random_words, Probes._key
    if mutant == "biased":  # one bit in sixteen is set always
        monkeypatch.setattr(module, "_random_words", lambda *args: words(*args) | 0x0001_0001_0001_0001)
    elif mutant == "same for all names":
        monkeypatch.setattr(Probes, "_key", lambda self, number, name: key(self, number, "w"))
    elif mutant == "counter shared by probes":
        monkeypatch.setattr(Probes, "_key", lambda self, number, name: key(self, 0, name))
    else:
        monkeypatch.setattr(
            module,
            "_random_words",
            lambda keys, a, b: words(keys, a // 2, -(-b // 2)).repeat_interleave(2, 1)[:, a % 2 :][:, : b - a],
        )
    assert _unfair(_rows()) > LIMIT
