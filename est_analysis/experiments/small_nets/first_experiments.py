"""What the papers' readers would try first: EST and RaPTr on nets and tasks so small that ten seeds cost a minute.

A plain two-layer MLP whose columns are sampled, stacks whose layers are, the same stacks without layer norm and without
residual connections, shapes of growth at equal cost, a warm-up, and a linear net whose masks can all be enumerated.
Every training has its own best learning rate: that of the smallest mean final loss on seeds that are not reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any

import pandas as pd

from est_analysis.experiments.runs.pool import run_in_pool
from est_analysis.experiments.runs.spec import run_id
from est_analysis.experiments.runs.store import collect, labelled
from est_analysis.experiments.small_nets.first_contenders import NETS, trainings
from est_analysis.experiments.small_nets.first_runs import FirstSpec, first_spec, run_first, try_first
from est_analysis.experiments.small_nets.first_tasks import TaskSizes
from est_analysis.experiments.small_nets.linear_factors import LinearSettings, measure_linear
from est_analysis.experiments.study import Request, Study

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
Training = tuple[str, str, str]  # task, net, label


@dataclass(frozen=True, kw_only=True)
class FirstScale:
    """How large the first experiments are run.

    Attributes:
        steps: of every bank but the shorter controls.
        seeds: how many, 0, 1, ..., one bank together.
        rates: learning rates to choose from.
        rate_seeds: seeds on which they are chosen; none where there is one rate.
        sizes: of the tasks.
        linear: the linear nets.
        cost: what to expect, in words.
    """

    steps: int
    seeds: int = 10
    rates: tuple[float, ...] = RATES
    rate_seeds: tuple[int, ...] = (100, 101, 102)
    sizes: TaskSizes = field(default_factory=TaskSizes)
    linear: LinearSettings = field(default_factory=LinearSettings)
    cost: str

    def spec(self, training: Training, lr: float, seeds: Sequence[int]) -> FirstSpec:
        """One bank."""
        task, net, label = training
        contender = NETS[net][label]
        return first_spec(task, net, contender, steps=self.steps, lr=lr, seeds=tuple(seeds), sizes=self.sizes)


SCALES = {
    "smoke": FirstScale(
        steps=15,
        seeds=2,
        rates=(3e-3,),
        sizes=TaskSizes(batch_size=4, held_out=20),
        linear=LinearSettings(steps=20, units=4, seeds=2),
        cost="seconds; shows that the code runs, nothing else",
    ),
    "quick": FirstScale(steps=720, cost="about five minutes on two cores"),
}


def best_rates(scale: FirstScale, run: Callable[[Sequence[FirstSpec]], pd.DataFrame]) -> Mapping[Training, float]:
    """The learning rate of every training: the smallest mean final validation loss over the seeds set aside.

    A rate at which a net diverges, so that `run` gives no rows of its bank, is never the best.
    """
    if len(scale.rates) == 1:
        return dict.fromkeys(trainings(), scale.rates[0])
    tried = {(one, lr): scale.spec(one, lr, scale.rate_seeds) for one in trainings() for lr in scale.rates}
    rows = run(list(tried.values()))
    rows = rows[rows["metric"] == "validation_loss"]
    last = rows[rows["step"] == rows.groupby("run_id")["step"].transform("max")]
    losses = last.groupby("run_id")["value"].mean()
    ends = {key: losses.get(run_id(spec, data_hash=""), inf) for key, spec in tried.items()}
    return {one: min(scale.rates, key=lambda lr, one=one: ends[one, lr]) for one in trainings()}


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every bank with the columns task, net and lr, those of the linear nets, and facts for the report."""
    scale = SCALES[request.scale]
    if request.seeds:
        scale = replace(scale, seeds=request.seeds, linear=replace(scale.linear, seeds=request.seeds))
    workers = request.processes

    def run(specs: Sequence[FirstSpec], train: Callable[..., Any] = run_first) -> pd.DataFrame:
        chains = [[partial(train, spec, request.runs)] for spec in specs]
        folders = run_in_pool(chains, workers=workers, show=lambda: None, saved=str(request.runs))
        return collect(folder for folder in folders if folder is not None)

    request.say(f"first experiments, {request.scale} scale: {len(trainings())} banks, {workers} at once; rates first")
    rates = best_rates(scale, partial(run, train=try_first))
    request.say("learning rates are chosen")
    specs = {one: scale.spec(one, rates[one], range(scale.seeds)) for one in trainings()}
    labels = {
        run_id(spec, data_hash=""): {"method": label, "task": task, "net": net, "lr": spec.settings.lr}
        for (task, net, label), spec in specs.items()
    }
    frame = labelled(run(list(specs.values())), labels)
    linear = measure_linear(scale.linear).assign(task="linear", net="linear", lr=scale.linear.lr)
    return pd.concat([frame, linear], ignore_index=True), {
        "seeds": list(range(scale.seeds)),
        "rates": [[*one, lr] for one, lr in rates.items()],
    }


STUDY = Study(
    name="first-experiments",
    description="what readers would try first: an MLP, stacks without norm or residuals, growth shapes, linear nets",
    version=1,
    scales={name: scale.cost for name, scale in SCALES.items()},
    measure=measure,
    on_text=False,
)
