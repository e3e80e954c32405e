"""Random signs from a counter: sign number j of a probe is a pure function of (seed, probe, parameter name, j).

Nothing is stored and nothing is drawn in order, so any shard, any device and any engine gets the same probe, and a part
of a parameter gets its part of the signs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"), as signed 64-bit integers.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shifted(words: Tensor, by: int) -> Tensor:
    return (words >> by) & ((1 << (64 - by)) - 1)  # torch's >> keeps the sign


def _random_words(keys: Tensor, first: int, stop: int) -> Tensor:
    """Words `first` to `stop` of each stream, 64 random bits each: (streams,) keys -> (streams, stop - first) int64."""
    words = torch.arange(first + 1, stop + 1, device=keys.device).mul_(_GAMMA) + keys[:, None]
    words = words.bitwise_xor_(_shifted(words, 30)).mul_(_MIX_1)
    words = words.bitwise_xor_(_shifted(words, 27)).mul_(_MIX_2)
    return words.bitwise_xor_(_shifted(words, 31))


@lru_cache
def _sign_table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(256, 8): the eight signs of each octet, least significant bit first."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return (2 * bits - 1).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class Probes:
    """Probes number `numbers` of a seed: each has one sign (+1 or -1) for every element of every parameter.

    Attributes:
        seed: any integer.
        numbers: which probes; number k is the same wherever it is asked for.
    """

    seed: int
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def signs(self, name: str, start: int, stop: int, like: Tensor) -> Tensor:
        """Signs number `start` to `stop` of the parameter `name`, in its elements' row-major order.

        Args:
            name: of the parameter.
            start: first element.
            stop: one past the last.
            like: dtype and device of the result.

        Returns:
            (probes, stop - start) of +1 and -1.
        """
        keys = torch.tensor([self._key(number, name) for number in self.numbers], device=like.device)
        first = start // 64
        octets = _random_words(keys, first, -(-stop // 64)).view(torch.uint8)
        signs = F.embedding(octets.int(), _sign_table(like.dtype, like.device)).flatten(1)
        return signs[:, start - 64 * first : stop - 64 * first]

    def like(self, name: str, tensor: Tensor) -> Tensor:
        """All signs of the parameter `name`: (probes, *shape of `tensor`)."""
        return self.signs(name, 0, tensor.numel(), tensor).view(len(self), *tensor.shape)

    def __getitem__(self, index: int) -> "Probes":
        return Probes(self.seed, (self.numbers[index],))

    def _key(self, number: int, name: str) -> int:
        identity = repr((int(self.seed), "probe", int(number), name)).encode()
        return int.from_bytes(hashlib.sha256(identity).digest()[:8], "big", signed=True)
