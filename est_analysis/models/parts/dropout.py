"""Dropout of single units from a named stream: no global randomness, the same again when a run is resumed."""

import torch
from torch import Tensor

from est_analysis.rng import stream


@torch.compiler.disable  # a stream is named anew every step, which would be compiled anew
def drop_units(x: Tensor, keep: float, seed: int, *names: int | str) -> Tensor:
    """Each number of `x` kept with probability `keep` and divided by it, else 0 (Srivastava et al. 2014, inverted).

    Args:
        x: any shape.
        keep: in (0, 1]; 1 draws nothing.
        seed: of the stream that draws.
        names: of that stream (`rng.stream`).
    """
    if keep == 1:
        return x
    # Drawn on the CPU, so that a seed means the same on every device.
    draws = torch.rand(x.shape, generator=stream(seed, *names), dtype=torch.float32).to(x.device)
    # At least in float32: 1/keep in bfloat16 would be off by up to 0.2 % everywhere.
    kept = (draws < keep).to(torch.promote_types(x.dtype, torch.float32)).div_(keep)
    return (x * kept).to(x.dtype)
