"""GPT-2: token and position embeddings, a stack of pre-norm blocks, a final norm and a tied head."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.config import ModelConfig
from est_analysis.models.parts import Block, draw_parameters, linear_cross_entropy, run_stack
from est_analysis.subnet.mask import SubnetMask


class GPT2(nn.Module):
    """A GPT-2 whose forward takes the sampled subnetwork as an argument (`mask=None` is the full model).

    Logits equal those of `transformers.GPT2LMHeadModel` for the same weights (`models.hf`). No dropout.
    """

    family = "gpt2"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden))  # (V, D), also the head
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.hidden))
        self.blocks = nn.ModuleList(
            Block(config.hidden, config.num_heads, config.mlp_columns) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden)

    def initialise(self, seed: int) -> "GPT2":
        """GPT-2's initialisation: N(0, 0.02), residual outputs divided by sqrt(2 N_L), biases 0, norms the identity."""
        residual = 0.02 / math.sqrt(2 * self.config.num_layers)
        outputs = ("out_weight", "down_weight")
        draw_parameters(self, seed, lambda name, _: residual if name.endswith(outputs) else 0.02)
        return self

    def hidden_states(self, tokens: Int64[Tensor, "B T"], mask: SubnetMask | None = None) -> Float[Tensor, "B T D"]:
        """Final hidden states after the last norm.

        Raises:
            InputError: the sequence is longer than the model's context, or the mask is for another depth.
        """
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise InputError(
                f"a sequence of {length} tokens is longer than the model's context of {self.config.context_length}; "
                "use a shorter sequence or a larger model"
            )
        x = F.embedding(tokens, self.token_embedding) + self.position_embedding[:length]
        return self.final_norm(run_stack(self.blocks, x, mask))

    def forward(self, tokens: Int64[Tensor, "B T"], mask: SubnetMask | None = None) -> Float[Tensor, "B T V"]:
        """Next-token logits."""
        return F.linear(self.hidden_states(tokens, mask), self.token_embedding)

    def loss(
        self, tokens: Int64[Tensor, "B T"], labels: Int64[Tensor, "B T"], mask: SubnetMask | None = None
    ) -> Float[Tensor, ""]:
        """Mean cross entropy of `labels` (already shifted; -100 ignored), nats a token, logits never held whole."""
        return linear_cross_entropy(self.hidden_states(tokens, mask), self.token_embedding, labels)
