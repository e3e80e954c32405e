"""The training loop for a bank of small nets: what `train.loop` does for one model, for many at once.

Each net has its own method (and with it its own seed, masks and growth), its own data and its own rows.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from est_analysis.errors import Diverged, InputError
from est_analysis.methods import Method
from est_analysis.models.bank import ResidualNetBank
from est_analysis.models.mlp_bank import MLPBank
from est_analysis.subnet.cost import TRAINING_FACTOR
from est_analysis.subnet.mask import SubnetMask
from est_analysis.train.allocator import keep_freed_memory
from est_analysis.train.checkpoint import sync
from est_analysis.train.growth import apply_growth
from est_analysis.train.loop import Stopped, stop_requests
from est_analysis.train.optim import build_optimizer, learning_rate, set_learning_rate
from est_analysis.train.settings import Settings

Bank = ResidualNetBank | MLPBank
Batch = tuple[Float[Tensor, "N B d"], Float[Tensor, "N B"] | Int64[Tensor, "N B"]]
_STATE = "state.pt"
_TRANSITION_MASKS = 8  # subnetworks whose loss is averaged on either side of a transition


@dataclass(frozen=True, kw_only=True)
class BankJob:
    """All that training a bank is made of.

    Attributes:
        folder: where the state goes.
        bank: initialised nets; trained in place.
        methods: one a net, on one schedule.
        batch: step number (from 1) -> inputs and targets of every net.
        measure: (points (N, B, d) -> outputs (N, B) of the nets as they are) -> {metric: one value a net}.
        settings: optimisation and measurement; no clipping, no accumulation, float32.
        held_out: inputs and targets, the same all through; the subnetworks' losses on both sides of a stage transition
            are measured on them, with the weights standing still: `subnet_loss_before`, `subnet_loss_after`.
        tail: steps of the full nets after the last step of `settings`, at its last learning rate: what a method's
            nets are worth once they have got used to running whole. Metrics of the tail begin with `tail_`.
    """

    folder: Path
    bank: Bank
    methods: Sequence[Method]
    batch: Callable[[int], Batch]
    measure: Callable[[Callable[[Tensor], Tensor]], dict[str, Sequence[float]]]
    held_out: Batch
    settings: Settings
    tail: int = 0

    def __post_init__(self) -> None:
        if len(self.methods) != self.bank.num_nets:
            raise InputError(f"{len(self.methods)} methods for {self.bank.num_nets} nets; give one a net")
        if self.settings.clip or self.settings.accumulation > 1 or self.settings.precision != "float32":
            raise InputError("a bank trains in float32 without clipping or accumulation; use clip=0, accumulation=1")
        if self.settings.rewarm or self.settings.skipped_gradient != "zero":
            raise InputError("a bank knows no rewarm, and gives bypassed layers a zero gradient; use rewarm=0")


@dataclass
class _Done:
    """What has been done so far; saved with the weights."""

    step: int = 0
    flops: list[float] = field(default_factory=list)  # of the layers, one a net
    rows: list[list] = field(default_factory=list)  # [net, step, metric, value]
    losses: list[list[float]] = field(default_factory=list)  # since the last row, one a net
    depths: list[list[int]] = field(default_factory=list)


def train_bank(job: BankJob) -> list[tuple[int, int, str, float]]:
    """Train every net of `job`, continuing from its saved state if there is one.

    Returns:
        Rows (seed, step, metric, value).

    Raises:
        Stopped: interrupted (Ctrl-C or SIGTERM); the state is saved.
        Diverged: a loss stopped being finite.
    """
    keep_freed_memory()
    with stop_requests() as requested:
        trainer = _BankTrainer(job)
        trainer.run(requested)
    seeds = [method.seed for method in job.methods]
    return [(seeds[net], step, metric, value) for net, step, metric, value in trainer.done.rows]


class _BankTrainer:
    def __init__(self, job: BankJob) -> None:
        self.job, self.settings = job, job.settings
        self.optimizer = build_optimizer(job.bank, job.settings)
        self.done = _Done(flops=[0.0] * job.bank.num_nets)
        self.column_flops = TRAINING_FACTOR * job.bank.column_flops
        self.mlp_columns = job.bank.shape.mlp_columns
        self._restore()

    def run(self, requested: list[int]) -> None:
        """Train to the end of the tail."""
        last = self.settings.steps
        if self.done.step == 0:
            self._measure()
        while self.done.step < last + self.job.tail:
            step = self.done.step + 1
            self._step(step)
            boundary = step in self.job.methods[0].schedule.transitions or step in (last, last + self.job.tail)
            if boundary or step % self.settings.log_every == 0:
                self._log()
            if boundary or step % self.settings.eval_every == 0:
                self._measure()
            if step in self.job.methods[0].schedule.transitions:
                self._measure_subnets("before", step, range(max(1, step - _TRANSITION_MASKS + 1), step + 1))
            if requested or step % self.settings.save_every == 0:
                self._save()
            if requested:
                raise Stopped(f"stopped at step {step}; everything is saved in {self.job.folder}")

    def _step(self, step: int) -> None:
        in_tail = step > self.settings.steps
        set_learning_rate(self.optimizer, learning_rate(min(step, self.settings.steps), self.settings))
        masks = [None if in_tail else method.mask(step) for method in self.job.methods]
        if not in_tail:
            self._grow(step)
        x, y = self.job.batch(step)
        losses = self.job.bank.gradients(x, y, self.job.bank.join(masks))
        self.optimizer.step()
        self._charge(masks, len(y[0]))
        self.done.losses.append(losses.tolist())
        self.done.step = step

    def _grow(self, step: int) -> None:
        growth = self.job.methods[0].growth(step)
        if growth:
            apply_growth(self.job.bank.blocks, self.optimizer, growth)
        if step - 1 in self.job.methods[0].schedule.transitions:
            self._measure_subnets("after", step, range(step, step + _TRANSITION_MASKS))

    def _measure_subnets(self, side: str, at: int, steps: Iterable[int]) -> None:
        """Mean held-out loss under the masks of those of `steps` that are of the stage of step `at`."""
        x, y = self.job.held_out
        total = torch.zeros(self.job.bank.num_nets)
        stage_at = self.job.methods[0].schedule.stage_at
        steps = [step for step in steps if stage_at(step) == stage_at(at)]
        for step in steps:
            masks = [method.mask(step) for method in self.job.methods]
            total += self.job.bank.losses(x, y, self.job.bank.join(masks))
        for net, loss in enumerate((total / len(steps)).tolist()):
            self._row(net, f"subnet_loss_{side}", loss)

    def _charge(self, masks: list[SubnetMask | None], samples: int) -> None:
        everything = SubnetMask.full(self.job.bank.shape.num_layers)
        depths = []
        for net, mask in enumerate(masks):
            active = [layer for layer in (mask or everything).layers if layer is not None]
            columns = sum(self.mlp_columns if layer.columns is None else len(layer.columns) for layer in active)
            self.done.flops[net] += self.column_flops * columns * samples
            depths.append(len(active))
        self.done.depths.append(depths)

    def _log(self) -> None:
        losses, depths = (list(zip(*rows, strict=True)) for rows in (self.done.losses, self.done.depths))
        stage = self.job.methods[0].schedule.stage_at(self.done.step)
        for net in range(self.job.bank.num_nets):
            mean = math.fsum(losses[net]) / len(losses[net])
            if not math.isfinite(mean):
                seed = self.job.methods[net].seed
                raise Diverged(f"the loss of seed {seed} is {mean} at step {self.done.step}; lower the learning rate")
            self._row(net, "train_loss", mean)
            self._row(net, "active_layers", math.fsum(depths[net]) / len(depths[net]))
            if self.done.step <= self.settings.steps:
                self._row(net, "stage", stage)
                self._row(net, "layer_flops", self.done.flops[net])
        self.done.losses.clear()
        self.done.depths.clear()

    def _measure(self) -> None:
        whole = self.job.bank.join([method.model_mask(self.done.step) for method in self.job.methods])
        for metric, values in self.job.measure(lambda x: self.job.bank(x, whole)).items():
            for net, value in enumerate(values):
                self._row(net, metric, float(value))

    def _row(self, net: int, metric: str, value: float) -> None:
        prefix = "tail_" if self.done.step > self.settings.steps else ""
        self.done.rows.append([net, self.done.step, prefix + metric, value])

    # State ------------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        path = self.job.folder / _STATE
        temporary = path.with_suffix(".writing")
        state = {
            "bank": self.job.bank.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "done": json.dumps(vars(self.done)),
        }
        try:
            torch.save(state, temporary)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"could not write {path} ({error}); free some space and run again") from error

    def _restore(self) -> None:
        path = self.job.folder / _STATE
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True)
            self.job.bank.load_state_dict(state["bank"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = _Done(**json.loads(state["done"]))
        except Exception as error:
            raise InputError(f"{path} is damaged ({error}); delete it to start this run again") from error
