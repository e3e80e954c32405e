"""Dropout of single units from a named stream: no global randomness, the same again when a run is resumed."""

from typing import Literal

import torch
from torch import Tensor

from est_analysis.rng import stream
from est_analysis.subnet.mask import UnitDropout


def drop_units(x: Tensor, dropout: UnitDropout | None, name: Literal["heads", "cross heads", "columns"]) -> Tensor:
    """What a mask's dropout leaves of `x`; all of it without one.

    Args:
        x: any shape, rows of the batch first.
        dropout: of the layer's mask.
        name: what `x` is, which gives it a stream of its own.
    """
    if dropout is None:
        return x
    keep = dropout.columns if name == "columns" else dropout.heads
    return keep_some(x, keep, *dropout.stream, name, part=dropout.part)


@torch.compiler.disable  # a stream is named anew every step, which would be compiled anew
def keep_some(x: Tensor, keep: float, seed: int, *names: int | str, part: int = 0) -> Tensor:
    """Each number of `x` kept with probability `keep` and divided by it, else 0 (Srivastava et al. 2014, inverted).

    Args:
        x: any shape, rows of the batch first.
        keep: in (0, 1]; 1 draws nothing.
        seed: of the stream that draws.
        names: of that stream (`rng.stream`).
        part: number of `x` among equal parts of a batch; what is drawn for those before it is passed over.
    """
    if keep == 1:
        return x
    # Drawn on the CPU, so that a seed means the same on every device.
    generator, draws = stream(seed, *names), torch.empty(x.shape, dtype=torch.float32)
    for _ in range(part + 1):
        draws.uniform_(generator=generator)
    draws = draws.to(x.device)
    # At least in float32: 1/keep in bfloat16 would be off by up to 0.2 % everywhere.
    kept = (draws < keep).to(torch.promote_types(x.dtype, torch.float32)).div_(keep)
    return (x * kept).to(x.dtype)
