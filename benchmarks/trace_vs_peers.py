"""What a trace of the Hessian costs, beside PyHessian, curvlinops and hessian-eigenthings, on one trained GPT-2.

    python benchmarks/trace_vs_peers.py [--shape mini] [--csv PATH] [--peer-seconds 120] [--parts abcd]

(a) One probe, in gradients (forward and backward of Hugging Face's model with its default attention). Every contestant
    takes its turn in every round, in one process; medians over rounds, ratios round by round.
(b) Seconds until the standard error is 2 % of the trace, on 1,024 and on 64 sequences of held-out text. Ours takes the
    1,024 as a sample of all text, so its error includes that of the data; the peers' is that of the probes alone.
(c) Whether the estimates agree within their errors.
(d) Peak memory for one sequence of 1,024 tokens on the shape of GPT-2 124M, every contestant in a fresh process.

A peer that would need longer than --peer-seconds is stopped there and its time is extrapolated, which the tables mark
with `~`, from measured seconds a probe and the measured spread of probes:

- Hutchinson on the sequences measured: n = (std / (0.02 mean))^2 probes; std is that of the samples of all the peers'
  Hutchinsons together, which are draws of one random variable. It is printed too for those that reached 2 % by their
  own error, since an error told from four samples is sometimes small by luck.
- Hutchinson on more sequences: the variance of a probe over N random sequences is C + (D - C) / N, with D the variance
  on one (or on one micro-batch: ours measures it) and C from the peers' samples on 64. Its seconds are those on 64,
  times N / 64.
- XTrace and Hutch++: the products of the last budget times (its error / 2 %), the O(1/n) rate that they have at best;
  on more sequences by as much fewer as Hutchinson needs.

XTrace and Hutch++ must be told a budget; theirs is doubled until it is enough, and only the last run's seconds count.

The peers are needed, without what their requirements would do to torch:

    pip install --no-deps curvlinops-for-pytorch==3.0.1 hessian-eigenthings==1.0.0a5 einops==0.8.2 einconv==0.1.0 \
        linear_operator==0.6.1 opt-einsum==3.4.0
"""

import argparse
import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from subnet_step import time_in_turn
from torch import nn
from trace_contest import (
    BASELINE,
    OURS,
    SPECS,
    Contest,
    Records,
    gradient_step,
    our_step,
)
from trace_peers import (
    CurvlinopsHutchinson,
    EigenthingsHutchinson,
    Estimate,
    PyHessian,
    hf_batch,
    versions,
)
from trace_wall_times import WallTimes
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from est_analysis.models.families import find_preset
from est_analysis.models.hf import hf_config
from est_analysis.train.allocator import keep_freed_memory

# (a)


def cost_steps(contest: Contest, size: int) -> dict[str, tuple[Callable, int]]:
    """Contestants by name: a step, and the probes that it measures."""
    batches = contest.batches(size, size)
    steps: dict[str, tuple[Callable, int]] = {BASELINE: (gradient_step(contest.model, batches[0]), 1)}
    for probes, groups in ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)):
        name = f"{OURS}, K={probes}" + (", 2 groups" if groups == 2 else "")
        steps[name] = our_step(contest.model, batches[0], probes, groups), probes
    steps["PyHessian, dataloader"] = PyHessian(contest.eager, batches).draw, 1
    # A model of its own, since the graph hangs on its gradients.
    steps["PyHessian, one batch, graph kept"] = PyHessian(contest.load("eager"), batches, keep_graph=True).draw, 1
    for columns in (1, 4, 8):
        name = f"curvlinops, {columns} column{'s' if columns > 1 else ''}"
        steps[name] = CurvlinopsHutchinson(contest.eager, batches, at_once=columns).draw, columns
    steps["hessian-eigenthings"] = EigenthingsHutchinson(contest.eager, batches).draw, 1
    differences = EigenthingsHutchinson(contest.model, batches, method="finite_difference")
    steps["hessian-eigenthings, differences"] = differences.draw, 1
    return steps


def cost(contest: Contest, rounds: int, records: Records) -> None:
    size = contest.micro
    steps = cost_steps(contest, size)
    seconds = time_in_turn({name: step for name, (step, _) in steps.items()}, rounds)
    print(f"\n(a) one probe, {size} x {contest.seq_len} tokens, {rounds} rounds")
    print(f"{'contestant':34} {'ms a call':>10} {'probes':>6} {'gradients a probe':>18} {'quartiles':>15}")
    for name, (_, probes) in steps.items():
        # Round by round, so that a slow spell of the machine cancels.
        unit = seconds[BASELINE] if name != BASELINE else [statistics.median(seconds[name])] * rounds
        ratios = [a / b / probes for a, b in zip(seconds[name], unit, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1e3 * statistics.median(seconds[name])
        print(f"{name:34} {milliseconds:10.2f} {probes:6d} {median:18.3f} {low:7.3f}-{high:.3f}")
        for metric, value in (
            ("milliseconds", milliseconds),
            ("gradients_per_probe", median),
            ("gradients_per_probe_q1", low),
            ("gradients_per_probe_q3", high),
        ):
            records.add(name, contest.shape, size, metric, value)
    exact, off = (
        EigenthingsHutchinson(model, contest.batches(size, size), method=method).draw()[0]
        for model, method in ((contest.eager, "autograd"), (contest.model, "finite_difference"))
    )
    print(f"hessian-eigenthings along one and the same probe: {exact:.4g} by autograd, {off:.4g} by finite differences")
    records.add("hessian-eigenthings, differences", contest.shape, size, "relative_error", off / exact - 1)


# (c)


def agreement(estimates: dict[int, dict[str, Estimate]], shape: str, records: Records) -> None:
    print("\n(c) |a - b| / sqrt(sa^2 + sb^2); above 1.96 is outside, as one pair in twenty is by chance")
    for sequences, found in estimates.items():
        for (one, a), (other, b) in itertools.combinations(found.items(), 2):
            distance = abs(a.value - b.value) / math.hypot(a.stderr, b.stderr)
            verdict = "inside" if distance <= 1.96 else "OUTSIDE"
            print(f"{sequences:5,d}: {one:32} {other:32} {distance:6.2f} {verdict}")
            records.add(f"{one} | {other}", shape, sequences, "distance_in_stderrs", distance)


# (d)

MEMORY_TOKENS = 1024


def memory_steps() -> dict[str, Callable[[Callable, tuple], Callable[[], object]]]:
    """Contestants by name: from a loader of models and a batch to a step."""

    def inference(load: Callable, batch: tuple) -> Callable[[], object]:
        model = load("sdpa")
        return torch.no_grad()(lambda: model(**hf_batch(batch)).loss.item())

    return {
        "inference (logits and loss)": inference,
        BASELINE: lambda load, batch: gradient_step(load("sdpa"), batch),
        f"{OURS}, K=1": lambda load, batch: our_step(load("sdpa"), batch, 1, 1),
        f"{OURS}, K=2, 2 groups": lambda load, batch: our_step(load("sdpa"), batch, 2, 2),
        "PyHessian, dataloader": lambda load, batch: PyHessian(load("eager"), [batch]).draw,
        "curvlinops, 1 column": lambda load, batch: CurvlinopsHutchinson(load("eager"), [batch], at_once=1).draw,
        "hessian-eigenthings": lambda load, batch: EigenthingsHutchinson(load("eager"), [batch]).draw,
        "hessian-eigenthings, differences": lambda load, batch: (
            EigenthingsHutchinson(load("sdpa"), [batch], method="finite_difference").draw
        ),
    }


def memory_of(name: str) -> None:
    """In a fresh process: MiB held with the model loaded, and at the peak of one step."""
    config = find_preset("gpt2", vocab_size=50257)

    def load(attention: str) -> nn.Module:
        sizes = hf_config(config)
        sizes._attn_implementation = attention
        torch.manual_seed(0)
        return GPT2LMHeadModel(sizes).eval()

    tokens = torch.randint(config.vocab_size, (1, MEMORY_TOKENS + 1), generator=torch.Generator().manual_seed(0))
    step = memory_steps()[name](load, (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    loaded = _status("VmRSS")
    start = time.perf_counter()
    step()
    print(loaded, _status("VmHWM"), time.perf_counter() - start)


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def memory(records: Records) -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("\n(d) needs Linux")
        return
    print(f"\n(d) peak memory, GPT-2 124M at random weights, 1 x {MEMORY_TOKENS:,} tokens, glibc's defaults, MiB")
    print(f"{'contestant':34} {'loaded':>8} {'peak':>8} {'above loaded':>13} {'x inference':>12} {'seconds':>8}")
    base = math.nan
    for name in memory_steps():
        command = [sys.executable, __file__, "--memory-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded, peak, seconds = map(float, done.stdout.split()[-3:])
        base = peak if math.isnan(base) else base
        ratio = peak / base
        print(f"{name:34} {loaded:8.0f} {peak:8.0f} {peak - loaded:13.0f} {ratio:12.2f} {seconds:8.1f}", flush=True)
        for metric, value in (("loaded_mib", loaded), ("peak_mib", peak), ("peak_over_inference", ratio)):
            records.add(name, "gpt2", 1, metric, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SPECS, default="mini")
    parser.add_argument("--parts", default="abcd", help="which of a, b, c, d; c needs b")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer-seconds", type=float, default=120, help="a contestant and a set of sequences")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of trained models")
    parser.add_argument("--csv", type=Path, default=None, help="all figures, tidy")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
    if arguments.memory_of:
        return memory_of(arguments.memory_of)
    torch.manual_seed(0)
    print(f"{versions()}; Python {platform.python_version()}, 1 thread of {os.cpu_count()}, {platform.machine()}")
    records = Records()
    if set(arguments.parts) & set("abc"):
        contest = Contest(arguments.shape, arguments.runs)
        keep_freed_memory()  # every contestant profits
        sizes = contest.model.config
        print(
            f"{contest.shape}: {sizes.n_layer} layers, d={sizes.n_embd}, vocabulary {sizes.vocab_size}, "
            f"{contest.model.num_parameters():,} parameters, run {contest.checkpoint.parts[-3]}, held-out text; "
            "the peers with attn_implementation='eager', which their second derivatives need"
        )
        if "a" in arguments.parts:
            cost(contest, arguments.rounds, records)
        if "b" in arguments.parts:
            times = WallTimes(contest, arguments.peer_seconds, records)
            times.measure()
            if "c" in arguments.parts:
                agreement(times.estimates, contest.shape, records)
    if "d" in arguments.parts:
        memory(records)
    if arguments.csv:
        records.write(arguments.csv)


if __name__ == "__main__":
    main()
