"""One trace split over the layers and module kinds of a model, by the names that `transformers` gives its parameters.

A tied parameter exists once, under its first name: in most models a tied token embedding, the output matrix with it,
counts as embeddings (CamemBERT registers its head first, and there it counts as head).
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from est_analysis.curvature.estimate import Sample
from est_analysis.curvature.loss import Objective
from est_analysis.errors import InputError

# A number after one of these is a layer's; XLM keeps lists of parts rather than of layers.
_LAYERS = re.compile(r"h|layers?|blocks?|albert_layer_groups|attentions|ffns|layer_norm[12]")

# The first pattern found in the name, in lower case, decides. Norms stand inside everything else; attention comes
# before MLP because BERT's `output.dense` is attention's in `attention.output.dense` and the MLP's elsewhere.
_NORMS = ("norms", r"norm|(^|[._])ln[._\d]")
_ATTENTION = ("attention", r"attn|attention")
_INSIDE_LAYERS = (
    _NORMS,
    _ATTENTION,
    ("mlp", r"mlp|ffn|feed_?forward|\.(fc\d|intermediate|output)\.|dense_?relu|moe|expert"),
)
_OUTSIDE_LAYERS = (
    _NORMS,
    (
        "head",
        r"head|predictions|embed_out|pooler|classifier|project_out|(^|\.)(cls|score|pred_layer|vocab_\w+)\.|^decoder\.\w+$",
    ),
    ("embeddings", r"emb|(^|\.)(wte|wpe|w|shared|project_in)\."),
    _ATTENTION,
)


@dataclass(frozen=True, kw_only=True)
class BlockTrace:
    """The share of a group of parameters in a trace.

    Attributes:
        layer: "3", or "encoder 3" and "decoder 3" where a model has both; "-" outside layers and over all of them.
        kind: embeddings, norms, attention, mlp, head or other.
        parameters: numbers in the group.
        trace: of the group's diagonal block.
        stderr: its standard error; NaN of a single batch.
        weight_norm: Euclidean norm of the group's parameters.
        scale_invariant: |w|^2 tr / parameters, summed over the layers where the row spans several. Where a norm follows
            a group, the group's scale changes the trace but not the function, and does not change this.
    """

    layer: str
    kind: str
    parameters: int
    trace: float
    stderr: float
    weight_norm: float
    scale_invariant: float


def layer_of(name: str) -> int | None:
    """Number of the layer that the parameter `name` belongs to; None outside layers.

    >>> layer_of("transformer.h.3.attn.c_attn.weight"), layer_of("encoder.block.2.layer.1.DenseReluDense.wi.weight")
    (3, 2)
    >>> layer_of("transformer.wte.weight") is None
    True
    """
    parts = name.split(".")
    return next((int(part) for kind, part in pairwise(parts) if _LAYERS.fullmatch(kind) and part.isdecimal()), None)


def group_of(name: str) -> str:
    """Kind of module that the parameter `name` belongs to: embeddings, norms, attention, mlp, head or other.

    >>> group_of("transformer.h.3.ln_1.weight"), group_of("bert.encoder.layer.0.output.dense.weight")
    ('norms', 'mlp')
    """
    patterns = _OUTSIDE_LAYERS if layer_of(name) is None else _INSIDE_LAYERS
    return next((kind for kind, pattern in patterns if re.search(pattern, name.lower())), "other")


def by_batch(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """What `breakdown` takes, of measurements: later sweeps over the same batches add probes, not batches.

    Returns:
        (m, parameter tensors) float64, one row a batch, the mean over all its probes; and (m,), targets of each.
    """
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.batch, []).append(sample)
    rows = [np.average([s.blocks for s in same], axis=0, weights=[s.pairs for s in same]) for same in found.values()]
    return torch.tensor(np.array(rows)), torch.tensor([same[0].weight for same in found.values()]).double()


def by_kind(
    objective: Objective, samples: Sequence[Sample], *, kind_of: Callable[[str], str] = group_of
) -> dict[str, list[Sample]]:
    """The measurements of each kind of module alone: what `estimate.compare` takes.

    Args:
        objective: as in `breakdown`.
        samples: with their blocks.
        kind_of: as in `breakdown`.
    """
    groups = _grouped((kind_of(name),) for name in objective.parameters)
    return {
        kind: [replace(one, values=(sum(one.blocks[place] for place in members),)) for one in samples]
        for (kind,), members in groups.items()
    }


def breakdown(
    objective: Objective, blocks: Tensor, weights: Tensor | None = None, *, kind_of: Callable[[str], str] = group_of
) -> list[BlockTrace]:
    """The trace by layer and kind, in the model's order; the traces of all rows sum to the whole.

    The standard error is that of a ratio estimator over batches q_i of weight w_i (Cochran 1977, section 6.3):
    sqrt(m / (m - 1) sum_i w_i^2 (q_i - mean)^2) / sum_i w_i. Rows share batches and probes, so they are correlated.

    Args:
        objective: whose curvature it is.
        blocks: (m, parameter tensors), one row a batch, the mean over its probes, as `by_batch` gives them.
        weights: (m,), targets of each batch; all alike if not given.
        kind_of: the kind of a parameter, by its name.

    Raises:
        InputError: the shapes do not fit.
    """
    labels = _layer_labels(objective.parameters)
    groups = _grouped((labels[name], kind_of(name)) for name in objective.parameters)
    checked = _checked(objective, blocks, weights)
    return [_row(objective, key, members, *checked) for key, members in groups.items()]


def kind_totals(
    objective: Objective, blocks: Tensor, weights: Tensor | None = None, *, kind_of: Callable[[str], str] = group_of
) -> list[BlockTrace]:
    """The trace by kind alone: `breakdown` over all layers, each row with its own standard error.

    Args:
        objective: as in `breakdown`.
        blocks: as in `breakdown`.
        weights: as in `breakdown`.
        kind_of: as in `breakdown`.

    Raises:
        InputError: as in `breakdown`.
    """
    parts = breakdown(objective, blocks, weights, kind_of=kind_of)
    rows = []
    for (kind,), members in _grouped((kind_of(name),) for name in objective.parameters).items():
        row = _row(objective, ("-", kind), members, *_checked(objective, blocks, weights))
        rows.append(replace(row, scale_invariant=sum(part.scale_invariant for part in parts if part.kind == kind)))
    return rows


def _checked(objective: Objective, blocks: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    tensors = len(objective.parameters)
    if blocks.ndim != 2 or blocks.shape[1] != tensors:
        raise InputError(f"blocks of shape {tuple(blocks.shape)} for {tensors} parameter tensors; give (m, {tensors})")
    weights = torch.ones(len(blocks)) if weights is None else torch.as_tensor(weights)
    if weights.shape != (len(blocks),) or not (weights > 0).all():
        raise InputError(f"weights={weights.tolist()} of {len(blocks)} batches; give one positive number a batch")
    return blocks.double().cpu(), weights.double().cpu()


def _row(objective: Objective, key: tuple[str, str], members: list[int], blocks: Tensor, weights: Tensor) -> BlockTrace:
    values = blocks[:, members].sum(1)
    mean = (weights @ values) / weights.sum()
    count = len(values)
    squared = (weights * (values - mean)).square().sum()
    error = (squared * count / (count - 1)).sqrt() / weights.sum() if count > 1 else torch.tensor(math.nan)
    tensors = list(objective.parameters.values())
    squares = sum(tensors[p].double().square().sum().item() for p in members)
    parameters = sum(tensors[p].numel() for p in members)
    return BlockTrace(
        layer=key[0],
        kind=key[1],
        parameters=parameters,
        trace=mean.item(),
        stderr=error.item(),
        weight_norm=math.sqrt(squares),
        scale_invariant=squares * mean.item() / parameters,
    )


def _grouped(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], list[int]]:
    """Positions of each key, keys in the order of their first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups


def _layer_labels(names: Iterable[str]) -> dict[str, str]:
    """Label of each parameter's layer; the stack is named only where there are two."""
    numbers = {name: layer_of(name) for name in names}
    stacks = {name: next((p for p in name.split(".") if p in ("encoder", "decoder")), "") for name in numbers}
    both = {"encoder", "decoder"} <= {stacks[name] for name, number in numbers.items() if number is not None}
    return {
        name: "-" if number is None else f"{stacks[name]} {number}" if both else str(number)
        for name, number in numbers.items()
    }
