"""Several processes under torchrun: one mask for all, batches sharded by rank, active gradients all-reduced.

No wrapper: wrappers hang or fail when a bypassed layer gets no gradient. Since every rank draws the same mask, every
rank lacks the same gradients, and only those that exist are averaged.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from est_analysis.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among `world_size` equal ones."""

    rank: int = 0
    world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over all ranks (a new tensor)."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def any(self, flag: bool, device: str) -> bool:
        """Whether `flag` is set on any rank."""
        if self.world_size == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def mean_count(self, count: int, device: str) -> float:
        """Mean over ranks of a number that need not be the same on all of them."""
        if self.world_size == 1:
            return count
        return float(self.mean(torch.tensor(float(count), device=device)))

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Average, in one message, the gradients that exist; bypassed layers have none on any rank."""
        if self.world_size == 1:
            return
        active = [p.grad for p in parameters if p.grad is not None]
        joined = torch.cat([grad.flatten() for grad in active])
        dist.all_reduce(joined)
        joined /= self.world_size
        for grad, part in zip(active, joined.split([grad.numel() for grad in active]), strict=True):
            grad.copy_(part.view_as(grad))

    def union(self, items: list) -> list:
        """The items of all ranks, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return items
        gathered: list = [None] * self.world_size
        dist.all_gather_object(gathered, items)
        return [item for part in gathered for item in part]

    def wait(self) -> None:
        """Wait for every rank."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def ranks_from_environment(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun set up, or a single process without it; the process group is closed on the way out.

    All of them need the same files: each looks for itself how far a run has come.

    Raises:
        InputError: there is no card for each.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks()
        return
    _require_own_card(device, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
    card = torch.device(local_device(device))
    on_gpu = card.type == "cuda" and card.index is not None
    if on_gpu:
        torch.cuda.set_device(card)  # where messages of objects go
    dist.init_process_group("nccl" if card.type == "cuda" else "gloo", device_id=card if on_gpu else None)
    try:
        yield Ranks(rank=dist.get_rank(), world_size=dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _require_own_card(device: str, processes: int) -> None:
    """Refuse to let `processes` of this machine share a card."""
    if device.startswith("cuda:") and processes > 1:
        raise InputError(f"--device {device} is one card for {processes} processes; use --device cuda, a card each")
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device == "cuda" and local >= there:
        remedy = f"--nproc-per-node {there}" if there else "--device cpu"
        raise InputError(f"process {local} of this machine has no GPU, torch sees {there}; use {remedy}")


def local_device(device: str) -> str:
    """The device of this process: under torchrun, plain `cuda` becomes the card of its local rank."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device
