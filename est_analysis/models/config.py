"""Sizes of our models: one value a family that says what to build, and the presets by family and name."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from est_analysis.errors import InputError, unknown_name
from est_analysis.subnet.cost import Architecture, dense_architecture


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """The sizes that every family has (EST 3.1: N_L, d, N_H, N_M).

    Attributes:
        num_layers: number of residual blocks.
        hidden: width of the residual stream.
        num_heads: attention heads a block; query heads, where they share keys and values.
        mlp_columns: hidden units of the MLP of a block.
        vocab_size: number of token ids.
        context_length: longest sequence, in tokens.
    """

    family: ClassVar[str]  # its key in `models.families.FAMILIES`

    num_layers: int
    hidden: int
    num_heads: int
    mlp_columns: int
    vocab_size: int
    context_length: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                value = getattr(self, field.name)
                raise InputError(f"{field.name}={value} is not a size; use a number of at least 1")
        if self.hidden % self.num_heads:
            raise InputError(
                f"a width of {self.hidden} does not divide into {self.num_heads} heads; "
                f"use a multiple of {self.num_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.num_heads

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Trained numbers of a model of this size; a tied head is counted once."""

    @abstractmethod
    def architecture(self, seq_len: int) -> Architecture:
        """The sizes that decide its cost when trained on sequences of `seq_len` tokens."""


@dataclass(frozen=True, kw_only=True)
class GPT2Config(ModelConfig):
    """What a GPT-2 is made of: learned positions, LayerNorm, a GELU MLP, biases, a tied head."""

    family = "gpt2"

    @property
    def num_parameters(self) -> int:
        """Trained numbers of a GPT-2 of this size; the head is tied to the embedding and counted once."""
        layer = 4 * self.hidden**2 + 2 * self.mlp_columns * self.hidden + 9 * self.hidden + self.mlp_columns
        return (self.vocab_size + self.context_length + 2) * self.hidden + self.num_layers * layer

    def architecture(self, seq_len: int) -> Architecture:
        """The sizes that decide its cost when trained on sequences of `seq_len` tokens."""
        return dense_architecture(
            num_layers=self.num_layers,
            hidden=self.hidden,
            num_heads=self.num_heads,
            vocab_size=self.vocab_size,
            seq_len=seq_len,
            mlp_columns=self.mlp_columns,
        )


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """What a Llama is made of: rotary positions, RMSNorm, grouped queries, a SwiGLU MLP, no biases.

    Attributes:
        num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads query heads.
        rope_theta: base of the rotary angles.
        norm_epsilon: added to the mean square in every norm.
        tied_head: whether the head is the token embedding.
    """

    family = "llama"

    num_kv_heads: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    tied_head: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"{self.num_heads} heads do not divide into {self.num_kv_heads} key/value groups; "
                f"use a divisor of {self.num_heads}"
            )
        if self.head_dim % 2:
            raise InputError(f"heads of width {self.head_dim} cannot be rotated in pairs; use an even hidden/num_heads")
        for name in ("rope_theta", "norm_epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be above 0")

    @property
    def num_parameters(self) -> int:
        """Trained numbers of a Llama of this size; a tied head is counted once."""
        kv_width = self.num_kv_heads * self.head_dim
        layer = self.hidden * (2 * self.hidden + 2 * kv_width + 3 * self.mlp_columns + 2)
        tables = self.vocab_size * (1 if self.tied_head else 2)
        return self.hidden * (tables + 1) + self.num_layers * layer

    def architecture(self, seq_len: int) -> Architecture:
        """The sizes that decide its cost when trained on sequences of `seq_len` tokens."""
        return Architecture(
            num_layers=self.num_layers,
            hidden=self.hidden,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            num_kv_heads=self.num_kv_heads,
            mlp_columns=self.mlp_columns,
            mlp_matrices=3,
            vocab_size=self.vocab_size,
            seq_len=seq_len,
        )


def _gpt2(num_layers: int, hidden: int, num_heads: int, context_length: int) -> GPT2Config:
    # The vocabulary comes with the tokenizer; 50257 is GPT-2's own.
    return GPT2Config(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        mlp_columns=4 * hidden,
        vocab_size=50257,
        context_length=context_length,
    )


def _llama(
    num_layers: int, hidden: int, num_heads: int, num_kv_heads: int, mlp_columns: int, context_length: int
) -> LlamaConfig:
    # 32000 is the vocabulary of Llama 2 and TinyLlama.
    return LlamaConfig(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        mlp_columns=mlp_columns,
        vocab_size=32000,
        context_length=context_length,
    )


PRESETS: dict[str, dict[str, ModelConfig]] = {
    "gpt2": {
        "tiny": _gpt2(6, 48, 4, 256),
        "mini": _gpt2(6, 192, 6, 512),
        "small": _gpt2(12, 384, 12, 512),
        "gpt2": _gpt2(12, 768, 12, 1024),
    },
    "llama": {
        "tiny": _llama(6, 48, 4, 2, 128, 256),
        "mini": _llama(6, 192, 8, 2, 512, 512),
        "tinyllama": _llama(22, 2048, 32, 4, 5632, 2048),
    },
}


def find_preset(name: str, *, vocab_size: int, family: str = "gpt2") -> ModelConfig:
    """The preset called `name` of `family` for a vocabulary of `vocab_size` tokens.

    Raises:
        InputError: no such family or preset; the message lists those there are.
    """
    if family not in PRESETS:
        raise unknown_name("family", family, PRESETS)
    if name not in PRESETS[family]:
        raise unknown_name("preset", name, PRESETS[family])
    return replace(PRESETS[family][name], vocab_size=vocab_size)
