"""Sizes of our models: one value that says what to build, and the presets by name."""

from dataclasses import dataclass, replace

from est_analysis.errors import InputError, unknown_name
from est_analysis.subnet.cost import Architecture, dense_architecture


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is made of (EST 3.1: N_L, d, N_H, N_M).

    Attributes:
        num_layers: number of residual blocks.
        hidden: width of the residual stream.
        num_heads: attention heads a block.
        mlp_columns: hidden units of the MLP of a block.
        vocab_size: number of token ids.
        context_length: longest sequence, in tokens.
    """

    num_layers: int
    hidden: int
    num_heads: int
    mlp_columns: int
    vocab_size: int
    context_length: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name}={value} is not a size; use a number of at least 1")
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


def _preset(num_layers: int, hidden: int, num_heads: int, context_length: int) -> ModelConfig:
    # The vocabulary comes with the tokenizer; 50257 is GPT-2's own.
    return ModelConfig(
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        mlp_columns=4 * hidden,
        vocab_size=50257,
        context_length=context_length,
    )


PRESETS: dict[str, ModelConfig] = {
    "tiny": _preset(6, 48, 4, 256),
    "mini": _preset(6, 192, 6, 512),
    "small": _preset(12, 384, 12, 512),
    "gpt2": _preset(12, 768, 12, 1024),
}


def find_preset(name: str, *, vocab_size: int) -> ModelConfig:
    """The preset called `name` for a vocabulary of `vocab_size` tokens.

    Raises:
        InputError: no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return replace(PRESETS[name], vocab_size=vocab_size)
