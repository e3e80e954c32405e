"""One bank of a first experiment: a net on a task under a method, several seeds at once, cached by its spec."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from est_analysis.errors import Diverged, InputError
from est_analysis.experiments.runs.spec import run_id
from est_analysis.experiments.runs.store import SeedRow, run_once
from est_analysis.experiments.small_nets.first_contenders import COLUMNS, NETS, FirstContender
from est_analysis.experiments.small_nets.first_tasks import TASKS, TaskSizes, open_task
from est_analysis.methods import Method, find_method
from est_analysis.models.bank import ResidualNetBank
from est_analysis.models.mlp import PlainMLP
from est_analysis.models.mlp_bank import MLPBank
from est_analysis.models.resnet import ResidualNet
from est_analysis.subnet.schedule import find_schedule
from est_analysis.train.bank import Bank, BankJob, train_bank
from est_analysis.train.settings import Settings


@dataclass(frozen=True, kw_only=True)
class FirstSpec:
    """Everything that decides the numbers of one bank.

    Attributes:
        task: a key of `first_tasks.TASKS`.
        net: a key of `first_contenders.NETS`.
        method, schedule, warmup, options: as in `FirstContender`.
        sizes: of the task.
        hidden, num_layers: of a stack; its MLPs have `hidden` columns. The plain MLP has `COLUMNS`.
        seeds: one net each; a seed decides data, initialisation and masks, alike for all methods.
        settings: optimisation and measurement.
    """

    task: str
    net: str
    method: str
    schedule: str
    warmup: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    sizes: TaskSizes = field(default_factory=TaskSizes)
    hidden: int = 32
    num_layers: int = 8
    seeds: tuple[int, ...]
    settings: Settings

    def __post_init__(self) -> None:
        if self.net not in NETS or self.task not in TASKS:
            raise InputError(f"no net '{self.net}' on a task '{self.task}'; nets: {', '.join(NETS)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds {self.seeds} must be distinct and at least one")
        self.build_method(self.seeds[0])

    def fields(self) -> dict[str, Any]:
        """All fields, defaults included, as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def build_net(self, seed: int) -> PlainMLP | ResidualNet:
        """The net of `seed`, initialised."""
        kind = TASKS[self.task]
        inputs = self.sizes.dimension if self.task == "polynomial" else kind.num_inputs
        if self.net == "mlp":
            return PlainMLP(num_inputs=inputs, columns=COLUMNS, num_outputs=kind.num_outputs).initialise(seed)
        return ResidualNet(
            num_inputs=inputs,
            hidden=self.hidden,
            num_layers=self.num_layers,
            num_outputs=kind.num_outputs,
            residual=not self.net.endswith("no-residual"),
            layer_norm=not self.net.endswith("no-norm"),
        ).initialise(seed)

    def build_bank(self) -> Bank:
        """The nets of all seeds."""
        nets = [self.build_net(seed) for seed in self.seeds]
        return MLPBank(nets) if self.net == "mlp" else ResidualNetBank(nets)

    def build_method(self, seed: int) -> Method:
        """The method of `seed`."""
        plan = replace(find_schedule(self.schedule), warmup=self.warmup).rescaled(self.settings.steps)
        shape = self.build_net(0).shape
        return find_method(self.method)(shape=shape, schedule=plan, seed=seed, **self.options).check()


def first_spec(
    task: str, net: str, contender: FirstContender, *, steps: int, lr: float, seeds: tuple[int, ...], **sizes: Any
) -> FirstSpec:
    """The bank of `contender` where the others train for `steps`."""
    taken = max(1, round(contender.share * steps))
    settings = Settings(
        steps=taken,
        lr=lr,
        warmup=taken // 20,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        clip=0.0,
        log_every=taken,
        eval_every=max(1, taken // 15),
        save_every=taken,
    )
    return FirstSpec(
        task=task,
        net=net,
        method=contender.method,
        schedule=contender.schedule,
        warmup=contender.warmup,
        options=dict(contender.options),
        seeds=seeds,
        settings=settings,
        **sizes,
    )


def run_first(spec: FirstSpec, root: Path) -> Path:
    """Train the bank of `spec` into `root/<run_id>`, or return it at once if that is finished; the run's folder.

    Raises:
        InputError: the folder cannot be used, or a loss stopped being finite.
    """
    torch.set_num_threads(1)

    def rows(folder: Path) -> list[SeedRow]:
        task = open_task(spec.task, spec.sizes, spec.seeds)
        job = BankJob(
            folder=folder,
            bank=spec.build_bank(),
            methods=[spec.build_method(seed) for seed in spec.seeds],
            batch=task.batch,
            measure=task.measure,
            held_out=task.held_out,
            settings=spec.settings,
        )
        return train_bank(job)

    return run_once(root, spec, run_id=run_id(spec, data_hash=""), steps=spec.settings.steps, rows=rows)


def try_first(spec: FirstSpec, root: Path) -> Path | None:
    """`run_first`, or None where the learning rate is too high for the loss to stay finite."""
    try:
        return run_first(spec, root)
    except Diverged:
        return None
