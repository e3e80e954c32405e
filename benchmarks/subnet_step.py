"""How much of the FLOPs saved is time saved, and how fast the full step is beside its peers.

    python benchmarks/subnet_step.py [--family llama] [--shape tiny] [--rounds 7] [--threads 2]

Every contestant takes one whole training step (forward, backward, clipping, optimizer) a round, in turn, in one
process, so that the machine's moods hit all alike; medians over rounds, ratios in one run. All contestants profit from
our allocator setting; what it is worth is measured apart, in two fresh processes.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from peers import HuggingFace, HuggingFaceMasked, HuggingFaceSeq2Seq, HuggingFaceSeq2SeqEager, PlainLoop

from est_analysis.data.masked import Masked
from est_analysis.data.objective import Causal, Objective
from est_analysis.data.ul2 import UL2
from est_analysis.methods import build_method
from est_analysis.models.config import ModelConfig
from est_analysis.models.families import build_model, find_preset
from est_analysis.models.language_model import LanguageModel
from est_analysis.subnet.mask import SubnetMask
from est_analysis.train.allocator import keep_freed_memory
from est_analysis.train.index_generator import IndexGenerator
from est_analysis.train.optim import build_optimizer
from est_analysis.train.settings import Settings

# family: preset: vocabulary, sequences, tokens a sequence
SHAPES = {
    "gpt2": {"tiny": (256, 32, 128), "mini": (256, 16, 256), "gpt2": (50257, 4, 512)},
    "llama": {"tiny": (256, 32, 128), "mini": (256, 16, 256), "tinyllama": (32000, 1, 512)},
    "bert": {"tiny": (256, 32, 128), "mini": (256, 16, 256), "bert-base": (30522, 4, 512)},
    "t5": {"tiny": (384, 32, 128), "mini": (384, 16, 256), "t5-v1.1-small": (32128, 4, 512)},
}
LAYERS = {"tinyllama": 4}  # of a preset whose layers would not all fit; the width of each is the preset's
PEERS = {
    "gpt2": {"GPT2LMHeadModel (sdpa)": HuggingFace, "nanoGPT-style loop": PlainLoop},
    "llama": {"LlamaForCausalLM (sdpa)": HuggingFace},
    "bert": {"BertForMaskedLM (sdpa)": HuggingFaceMasked},
    "t5": {
        "T5ForCond.Gen. (sdpa)": HuggingFaceSeq2Seq,
        "T5ForCond.Gen. (eager)": HuggingFaceSeq2SeqEager,
    },
}
# ways to sample shared keys and values; each is timed stage by stage
HEAD_SAMPLINGS = {
    "gpt2": {"": "within_groups"},
    "llama": {"": "within_groups", "whole groups, ": "whole_groups"},
    "bert": {"": "within_groups"},
    "t5": {"": "within_groups"},
}
STEPS = 1500
STAGES = {"stage 1": 1, "stage 2": STEPS // 3, "full": STEPS}  # a step of each stage of gpt2-est


def _objective(config: ModelConfig) -> Objective:
    """What the family is trained on; the last ids of the vocabulary stand for special tokens."""
    if config.objectives[0] == "masked":
        return Masked(vocab_size=config.vocab_size, mask_id=config.vocab_size - 1)
    if config.objectives[0] == "ul2":
        mode, sentinel, eos, pad = (config.vocab_size - count for count in (1, 101, 102, 103))
        modes = ((mode,),) * len(UL2.mixture)
        ids = {"pad_id": pad, "eos_id": eos, "sentinel_ids": tuple(range(sentinel, mode)), "mode_ids": modes}
        return UL2(vocab_size=config.vocab_size, **ids)
    return Causal(vocab_size=config.vocab_size)


class Contest:
    """A model shape, a batch, and steps to time."""

    def __init__(self, family: str, shape: str) -> None:
        self.family = family
        vocab, self.batch, self.seq_len = SHAPES[family][shape]
        config = find_preset(shape, family=family, vocab_size=vocab)
        self.config: ModelConfig = replace(config, num_layers=LAYERS.get(shape, config.num_layers))
        objective = _objective(self.config)
        self.architecture = self.config.architecture_on(objective.lengths(self.seq_len))
        generator = torch.Generator().manual_seed(0)
        data = torch.randint(vocab, (self.batch, self.seq_len + 1), generator=generator)
        self.data = objective.batch(data[:, :-1].contiguous(), data[:, 1:].contiguous(), generator=generator)
        self.methods = {
            name: build_method(
                "est", shape=self.architecture.stack, total_steps=STEPS, seed=0, options={"head_sampling": how}
            )
            for name, how in HEAD_SAMPLINGS[family].items()
        }
        self.method = self.methods[""]

    def step(self, model, optimizer, mask: SubnetMask | None = None) -> None:
        loss = model.loss(*self.data) if mask is None else model.loss(*self.data, mask=mask)
        loss.backward()
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def ours(self) -> tuple[LanguageModel, torch.optim.Optimizer]:
        model = build_model(self.config).initialise(0)
        return model, build_optimizer(model, Settings(steps=1, lr=1e-4))

    def stage_steps(self) -> dict[str, Callable[[], None]]:
        """Each stage with a fresh mask every step, drawn beforehand."""
        model, optimizer = self.ours()

        def stepper(stage: str) -> Callable[[], None]:
            masks = itertools.cycle([self.mask(stage, i) for i in range(16)])
            return lambda: self.step(model, optimizer, next(masks))

        return {f"ours, {stage}": stepper(stage) for stage in self.stages()}

    def stages(self) -> list[str]:
        """Every stage with every way of sampling heads, the full step last."""
        return [*(way + stage for way in self.methods for stage in STAGES if stage != "full"), "full"]

    def mask(self, stage: str, number: int) -> SubnetMask | None:
        """The mask of a step of `stage`."""
        way, name = stage[: len(stage) - len("stage 1")], stage[-len("stage 1") :]
        return None if stage == "full" else self.methods[way].mask(STAGES[name] + number)

    def peer_steps(self) -> dict[str, Callable[[], None]]:
        steps = {}
        for name, peer in PEERS[self.family].items():
            model = peer(self.config)
            optimizer = model.optimizer()
            steps[name] = lambda model=model, optimizer=optimizer: self.step(model, optimizer)
        return steps

    def flops(self, stage: str) -> float:
        return self.architecture.mask_flops(self.mask(stage, 0)) + self.architecture.head_flops


def time_in_turn(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round, after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(contest: Contest, seconds: dict[str, list[float]]) -> None:
    full = seconds["ours, full"]
    print(f"{'contestant':28} {'median s':>9} {'min':>8} {'max':>8} {'speed-up':>9} {'FLOPs allow':>11} {'of it':>6}")
    for name, times in seconds.items():
        row = f"{name:28} {statistics.median(times):9.4f} {min(times):8.4f} {max(times):8.4f}"
        # Round by round, so that a slow spell of the machine cancels.
        ratio = statistics.median(a / b for a, b in zip(full, times, strict=True))
        stage = name.removeprefix("ours, ")
        if stage in contest.stages():
            allowed = contest.flops("full") / contest.flops(stage)
            print(f"{row} {ratio:8.3f}x {allowed:10.3f}x {ratio / allowed:6.3f}")
        else:
            print(f"{row}   our full step is {1 / ratio:.3f}x as fast")


def index_generator_cost(contest: Contest, rounds: int) -> None:
    """The index generator's price: steps of stage 1 fed by its thread, against the same steps with masks at hand."""
    model, optimizer = contest.ours()
    count = 4 * rounds
    at_hand = itertools.cycle([contest.method.mask(step) for step in range(1, count + 1)])
    generator = IndexGenerator(contest.method, 1, count, ahead=8)
    with generator as masks:
        stream = iter(masks)
        steps = {
            "masks at hand": lambda: contest.step(model, optimizer, next(at_hand)),
            "index generator": lambda: contest.step(model, optimizer, next(stream)),
        }
        seconds = time_in_turn(steps, count - 2)
    ratio = statistics.median(seconds["index generator"]) / statistics.median(seconds["masks at hand"])
    start = time.perf_counter()
    for step in range(1, count + 1):
        contest.method.mask(step)
    drawing = (time.perf_counter() - start) / count
    step_time = statistics.median(seconds["masks at hand"])
    print(
        f"index generator: {100 * (ratio - 1):+.2f} % on a stage-1 step of {step_time:.4f} s; drawing a mask inline "
        f"would take {1e3 * drawing:.3f} ms ({100 * drawing / step_time:.2f} %)"
    )


def page_faults(arguments: argparse.Namespace) -> None:
    """Full steps with and without freed memory kept, each in its own process."""
    for keep in ("keep", "default"):
        command = [sys.executable, __file__, "--family", arguments.family, "--shape", arguments.shape]
        command += ["--threads", str(arguments.threads)]
        print(subprocess.run([*command, "--faults", keep], capture_output=True, text=True, check=True).stdout.strip())


def count_faults(contest: Contest, keep: bool, rounds: int) -> None:
    if keep:
        keep_freed_memory()
    model, optimizer = contest.ours()
    seconds = time_in_turn({"full": lambda: contest.step(model, optimizer)}, 2)["full"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = time_in_turn({"full": lambda: contest.step(model, optimizer)}, rounds)["full"]
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (rounds + 2)
    label = "freed memory kept" if keep else "glibc's defaults"
    print(f"{label:18} {statistics.median(seconds):.4f} s a full step, {faults:,.0f} page faults a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=SHAPES, default="gpt2")
    parser.add_argument("--shape", default=None, help="one preset of the family; all of them unless given")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--faults", choices=("keep", "default"), default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.shape and arguments.shape not in SHAPES[arguments.family]:
        parser.error(f"--shape {arguments.shape}: {arguments.family} has {', '.join(SHAPES[arguments.family])}")
    torch.set_num_threads(arguments.threads)
    if arguments.faults:
        return count_faults(Contest(arguments.family, arguments.shape), arguments.faults == "keep", 5)
    for shape in [arguments.shape] if arguments.shape else SHAPES[arguments.family]:
        arguments.shape = shape
        rounds = arguments.rounds or (25 if shape in ("tiny", "mini") else 7)
        contest = Contest(arguments.family, shape)
        print(
            f"\n{arguments.family} {shape}: {contest.config.num_layers} layers, d={contest.config.hidden}, "
            f"{contest.config.num_heads} heads, vocabulary {contest.config.vocab_size}; {contest.batch} x "
            f"{contest.seq_len} tokens; {arguments.threads} threads, torch {torch.__version__}, {rounds} rounds"
        )
        page_faults(arguments)
        keep_freed_memory()
        report(contest, time_in_turn({**contest.stage_steps(), **contest.peer_steps()}, rounds))
        index_generator_cost(contest, rounds)


if __name__ == "__main__":
    main()
