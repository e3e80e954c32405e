"""FLOPs of a subnetwork, a stage and a schedule, in the paper's convention and in the true one.

EST (eqs. 8-10) counts attention and MLP of the layers and nothing else: "26.7 % saved". The LM head is computed in full
at every step whatever is sampled, so what a clock can see is less (19.4 % for GPT-2 at 1,024 tokens). Both are reported
side by side everywhere.

Counting: 2 FLOPs a multiply-add, matrix products only (no embeddings, norms, activations, optimizer), backward twice
the forward. C_H and C_M below are EST's per-layer costs of attention and MLP, per token, forward.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from est_analysis.errors import InputError, unknown_name
from est_analysis.subnet.mask import HeadSampling, LayerMask, StackShape, SubnetMask
from est_analysis.subnet.schedule import Rates, Schedule

TRAINING_FACTOR = 3  # forward once, backward twice its products


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes that decide a model's cost.

    Attributes:
        num_layers, num_heads, mlp_columns: N_L, N_H, N_M of EST.
        hidden: width d of the residual stream.
        head_dim: width of one head; usually hidden / num_heads.
        num_kv_heads: key/value heads; fewer than `num_heads` under grouped-query attention.
        mlp_matrices: 2, or 3 for gated MLPs (SwiGLU).
        vocab_size: output classes of the head.
        seq_len: tokens a sequence, of the encoder if there is a decoder; FLOPs are counted a token of these. Sets the
            cost of attention scores.
        target_len: tokens a sequence of the decoder, whose layers are then counted with those of the encoder; 0
            without one.
        head_share: how many outputs of the head are computed a token of `seq_len`: all of them in a causal model,
            those of the masked tokens in a masked one, `target_len / seq_len` behind a decoder.
        head_transform: whether a projection of the width precedes the head (BERT's).
        attention: `full` counts all N^2 scores (what dense and most fused CPU kernels compute, and what torch's FLOP
            counter counts); `causal` counts half of them, but in an encoder and between it and its decoder.
        head_sampling: what a rate p_H means for shared keys and values (`subnet.sample.sample_fixed_size`): all of them
            are computed, or a share p_H.
    """

    num_layers: int
    hidden: int
    num_heads: int
    head_dim: int
    num_kv_heads: int
    mlp_columns: int
    mlp_matrices: int
    vocab_size: int
    seq_len: int
    target_len: int = 0
    head_share: float = 1.0
    head_transform: bool = False
    attention: Literal["full", "causal"] = "full"
    head_sampling: HeadSampling = "within_groups"

    @property
    def grouped(self) -> bool:
        """Whether heads share keys and values."""
        return self.num_kv_heads < self.num_heads

    @property
    def stack(self) -> StackShape:
        """What the samplers need of it."""
        return StackShape(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_columns=self.mlp_columns,
            num_kv_heads=self.num_kv_heads if self.grouped else None,
        )

    def attention_flops(self, heads: float, groups: float | None = None) -> float:
        """C_H with `heads` active heads: forward FLOPs a token of one layer's projections and scores.

        Args:
            heads: active query heads.
            groups: key/value heads computed, where heads share them; None for all.
        """
        width = heads * self.head_dim
        shared = self.num_kv_heads if groups is None else groups
        kv_width = shared * self.head_dim if self.grouped else width
        projections = 4 * self.hidden * width + 4 * self.hidden * kv_width
        causal = 0.5 if self.attention == "causal" else 1
        scores = 4 * width  # a token and a position that it sees
        if not self.target_len:
            return projections + causal * scores * self.seq_len
        # An encoder sees all of itself; its decoder has its own attention, and one across: queries and outputs of its
        # tokens, keys and values of the encoder's.
        encoder = projections + scores * self.seq_len
        decoder = projections + causal * scores * self.target_len
        across = 4 * self.hidden * width + scores * self.seq_len
        return encoder + self._target_share * (decoder + across) + 4 * self.hidden * kv_width

    @property
    def _target_share(self) -> float:
        return self.target_len / self.seq_len if self.target_len else 0.0

    def mlp_flops(self, columns: float) -> float:
        """C_M with `columns` active columns: forward FLOPs a token of one layer's MLP."""
        return 2 * self.mlp_matrices * self.hidden * columns * (1 + self._target_share)

    @property
    def head_flops(self) -> float:
        """Forward FLOPs a token of the LM head, which no method here samples."""
        outputs = self.vocab_size + (self.hidden if self.head_transform else 0)
        return 2 * self.hidden * outputs * self.head_share

    def narrowed(self, share: float) -> "Architecture":
        """The same with a residual stream of a `share` of the width."""
        return self if share == 1 else replace(self, hidden=round(share * self.hidden))

    def layer_flops(self, rates: Rates) -> float:
        """Expected forward FLOPs a token of all layers at the given rates."""
        heads, columns = rates.heads * self.num_heads, rates.mlp * self.mlp_columns
        groups = rates.heads * self.num_kv_heads if self.head_sampling == "whole_groups" else None
        sizes = self.narrowed(rates.hidden)
        return rates.layers * self.num_layers * (sizes.attention_flops(heads, groups) + sizes.mlp_flops(columns))

    def paper_layer_flops(self, rates: Rates) -> float:
        """EST eq. 8, N_L p_L (p_H C_H + p_M C_M): all of attention, shared keys and values too, scales with p_H."""
        sizes = self.narrowed(rates.hidden)
        attention, mlp = sizes.attention_flops(self.num_heads), sizes.mlp_flops(self.mlp_columns)
        return rates.layers * self.num_layers * (rates.heads * attention + rates.mlp * mlp)

    def mask_flops(self, mask: SubnetMask | None) -> float:
        """Forward FLOPs a token of the layers of a realised mask (None: the full model)."""
        if mask is None:
            return self.layer_flops(Rates())
        return sum((self._active_flops(layer) for layer in mask.layers if layer is not None), 0.0)

    def _active_flops(self, layer: LayerMask) -> float:
        heads = self.num_heads if layer.heads is None else len(layer.heads)
        groups = None if layer.groups is None else len(layer.groups)
        columns = self.mlp_columns if layer.columns is None else len(layer.columns)
        return self.attention_flops(heads, groups) + self.mlp_flops(columns)


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """Cost of one stage: forward FLOPs a token, the layers alone as the paper counts and everything as it is."""

    steps: int
    rates: Rates
    paper: float
    true: float


@dataclass(frozen=True, kw_only=True)
class ScheduleCost:
    """Expected cost of a schedule on an architecture, against training the full model for as many steps.

    Attributes:
        stages: in order.
        full: a step of the full model.
        left_out: steps that the full model would train and this does not, after its last stage.
    """

    stages: tuple[StageCost, ...]
    full: StageCost
    left_out: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of the full model that it is compared with."""
        return sum(stage.steps for stage in self.stages) + self.left_out

    @property
    def paper_saving(self) -> float:
        """Share of layer FLOPs saved: the papers' convention (EST eqs. 9, 10)."""
        return 1 - sum(stage.steps * stage.paper for stage in self.stages) / (self.total_steps * self.full.paper)

    @property
    def true_saving(self) -> float:
        """Share of all matrix-product FLOPs saved, LM head included."""
        return 1 - sum(stage.steps * stage.true for stage in self.stages) / (self.total_steps * self.full.true)

    @property
    def ideal_speedup(self) -> float:
        """Speed-up if time were proportional to the true FLOPs: 1 / (1 - true_saving)."""
        return 1 / (1 - self.true_saving)


def schedule_cost(schedule: Schedule, architecture: Architecture) -> ScheduleCost:
    """Expected cost of `schedule`; exact for fixed-size sampling, the mean for Bernoulli layers.

    >>> from est_analysis.subnet.schedule import find_schedule
    >>> cost = schedule_cost(find_schedule("gpt2-est"), find_architecture("gpt2"))
    >>> round(100 * cost.paper_saving, 1), round(100 * cost.true_saving, 2)
    (26.7, 19.44)
    """

    return spans_cost(schedule.spans, architecture)


def spans_cost(spans: Iterable[tuple[int, Rates]], architecture: Architecture) -> ScheduleCost:
    """Expected cost of any (number of steps, expected rates) in turn."""

    def stage(steps: int, rates: Rates) -> StageCost:
        true = architecture.layer_flops(rates) + architecture.narrowed(rates.hidden).head_flops
        return StageCost(steps=steps, rates=rates, paper=architecture.paper_layer_flops(rates), true=true)

    return ScheduleCost(stages=tuple(stage(steps, rates) for steps, rates in spans), full=stage(1, Rates()))


def dense_architecture(
    *, num_layers: int, hidden: int, num_heads: int, vocab_size: int, seq_len: int, mlp_columns: int | None = None
) -> Architecture:
    """A GPT-2 or BERT shaped stack: plain multi-head attention and a two-matrix MLP of width 4 d unless given."""
    if num_heads and hidden % num_heads:
        raise InputError(f"a width of {hidden} does not divide into {num_heads} heads; use a multiple of {num_heads}")
    return Architecture(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        head_dim=hidden // num_heads if num_heads else 0,
        num_kv_heads=num_heads,
        mlp_columns=4 * hidden if mlp_columns is None else mlp_columns,
        mlp_matrices=2,
        vocab_size=vocab_size,
        seq_len=seq_len,
    )


def _gpt2(num_layers: int, hidden: int, num_heads: int) -> Architecture:
    return dense_architecture(num_layers=num_layers, hidden=hidden, num_heads=num_heads, vocab_size=50257, seq_len=1024)


def _bert(num_layers: int, hidden: int, num_heads: int) -> Architecture:
    return dense_architecture(num_layers=num_layers, hidden=hidden, num_heads=num_heads, vocab_size=30522, seq_len=512)


PUBLISHED_ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "bert-base": _bert(12, 768, 12),
    "bert-large": _bert(24, 1024, 16),
    "tinyllama": Architecture(
        num_layers=22,
        hidden=2048,
        num_heads=32,
        head_dim=64,
        num_kv_heads=4,
        mlp_columns=5632,
        mlp_matrices=3,
        vocab_size=32000,
        seq_len=2048,
    ),
}


def countings(architecture: Architecture) -> list[Architecture]:
    """`architecture` with all, half and none of its attention scores counted: EST does not say which it does."""
    return [architecture, replace(architecture, attention="causal"), replace(architecture, seq_len=0)]


def find_architecture(name: str) -> Architecture:
    """The published architecture called `name`.

    Raises:
        InputError: no such architecture; the message lists those there are.
    """
    if name not in PUBLISHED_ARCHITECTURES:
        raise unknown_name("model", name, PUBLISHED_ARCHITECTURES)
    return PUBLISHED_ARCHITECTURES[name]
