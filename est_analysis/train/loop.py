"""The one training loop.

It knows a model with `loss(*batch, mask=mask)`, a `Method` that gives the mask of a step and the growth before it,
and batches that are a pure function of the step. Everything else it needs to continue after any interruption is in the
newest checkpoint.
"""

import math
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from est_analysis.data.batches import Batch
from est_analysis.data.objective import ObjectiveBatches
from est_analysis.errors import Diverged, InputError
from est_analysis.methods import Enlargement, Method
from est_analysis.models.families import build_model
from est_analysis.models.language_model import LanguageModel
from est_analysis.models.parts import IGNORED_LABEL
from est_analysis.subnet.cost import TRAINING_FACTOR
from est_analysis.subnet.mask import SubnetMask
from est_analysis.train.allocator import keep_freed_memory
from est_analysis.train.checkpoint import Checkpoints
from est_analysis.train.distributed import Ranks
from est_analysis.train.enlarge import enlarge
from est_analysis.train.growth import apply_growth
from est_analysis.train.index_generator import IndexGenerator
from est_analysis.train.optim import build_optimizer, learning_rate, require_room_to_rewarm, set_learning_rate
from est_analysis.train.progress import Display, display
from est_analysis.train.rows import RowWriter, open_tracker
from est_analysis.train.settings import Execution, Settings


class Stopped(InputError):
    """Training was interrupted by the user; its state is saved."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that one training run is made of.

    Attributes:
        run_id: name of the run in its rows.
        folder: where rows and checkpoints go.
        model: of the sizes at the end, initialised, on the CPU; trained in place as soon as all of it exists.
        method: decides the mask of each step, and the growth before it.
        batches: training batches.
        validation: fixed batches for the full model's loss.
        settings: optimisation and measurement.
        checkpoints: where and what to save.
    """

    run_id: str
    folder: Path
    model: LanguageModel
    method: Method
    batches: ObjectiveBatches
    validation: Sequence[Batch]
    settings: Settings
    checkpoints: Checkpoints


@dataclass
class Progressed:
    """What a run has done so far; goes into every checkpoint."""

    step: int = 0
    layer_flops: float = 0.0
    total_flops: float = 0.0
    losses: list[float] = field(default_factory=list)  # of the steps since the last row
    active_layers: list[int] = field(default_factory=list)


def train(job: Job, execution: Execution, ranks: Ranks | None = None) -> Path | None:
    """Train `job`, continuing from its newest checkpoint if there is one.

    Returns:
        The final checkpoint's folder (None on ranks other than the first).

    Raises:
        Stopped: interrupted (Ctrl-C or SIGTERM); the state is saved.
        InputError: the loss stopped being finite, the disk is full, or a checkpoint is damaged.
    """
    ranks = ranks or Ranks()
    if execution.device == "cpu":
        keep_freed_memory()
    if execution.threads:
        torch.set_num_threads(execution.threads)
    shown = execution.progress and ranks.main
    with display(job.run_id, job.settings.steps, shown=shown) as screen, stop_requests() as stop_requested:
        trainer = None
        try:
            trainer = _Trainer(job, execution, ranks, screen, stop_requested)
            return trainer.run()
        except torch.OutOfMemoryError as error:
            batch = f"a batch of {job.batches.batch_size} in {job.settings.accumulation} parts; use more --accumulation"
            what = (
                f"{batch}, or a smaller --batch" if trainer else "the model and its optimizer; use a smaller --preset"
            )
            raise InputError(f"the memory of {execution.device} is too small for {what}") from error
        finally:
            if trainer:
                trainer.close()


class _Trainer:
    def __init__(
        self, job: Job, execution: Execution, ranks: Ranks, screen: Display, stop_requested: list[int]
    ) -> None:
        self.job, self.execution, self.ranks = job, execution, ranks
        self.settings, self.screen, self.stop_requested = job.settings, screen, stop_requested
        if job.batches.batch_size % (ranks.world_size * self.settings.accumulation):
            raise InputError(
                f"a batch of {job.batches.batch_size} does not divide into {ranks.world_size} processes of "
                f"{self.settings.accumulation} micro-batches; use a multiple of their product"
            )
        require_room_to_rewarm(self.settings, self._transitions)
        self.done = Progressed()
        self.pending: list[Tensor] = []  # losses still on the device
        self.seconds: list[float] = []
        self.window = 0.0  # seconds of the steps since the last row, but those since `window_start`
        self.window_start = time.perf_counter()
        if ranks.main:
            job.checkpoints.sweep()
        saved = job.checkpoints.resumable()
        self.fresh = not saved
        self._train_on(self._model_at(saved[-1] if saved else 0))
        written = self._restore(saved[-1]) if saved else None
        ranks.wait()  # every rank has looked before the first one may save
        last_step = saved[-1] if saved else -1
        self.rows = self._open_rows(last_step=last_step, expected=written) if ranks.main else None

    def run(self) -> Path | None:
        """Train to the last step."""
        if self.fresh:
            self._evaluate()
            self._save()
        first, last = self.done.step + 1, self.settings.steps
        generator = IndexGenerator(
            self.job.method, first, last, ahead=self.execution.masks_ahead, device=self.execution.device
        )
        self.window_start = time.perf_counter()
        with generator as masks:
            for step, mask in enumerate(masks, start=first):
                self._step(step, mask)
                self._after(step)
        return self.job.checkpoints.path(last) if self.ranks.main else None

    def close(self) -> None:
        """Close the rows, whatever happened."""
        if self.rows:
            self.rows.close()

    # The model --------------------------------------------------------------------------------------------------------

    def _model_at(self, step: int) -> LanguageModel:
        """The model of the sizes that exist at `step` (0: the start), as it was initialised."""
        final, share = self.job.model, self.job.method.existing(max(step, 1))
        if share.full:
            return final
        model = build_model(final.config.scaled(share)).initialise(self.job.method.seed)
        return model.to(next(final.parameters()).dtype)

    def _train_on(self, model: LanguageModel) -> None:
        self.model = model.to(self.execution.device)
        self.optimizer = build_optimizer(self.model, self.settings)
        self.parameters = list(self.model.parameters())
        self.architecture = model.config.architecture_on(self.job.batches.lengths)
        if self.execution.compile:
            for block in self.model.blocks:
                block.compile()

    def _enlarge(self, step: int, growth: Enlargement) -> None:
        small, optimizer = self.model, self.optimizer
        self._train_on(self._model_at(step))
        enlarge(small, optimizer, self.model, self.optimizer, growth)

    # One step ---------------------------------------------------------------------------------------------------------

    def _step(self, step: int, mask: SubnetMask | None) -> None:
        start = time.perf_counter()
        growth = self.job.method.growth(step)
        if isinstance(growth, Enlargement):
            self._enlarge(step, growth)
        elif growth:
            apply_growth(self.model.blocks, self.optimizer, growth)
        set_learning_rate(self.optimizer, self._learning_rate(step))
        loss = self._gradients(step, mask)
        self.ranks.average_gradients(self.parameters)
        if self.settings.skipped_gradient == "zero":
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pending.append(loss)
        self.seconds.append(time.perf_counter() - start)
        self._charge(step, mask)

    def _gradients(self, step: int, mask: SubnetMask | None) -> Tensor:
        batch = self.job.batches.batch(step - 1, rank=self.ranks.rank, world_size=self.ranks.world_size)
        parts = self.settings.accumulation
        first = self.ranks.rank * parts
        mean_labels = self.ranks.mean_count(_count_labels(batch), self.execution.device) / parts
        total = torch.zeros((), device=self.execution.device)
        for number, part in enumerate(_parts_of([batch], parts), start=first):
            # A part counts by its labels: some objectives give some rows more of them than others.
            share = _count_labels(part) / mean_labels
            with self._autocast():
                loss = self.model.loss(*self._on_device(part), mask=mask and mask.for_part(number)) * share / parts
            loss.backward()
            total += loss.detach()
        return self.ranks.mean(total)

    def _on_device(self, batch: Batch) -> Batch:
        return tuple(tensor.to(self.execution.device, non_blocking=True) for tensor in batch)

    def _autocast(self):
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.execution.device).type, dtype=torch.bfloat16)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.settings, self._transitions)

    @property
    def _transitions(self) -> tuple[int, ...]:
        """The steps after which the learning rate may warm up again."""
        return self.job.method.course.transitions if self.job.method.has_stages else ()

    def _charge(self, step: int, mask: SubnetMask | None) -> None:
        tokens = TRAINING_FACTOR * self.job.batches.batch_size * self.job.batches.lengths.inputs
        layers = self.architecture.mask_flops(mask)
        self.done.step = step
        self.done.layer_flops += tokens * layers
        self.done.total_flops += tokens * (layers + self.architecture.head_flops)
        self.done.active_layers.append(self.architecture.num_layers if mask is None else len(mask.active_layers))

    # Between steps ----------------------------------------------------------------------------------------------------

    def _after(self, step: int) -> None:
        self.screen.advance(step)
        boundary = step in self.job.method.course.transitions or step == self.settings.steps
        save = boundary or step % self.settings.save_every == 0 or step in self.job.checkpoints.permanent
        evaluate = boundary or step % self.settings.eval_every == 0
        if boundary or step % self.settings.log_every == 0:
            self._log()
        if evaluate:
            self._evaluate()
        stop = self.ranks.any(bool(self.stop_requested), self.execution.device)
        if save or stop:
            self._save()
        if stop and step < self.settings.steps:
            raise Stopped(
                f"stopped at step {step} of {self.settings.steps}; everything is saved in {self.job.folder}, "
                "run the same command to resume"
            )

    def _collect(self) -> None:
        """Bring pending losses over from the device and stop if one is not finite."""
        if not self.pending:
            return
        losses = torch.stack(self.pending).tolist()
        self.pending.clear()
        self.done.losses += losses
        for offset, loss in enumerate(losses, start=self.done.step - len(losses) + 1):
            # The weights that gave the loss of a step are those the step before it left.
            self._require_finite("loss", loss, step=offset, weights_of=offset - 1)

    def _require_finite(self, name: str, loss: float, *, step: int, weights_of: int) -> None:
        if math.isfinite(loss):
            return
        saved = [earlier for earlier in self.job.checkpoints.resumable() if earlier < weights_of]
        good = f"; last good checkpoint: {self.job.checkpoints.path(saved[-1])}" if saved else ""
        raise Diverged(f"the {name} is {loss} at step {step}{good}; lower lr={self.settings.lr:g} or clip")

    def _log(self) -> None:
        self._collect()
        done = self.done
        self._pause()
        # On a GPU kernels run behind the Python that queues them, so only the whole window has a true time.
        on_gpu = self.execution.device.startswith("cuda")
        seconds = self.window / len(self.seconds) if on_gpu else statistics.median(self.seconds)
        values = {
            "train_loss": statistics.fmean(done.losses),
            "learning_rate": self._learning_rate(done.step),
            "stage": self.job.method.course.stage_at(done.step),
            "active_layers": statistics.fmean(done.active_layers),
            "step_seconds": seconds,
            "layer_flops": done.layer_flops,
            "total_flops": done.total_flops,
        }
        self._write(values)
        done.losses.clear()
        done.active_layers.clear()
        self.seconds.clear()
        self.window = 0.0
        self.window_start = time.perf_counter()

    def _pause(self) -> None:
        """Stop the clock of the steps, which `window_start` starts again."""
        if self.execution.device.startswith("cuda"):
            torch.cuda.synchronize(self.execution.device)
        if self.seconds:
            self.window += time.perf_counter() - self.window_start

    @torch.no_grad()
    def _evaluate(self) -> None:
        self._collect()
        self._pause()
        mine = self.job.validation[self.ranks.rank :: self.ranks.world_size]
        total = torch.zeros(2, dtype=torch.float64, device=self.execution.device)
        mask = self.job.method.model_mask(self.done.step)
        mask = mask and mask.to(self.execution.device)
        parts = self.settings.accumulation * self.ranks.world_size  # as many rows at once as a step has
        for batch in _parts_of(mine, parts):
            with self._autocast():
                loss = self.model.loss(*self._on_device(batch), mask=mask)
            count = _count_labels(batch)
            total += torch.stack([loss.double() * count, loss.new_tensor(count).double()])
        summed = self.ranks.mean(total)
        validation = float(summed[0] / summed[1])
        self._require_finite("validation loss", validation, step=self.done.step, weights_of=self.done.step)
        self._write({"validation_loss": validation})
        self.screen.note(f"validation loss {validation:.4f}")
        self.window_start = time.perf_counter()

    def _write(self, values: dict[str, float]) -> None:
        if self.rows:
            self.rows.write(self.done.step, values)

    # State ------------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._collect()
        self._pause()
        if self.ranks.main:
            self.rows.sync()
            state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "done": vars(self.done)}
            state |= {"seconds": self.seconds, "window": self.window, "rows": self.rows.count}
            self.job.checkpoints.save(self.done.step, self.model, state)
        self.ranks.wait()
        self.window_start = time.perf_counter()

    def _restore(self, step: int) -> int | None:
        """Go on from `step`; returns how many rows had been written by then, if that was noted."""
        state = self.job.checkpoints.load(step, self.model)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = Progressed(**state["done"])
            self.seconds, self.window = state["seconds"], state.get("window", 0.0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.job.checkpoints.damaged(step, error) from error
        self.screen.advance(step)
        self.screen.note(f"resumed from step {step}")
        return state.get("rows")

    def _open_rows(self, *, last_step: int, expected: int | None) -> RowWriter:
        self.job.folder.mkdir(parents=True, exist_ok=True)
        return RowWriter(
            self.job.folder / "rows.csv",
            run_id=self.job.run_id,
            seed=self.job.method.seed,
            last_step=last_step,
            expected=expected,
            tracker=open_tracker(self.execution.tracker, self.job.folder, self.job.run_id),
        )


def _parts_of(batches: Sequence[Batch], parts: int) -> Iterator[Batch]:
    for batch in batches:
        yield from zip(*(tensor.chunk(parts) for tensor in batch), strict=True)


def _count_labels(batch: Batch) -> int:
    return int((batch[-1] != IGNORED_LABEL).sum())


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current step; a second Ctrl-C stops at once."""
    requests: list[int] = []

    def request(number: int, frame) -> None:
        requests.append(number)
        if requests.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    try:
        old = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to somebody else
        yield requests
        return
    try:
        yield requests
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
