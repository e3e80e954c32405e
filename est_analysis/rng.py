"""Named random streams: every draw in the package comes from a generator that is a pure function of (seed, names).

Nothing ever touches torch's global generator, and no draw depends on how many draws came before it elsewhere, so a
resumed run, another rank or a thread that runs ahead all see the same numbers.
"""

import hashlib

import torch


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for the stream `names` of `seed`.

    Args:
        seed: the run's seed, any integer.
        names: the path of the stream, such as `("mask", step)`; different paths give independent streams.
        device: where the numbers are drawn.

    Returns:
        A generator whose state depends on `seed` and `names` alone.

    >>> a, b = stream(0, "mask", 7), stream(0, "mask", 7)
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    # int(): a numpy or torch integer names the same stream as the Python one.
    key = repr((int(seed), *(name if isinstance(name, str) else int(name) for name in names))).encode()
    # 63 bits: manual_seed takes a signed 64-bit integer.
    digest = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
    return torch.Generator(device=device).manual_seed(digest)
