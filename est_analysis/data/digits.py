"""Real images that need no download: the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn brings along.

Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from est_analysis.errors import InputError
from est_analysis.rng import stream

NUM_PIXELS, NUM_CLASSES = 64, 10
_BRIGHTEST = 16.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits:
    """Images and their classes.

    Attributes:
        x: pixels, 0 to 1, minus their mean over all images.
        y: which digit.
    """

    x: Float[Tensor, "B 64"]
    y: Int64[Tensor, " B"]


@lru_cache(maxsize=1)
def all_digits() -> Digits:
    """All images, in the data set's order.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # takes seconds to import
    except ImportError as missing:
        raise InputError(
            "the digits come with scikit-learn, which is not installed; pip install scikit-learn"
        ) from missing
    found = load_digits()
    x = torch.from_numpy(found.data).float() / _BRIGHTEST
    return Digits(x=x - x.mean(0), y=torch.from_numpy(found.target).long())


def split_digits(seed: int, *, held_out: int) -> tuple[Digits, Digits]:
    """(training images, `held_out` others), divided at random by `seed`.

    Raises:
        InputError: nothing would be left of one of the two.
    """
    data = all_digits()
    if not 0 < held_out < len(data.y):
        raise InputError(f"{held_out} of {len(data.y)} digits cannot be held out; use a number between")
    order = torch.randperm(len(data.y), generator=stream(seed, "split"))
    test, train = order[:held_out], order[held_out:]
    return Digits(x=data.x[train], y=data.y[train]), Digits(x=data.x[test], y=data.y[test])
