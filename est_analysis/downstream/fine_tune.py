"""Fine-tuning a whole checkpoint with a linear head on its final hidden states: one loop for every task."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from est_analysis.downstream.logistic import fit
from est_analysis.downstream.subject import Subject
from est_analysis.errors import InputError
from est_analysis.rng import stream

Pool = Literal["last", "mean", "tokens"]
Loss = Callable[[Tensor, Tensor], Tensor]
_PENALTY = 10.0  # of the probe that a head starts from: few examples, and training goes on


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How a checkpoint is fine-tuned. The EST paper gives none of it; these are common choices for GLUE.

    Attributes:
        lr: the highest, after a linear warm-up; it falls linearly to 0.
        batch_size: examples a step.
        epochs: passes over the training examples.
        warmup: part of the steps.
        weight_decay: AdamW's, on matrices.
        clip: largest global gradient norm.
        pool: what the head reads: the `last` token that is no padding, the `mean` over these, or every one of the
            `tokens`.
        probe_first: start from the head that a linear probe of the frozen checkpoint gives, not from a random one, so
            that few steps are enough; for classes only.
    """

    lr: float = 2e-5
    batch_size: int = 32
    epochs: int = 3
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    pool: Pool = "last"
    probe_first: bool = False

    def __post_init__(self):
        if not self.lr > 0 or self.batch_size < 1 or self.epochs < 1:
            raise InputError(
                f"fine-tuning with lr={self.lr:g}, batch_size={self.batch_size}, epochs={self.epochs}: "
                "each must be above 0"
            )


class Classifier(nn.Module):
    """A copy of a checkpoint's layers below its head, and a new linear head."""

    def __init__(self, subject: Subject, outputs: int, pool: Pool, seed: int):
        super().__init__()
        self.body = copy.deepcopy(subject.model.base_model)
        self.head = nn.Linear(subject.width, outputs, device=subject.device)
        with torch.no_grad():
            drawn = torch.randn(self.head.weight.shape, generator=stream(seed, "fine-tune", "head"))
            self.head.weight.copy_(0.02 * drawn)
            self.head.bias.zero_()
        self.pool = pool

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Outputs of the head: (B, outputs), or (B, T, outputs) for pool `tokens`.

        Args:
            tokens: (B, T), padded on the right.
            real: (B, T), 1 where a token is no padding.
        """
        return self.head(self.pooled(tokens, real))

    def pooled(self, tokens: Tensor, real: Tensor) -> Tensor:
        """What the head reads."""
        states = self.body(tokens, attention_mask=real).last_hidden_state
        if self.pool == "last":
            return states[torch.arange(len(states), device=states.device), real.sum(dim=1) - 1]
        if self.pool == "mean":
            return (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return states


def fine_tuned(
    subject: Subject,
    examples: Sequence[Sequence[int]],
    targets: Tensor,
    *,
    outputs: int,
    loss: Loss,
    how: FineTuning,
    seed: int,
) -> Classifier:
    """A classifier trained on `examples`, in evaluation mode; the subject's own weights stay as they are.

    Torch's global generator, which a model's dropout draws from, is put back afterwards.

    Args:
        subject: the checkpoint.
        examples: tokens of each.
        targets: one row an example.
        outputs: of the head.
        loss: (outputs of a batch, its targets) -> mean loss.
        how: settings.
        seed: of the head, the order of the examples and dropout.

    Raises:
        InputError: there is no example, or the loss is not finite.
    """
    if not examples:
        raise InputError("there is no example to fine-tune on; give training data")
    devices = [subject.device] if subject.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = Classifier(subject, outputs, how.pool, seed).train()
        if how.probe_first:
            _probe(model, examples, targets)
        _train(model, examples, targets.to(subject.device), loss, how, seed)
    return model.eval()


def _probe(model: Classifier, examples: Sequence[Sequence[int]], labels: Tensor) -> None:
    """Put the linear probe of what the head reads into the head."""
    model.eval()
    states = torch.stack(list(_over(model.pooled, examples, model.head.weight.device))).numpy()
    model.train()
    probe = fit(states, labels.numpy(), classes=model.head.out_features, penalty=_PENALTY)
    weight = probe.weight / probe.scale
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(probe.bias - weight @ probe.mean))


def _train(
    model: Classifier, examples: Sequence[Sequence[int]], targets: Tensor, loss: Loss, how: FineTuning, seed: int
) -> None:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": how.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=how.lr)
    a_pass = -(-len(examples) // how.batch_size)
    steps = how.epochs * a_pass
    for step in range(steps):
        epoch, place = divmod(step, a_pass)
        if place == 0:
            order = torch.randperm(len(examples), generator=stream(seed, "fine-tune", "order", epoch)).tolist()
        chosen = order[place * how.batch_size : (place + 1) * how.batch_size]
        found = loss(model(*padded([examples[i] for i in chosen], targets.device)), targets[chosen])
        if not torch.isfinite(found):
            raise InputError(f"the loss of fine-tuning is not finite at step {step + 1}; use a lower --lr")
        for group in optimizer.param_groups:
            group["lr"] = how.lr * rate(step, steps, how.warmup)
        optimizer.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()


def rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate at `step` (from 0) as a part of the highest: linear warm-up, then linear decay to 0.

    >>> [rate(step, 10, 0.2) for step in range(10)]
    [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    rising = round(warmup * steps)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def padded(examples: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Tokens (B, T) filled up with 0 on the right, and which of them are real (1) or padding (0)."""
    longest = max(map(len, examples))
    tokens = torch.tensor([[*example, *[0] * (longest - len(example))] for example in examples], device=device)
    real = torch.tensor([[1] * len(example) + [0] * (longest - len(example)) for example in examples], device=device)
    return tokens, real


def outputs_of(model: Classifier, examples: Sequence[Sequence[int]], batch_size: int = 32) -> Iterator[Tensor]:
    """The head's outputs for every example in order, on the CPU, padding included for pool `tokens`."""
    return _over(model, examples, model.head.weight.device, batch_size)


@torch.no_grad()
def _over(
    function: Callable[..., Tensor], examples: Sequence[Sequence[int]], device: torch.device, batch_size: int = 32
) -> Iterator[Tensor]:
    for start in range(0, len(examples), batch_size):
        yield from function(*padded(examples[start : start + batch_size], device)).float().cpu()


def classes_of(model: Classifier, examples: Sequence[Sequence[int]]) -> Tensor:
    """The most probable class of every example."""
    return torch.stack(list(outputs_of(model, examples))).argmax(dim=1)
