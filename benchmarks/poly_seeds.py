"""Seed-steps a second of the bank of residual nets, beside a plain loop over seeds.

    python benchmarks/poly_seeds.py [--seeds 8] [--method raptr] [--rounds 5] [--batch 128] [--csv PATH]

All train the nets of `poly-raptr-vs-pld` at quick scale: same data, masks and optimizer. The plain loop is what one
writes without a bank: for each seed a forward with the step's mask, `backward` and `torch.optim.AdamW`. Both run in one
process with all threads and in two processes of one thread, half of the seeds each. Every contestant takes its turn in
every round, each time in fresh processes; medians and quartiles over rounds, ratios round by round.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from est_analysis.experiments.small_nets.polynomial_recipes import STUDY_SCALES
from est_analysis.experiments.small_nets.polynomials import PolynomialData, PolynomialSpec
from est_analysis.models.bank import ResidualNetBank, join_masks
from est_analysis.train.allocator import keep_freed_memory
from est_analysis.train.optim import build_optimizer

WARM_UP, STEPS = 10, 60


def plain(spec: PolynomialSpec, data: PolynomialData):
    """One seed after the other."""
    nets = [spec.net(seed) for seed in spec.seeds]
    methods = [spec.build_method(seed) for seed in spec.seeds]
    rates = {"lr": spec.settings.lr, "betas": spec.settings.betas, "weight_decay": 0.0}
    optimizers = [torch.optim.AdamW(net.parameters(), **rates) for net in nets]

    def step(number: int) -> None:
        x, y = data.batch(number)
        for index, (net, method, optimizer) in enumerate(zip(nets, methods, optimizers, strict=True)):
            optimizer.zero_grad()
            net.loss(x[index], y[index], method.mask(number)).backward()
            optimizer.step()

    return step


def bank(spec: PolynomialSpec, data: PolynomialData):
    """All seeds at once."""
    keep_freed_memory()
    nets = ResidualNetBank([spec.net(seed) for seed in spec.seeds])
    methods = [spec.build_method(seed) for seed in spec.seeds]
    optimizer = build_optimizer(nets, spec.settings)

    def step(number: int) -> None:
        x, y = data.batch(number)
        nets.gradients(x, y, join_masks([method.mask(number) for method in methods], spec.hidden))
        optimizer.step()

    return step


CONTESTANTS = {"plain loop": plain, "bank": bank}


def seed_steps_a_second(name: str, spec: PolynomialSpec, threads: int) -> float:
    """In this process, from a step in the middle of training on."""
    torch.set_num_threads(threads)
    step = CONTESTANTS[name](spec, PolynomialData(spec))
    first = spec.settings.steps // 2
    for number in range(first, first + WARM_UP):
        step(number)
    start = time.perf_counter()
    for number in range(first + WARM_UP, first + WARM_UP + STEPS):
        step(number)
    return len(spec.seeds) * STEPS / (time.perf_counter() - start)


def rate(name: str, spec: PolynomialSpec, processes: int, cores: int) -> float:
    """The sum over `processes` that run at the same time, each with its share of seeds and cores."""
    shares = [replace(spec, seeds=spec.seeds[i::processes]) for i in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(processes)))  # both are up before either starts
        jobs = [pool.submit(seed_steps_a_second, name, share, cores // processes) for share in shares]
        return sum(job.result() for job in jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--method", default="raptr")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=0, help="points a step; 0: the recipe's")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    spec = STUDY_SCALES["quick"].spec(arguments.method, range(arguments.seeds))
    spec = replace(spec, batch_size=arguments.batch or spec.batch_size)
    cores = torch.get_num_threads()
    ways = [(name, processes) for name in CONTESTANTS for processes in (1, 2)]
    found = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in ways:
            found[way].append(rate(way[0], spec, way[1], cores))
    print(
        f"{arguments.seeds} seeds, {arguments.method}, d={spec.dimension}, {spec.num_layers} blocks of width "
        f"{spec.hidden}, {spec.batch_size} points; {cores} cores, torch {torch.__version__}"
    )
    print(f"{'contestant':12} {'processes':>9} {'seed-steps/s':>13} {'x plain loop':>13}  quartiles")
    rows = []
    for (name, processes), rates in found.items():
        ratios = [one / base for one, base in zip(rates, found["plain loop", 1], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"{name:12} {processes:9} {statistics.median(rates):13.0f} {middle:13.2f}  {low:.2f}-{high:.2f}")
        rows += [(name, processes, number, one) for number, one in enumerate(rates)]
    if arguments.csv:
        pd.DataFrame(rows, columns=["contestant", "processes", "round", "seed_steps_a_second"]).to_csv(
            arguments.csv, index=False
        )


if __name__ == "__main__":
    main()
