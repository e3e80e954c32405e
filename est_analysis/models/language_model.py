"""What every family of causal language models has in common: logits and loss of a head on its final hidden states."""

import math
from abc import ABC, abstractmethod

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from est_analysis.errors import InputError
from est_analysis.models.config import ModelConfig
from est_analysis.models.parts import draw_parameters, linear_cross_entropy
from est_analysis.subnet.mask import SubnetMask


class LanguageModel(nn.Module, ABC):
    """A causal language model whose forward takes the sampled subnetwork as an argument (`None` is the full model).

    A family is a subclass that sets `config` and `blocks`, computes hidden states and names its head. No dropout.
    """

    config: ModelConfig
    blocks: nn.ModuleList

    @property
    @abstractmethod
    def head(self) -> Float[Tensor, "V D"]:
        """The head, one row a vocabulary entry."""

    @abstractmethod
    def hidden_states(self, tokens: Int64[Tensor, "B T"], mask: SubnetMask | None = None) -> Float[Tensor, "B T D"]:
        """Final hidden states after the last norm.

        Raises:
            InputError: the sequence is longer than the model's context, or the mask is for another depth.
        """

    def forward(self, tokens: Int64[Tensor, "B T"], mask: SubnetMask | None = None) -> Float[Tensor, "B T V"]:
        """Next-token logits."""
        return F.linear(self.hidden_states(tokens, mask), self.head)

    def loss(
        self, tokens: Int64[Tensor, "B T"], labels: Int64[Tensor, "B T"], mask: SubnetMask | None = None
    ) -> Float[Tensor, ""]:
        """Mean cross entropy of `labels` (already shifted; -100 ignored), nats a token, logits never held whole."""
        return linear_cross_entropy(self.hidden_states(tokens, mask), self.head, labels)

    def initialise(self, seed: int) -> "LanguageModel":
        """GPT-2's initialisation: N(0, 0.02), residual outputs divided by sqrt(2 N_L), biases 0, norms the identity."""
        residual = 0.02 / math.sqrt(2 * self.config.num_layers)
        outputs = ("out_weight", "down_weight")
        draw_parameters(self, seed, lambda name, _: residual if name.endswith(outputs) else 0.02)
        return self

    def _length(self, tokens: Tensor) -> int:
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise InputError(
                f"a sequence of {length} tokens is longer than the model's context of {self.config.context_length}; "
                "use a shorter sequence or a larger model"
            )
        return length
