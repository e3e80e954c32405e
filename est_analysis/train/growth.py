"""Growing a model in training: layers that become copies of others, with what the optimizer knows of them.

Tensors are overwritten, never replaced, so the optimizer, a compiled block and a checkpoint keep what they refer to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from est_analysis.methods import Growth


@torch.no_grad()
def apply_growth(blocks: Sequence[nn.Module], optimizer: torch.optim.Optimizer, growth: Growth) -> None:
    """Carry out `growth` on the layers `blocks` and the state of `optimizer`, all sources read before any is written.

    Args:
        blocks: every layer of the model, first to last; layers that are copied must have the same parameters.
        optimizer: holds the parameters of `blocks`; AdamW, or any that keeps its state parameter by parameter.
        growth: which layer becomes a copy of which, and what the optimizer then knows (`methods.Growth`).
    """
    read = [
        (target, parameter.clone(), _copy(optimizer.state.get(parameter, {})))
        for into, source in growth.copies
        for target, parameter in zip(blocks[into].parameters(), blocks[source].parameters(), strict=True)
    ]
    for target, value, state in read:
        target.copy_(value)
        # Without state a parameter is new to the optimizer: zero moments, step count zero.
        optimizer.state.pop(target, None)
        if growth.optimizer == "copy" and state:
            optimizer.state[target] = state
    if growth.optimizer == "reset_all":
        optimizer.state.clear()


def _copy(state: dict) -> dict:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
