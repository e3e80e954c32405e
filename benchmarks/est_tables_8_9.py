"""EST's Tables 8 and 9 on this machine: milliseconds of attention, MLP, layer and training step by micro-batch.

    python benchmarks/est_tables_8_9.py --device cuda --out paper_figures/data/est_step_times.csv
    python benchmarks/est_tables_8_9.py --smoke                    # tiny sizes on the CPU: shows that the code runs

Modules are timed in their forward pass with the graph kept, as in training; a step is forward, backward, clipping and
AdamW. A fresh mask every call, drawn beforehand. The full model and its subnetworks take turns round by round, eager
and compiled. What does not fit into the device's memory is left out and named. `est figures est-table8 est-table9` puts
the rows beside the published ones, which are of an A100 80GB.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from est_analysis.data.objective import Causal
from est_analysis.methods import build_method
from est_analysis.models.families import build_model, find_preset
from est_analysis.models.parts import rotary_table
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.train.allocator import keep_freed_memory
from est_analysis.train.optim import build_optimizer
from est_analysis.train.settings import Settings

STEPS = 1500
STAGES = {"stage 1": 1, "stage 2": STEPS // 3}  # a step of each stage of gpt2-est
DRAWN = 8  # masks, taken in turn


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, and the batches that it is timed on."""

    family: str
    preset: str
    vocab_size: int
    seq_len: int
    micro_batches: tuple[int, ...]


PAPER = (
    Shape(family="gpt2", preset="gpt2", vocab_size=50257, seq_len=1024, micro_batches=(8, 16, 32, 48)),
    Shape(family="llama", preset="tinyllama", vocab_size=32000, seq_len=2048, micro_batches=(1, 2, 4, 8)),
)
SMOKE = (
    Shape(family="gpt2", preset="tiny", vocab_size=256, seq_len=32, micro_batches=(8, 16)),
    Shape(family="llama", preset="tiny", vocab_size=256, seq_len=32, micro_batches=(1, 2)),
)
Call = Callable[[], Any]


class Bench:
    """One model on one device, eager or compiled."""

    def __init__(self, shape: Shape, *, device: str, precision: str, mode: str) -> None:
        self.shape, self.device, self.precision, self.mode = shape, device, precision, mode
        self.config = find_preset(shape.preset, family=shape.family, vocab_size=shape.vocab_size)
        architecture = self.config.architecture_on(Causal(vocab_size=shape.vocab_size).lengths(shape.seq_len))
        method = build_method("est", shape=architecture.stack, total_steps=STEPS, seed=0)
        self.masks = {
            stage: [method.mask(first + number).to(device) for number in range(DRAWN)]
            for stage, first in STAGES.items()
        }
        self.model = build_model(self.config).initialise(0).to(device)
        self.optimizer = build_optimizer(self.model, Settings(steps=1, lr=1e-4))
        block = self.model.blocks[0]
        self.modules: dict[str, Callable[..., torch.Tensor]] = {
            "attention": block.attention,
            "mlp": block.mlp,
            "layer": block,
        }
        if mode == "compiled":
            for one in self.model.blocks:
                one.compile()
            self.modules |= {part: torch.compile(self.modules[part]) for part in ("attention", "mlp")}

    def _autocast(self):
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def calls(self, micro_batch: int) -> dict[tuple[str, str], Call]:
        """Everything to time at `micro_batch`, by part and by what of it is active."""
        generator = torch.Generator().manual_seed(0)
        size = (micro_batch, self.shape.seq_len)
        stream = torch.randn(*size, self.config.hidden, generator=generator).to(self.device).requires_grad_()
        tokens = torch.randint(self.shape.vocab_size, size, generator=generator).to(self.device)
        found: dict[tuple[str, str], Call] = {}
        for part, module in self.modules.items():
            found[part, "full"] = self._forward(module, part, stream, itertools.repeat(LayerMask()))
            drawn = itertools.cycle([mask.layers[0] for mask in self.masks["stage 2"]])
            found[part, "stage 2"] = self._forward(module, part, stream, drawn)
        found["step", "full"] = self._step(tokens, itertools.repeat(None))
        for stage, masks in self.masks.items():
            found["step", stage] = self._step(tokens, itertools.cycle(masks))
        return found

    def _forward(self, module: Callable[..., torch.Tensor], part: str, x: torch.Tensor, masks: Iterator) -> Call:
        shared: tuple[Any, ...] = ()
        if self.shape.family == "llama" and part != "mlp":
            shared = (rotary_table(self.shape.seq_len, self.config.head_dim, self.config.rope_theta, like=x),)

        def call() -> None:
            with self._autocast():
                module(x, next(masks), *shared)

        return call

    def _step(self, tokens: torch.Tensor, masks: Iterator[SubnetMask | None]) -> Call:
        def call() -> None:
            with self._autocast():
                loss = self.model.loss(tokens, tokens, mask=next(masks))
            loss.backward()
            for parameter in self.model.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return call

    def milliseconds(self, call: Call, repeats: int) -> float:
        """The mean time of `repeats` calls in a row: on a GPU between two events on its own clock."""
        if torch.device(self.device).type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return 1e3 * (time.perf_counter() - start) / repeats
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / repeats


def rows_of(bench: Bench, micro_batch: int, rounds: int, *, steps: bool) -> list[dict[str, Any]]:
    """The times of all modules, or of all steps, at one micro-batch, taken in turn, after two rounds of warm-up."""
    rows = []
    calls = {key: call for key, call in bench.calls(micro_batch).items() if (key[0] == "step") == steps}
    repeats = 3 if steps else 20
    for number in range(-2, rounds):
        for (part, active), call in calls.items():
            found = bench.milliseconds(call, repeats)
            if number >= 0:
                row = {"micro_batch": micro_batch, "part": part, "active": active, "mode": bench.mode}
                rows.append(row | {"round": number, "milliseconds": found})
    return rows


def measure(shape: Shape, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one model; what does not fit is named and left out."""
    named = {
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "CPU",
        "torch": torch.__version__,
        "precision": arguments.precision,
        "family": shape.family,
        "preset": shape.preset,
        "seq_len": shape.seq_len,
    }
    rows = []
    for mode in arguments.modes:
        bench = Bench(shape, device=arguments.device, precision=arguments.precision, mode=mode)
        for micro_batch, steps in itertools.product(shape.micro_batches, (False, True)):
            torch.compiler.reset()  # every size has kernels of its own
            try:
                found = rows_of(bench, micro_batch, arguments.rounds, steps=steps)
            except torch.OutOfMemoryError:
                what = "a step" if steps else "modules"
                print(f"{shape.family} {mode}: {what} of {micro_batch} sequences do not fit into {named['device']}")
                bench.optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                continue
            rows += [named | row for row in found]
            report(shape, mode, micro_batch, found)
        del bench
    return rows


def report(shape: Shape, mode: str, micro_batch: int, rows: list[dict[str, Any]]) -> None:
    """Prints the medians, and how many times faster each subnetwork is than the full part."""
    times: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        times.setdefault((row["part"], row["active"]), []).append(row["milliseconds"])
    print(f"\n{shape.family} {shape.preset}, {mode}, micro-batch {micro_batch} x {shape.seq_len} tokens")
    for (part, active), found in times.items():
        full = times[part, "full"]
        ratio = statistics.median(a / b for a, b in zip(full, found, strict=True))
        print(f"  {part:10} {active:8} {statistics.median(found):10.3f} ms {ratio:7.3f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cuda for the paper's sizes")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default=None, help="bfloat16 on a GPU")
    parser.add_argument("--family", choices=("gpt2", "llama"), default=None, help="both unless given")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, default=None, help="CSV file to write the rows to")
    arguments = parser.parse_args()
    arguments.precision = arguments.precision or ("bfloat16" if arguments.device.startswith("cuda") else "float32")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU here; --smoke times tiny sizes on the CPU")
    if arguments.device.startswith("cuda:"):
        torch.cuda.set_device(arguments.device)  # whose clock the events have
    if arguments.device == "cpu":
        keep_freed_memory()
        if not arguments.smoke:
            parser.error("--device cpu: the paper's sizes take hours on a CPU; give --smoke or --device cuda")
    shapes = [shape for shape in (SMOKE if arguments.smoke else PAPER) if arguments.family in (None, shape.family)]
    rows = [row for shape in shapes for row in measure(shape, arguments)]
    if arguments.out and rows:
        frame = pd.DataFrame(rows)
        frame.to_csv(arguments.out, index=False, float_format="%.6g")
        print(f"\n{len(frame)} rows: {arguments.out}")


if __name__ == "__main__":
    main()
