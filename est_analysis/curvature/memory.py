"""Memory, planned before anything is measured: what an engine will hold at its peak, and the batch that fits."""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.errors import InputError

_TOKENS = 256  # a micro-batch: enough for fast products, few enough for many independent measurements
_SPARE = 256 << 20  # what libraries take on first use


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure at once.

    Attributes:
        micro_batch: sequences.
        probes: directions.
        peak_bytes: predicted peak of this process (on a GPU: of its memory), model included.
    """

    micro_batch: int
    probes: int
    peak_bytes: int


def available_bytes(device: torch.device) -> int:
    """Memory this process may still take: of the GPU, or of the machine or its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _container_limit() - psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """The most memory this process has held since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far of what `Plan.peak_bytes` predicts: the GPU's, or this process's."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()


def plan(
    objective: LanguageModelObjective, *, engine: str, seq_len: int, micro_batch: int | None, probes: int | None
) -> Plan:
    """A micro-batch and number of probes that fit into memory; those given are kept.

    Raises:
        InputError: what was asked for, or even one sequence and one probe, does not fit.
    """
    device = next(iter(objective.parameters.values())).device
    limit = int(0.9 * available_bytes(device))
    widths = _Widths.of(objective)
    batches = [micro_batch] if micro_batch else [max(1, _TOKENS // seq_len), 1]
    counts = [probes] if probes else [2, 1]
    for batch in batches:
        for count in counts:
            extra = _extra_bytes(objective, widths, engine=engine, tokens=batch * seq_len, probes=count)
            if extra <= limit:
                return Plan(micro_batch=batch, probes=count, peak_bytes=_held_bytes(device) + extra)
    raise InputError(
        f"measuring {batch} x {seq_len} tokens along {count} probes takes {extra / 2**30:.1f} GiB beside the model "
        f"and {limit / 2**30:.1f} GiB are free; use a smaller --seq-len, --micro-batch or --probes"
    )


@dataclass(frozen=True)
class _Widths:
    """Numbers a token that a forward pass makes.

    Attributes:
        widest: the largest output of a module, the head's logits left out.
        total: of all modules without children: what a graph keeps.
    """

    widest: int
    total: int

    @classmethod
    def of(cls, objective: LanguageModelObjective) -> "_Widths":
        """Seen in one pass over a few tokens."""
        tokens, seen = 4, []

        def note(module: nn.Module, args, output) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                seen.append(first.numel() // tokens)

        # What stands for the logits has their shape and not their memory.
        leaves = [m for m in objective.model.modules() if not any(m.children()) and m is not objective.head.module]
        hooks = [module.register_forward_hook(note) for module in leaves]
        ids = torch.zeros(1, tokens, dtype=torch.long, device=next(objective.model.parameters()).device)
        try:
            with torch.no_grad():
                objective.token_losses(objective.parameters, {"input_ids": ids, "targets": ids})
        finally:
            for hook in hooks:
                hook.remove()
        return cls(max(seen), sum(seen))


def _extra_bytes(
    objective: LanguageModelObjective, widths: _Widths, *, engine: str, tokens: int, probes: int
) -> int:  # fmt: skip
    sizes = [p.numel() for p in objective.parameters.values()]
    dtype = next(iter(objective.parameters.values())).dtype
    vocabulary = objective.model.config.get_text_config().vocab_size
    if engine == "taylor":
        coefficients = 1 + 2 * probes if probes == 2 else 3 + probes
        # A block holds its input, the widest stack, what is made of it and a temporary; the head a chunk of logits.
        numbers = 6 * coefficients * tokens * widths.widest + 2 * max(sizes) + 4 * min(tokens * vocabulary, 1 << 23)
        numbers += 8 << 21  # scores of attention, a chunk at a time
    else:
        # A graph of the gradient's graph: activations some five times, logits too, and gradient, probe and product.
        graphs = 5 if engine == "hvp" else 2
        numbers = graphs * tokens * (2 * widths.total + 2 * vocabulary) + (4 if engine == "hvp" else 2) * sum(sizes)
    return int(numbers * max(4, dtype.itemsize)) + _SPARE


def _held_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    # Pages of a mapped checkpoint count for the peak even where they could be dropped.
    return max(psutil.Process().memory_info().rss, peak_rss_bytes())


def _container_limit() -> int:
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
