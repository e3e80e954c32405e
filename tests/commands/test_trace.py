"""`est trace`, `est merge` and `est compare` as they are typed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

KEYS = {"trace", "stderr", "pairs", "engine", "loss", "num_parameters", "seconds", "peak_rss_bytes"}
BYTES = "--tokenizer bytes"


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path, _place):
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(fork, shared, tmp_path_factory):
    """A run of ours with checkpoints of several steps."""
    folder = tmp_path_factory.mktemp("trained")
    line = "--steps 12 --batch 4 --seq-len 32 --threads 1 --log-every 4 --eval-every 7 --save-every 5 --method full"
    command = ["train", "--corpus", shared / "text.txt", *line.split(), "--out", "run"]
    assert fork.wait(fork.start(folder, *command)) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def checkpoint(run):
    """The last of them: a folder as `transformers` writes them."""
    return run / "checkpoints" / "step000012"


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged; outside of any run, so that its sequences are as long as it reads."""
    return shutil.copytree(checkpoint, tmp_path / "copied")


@pytest.fixture
def trace(est, shared):
    """`trace(run, "--max-pairs", 8)` on 32 tokens of the small text, 2 probes at once; later options override."""

    def call(checkpoint, line="", *more, text=("--corpus", shared / "text.txt")):
        small = "--seq-len 32 --micro-batch 1 --probes 2 --max-pairs 8 --threads 1"
        return est("trace", checkpoint, *text, *small.split(), *line.split(), *more)

    return call


@pytest.fixture
def record(trace):
    def record(*arguments, **options):
        result = trace(*arguments, "--json", **options)
        assert result.code == 0, result.err
        return json.loads(result.out)

    return record


def lines(path):
    return [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]


# --- what it says -----------------------------------------------------------------------------------------------------


def test_for_a_person(trace, run):
    result = trace(run, "--rel-se 5 --max-pairs 200")
    assert result.code == 0
    assert result.out.startswith("Hessian trace  ")
    assert "95 % interval" in result.out
    assert "96 pairs over 48 batches" in result.out
    assert "memory: peak " in result.out
    assert "predicted peak" in result.err
    assert "warning" not in result.err


def test_for_a_program(record, run):
    found = record(run)
    assert found.keys() >= KEYS
    assert found["engine"] == "taylor"
    assert found["quantity"] == "Hessian trace"
    assert (found["pairs"], found["batches"], found["targets"]) == (8, 4, 128)
    assert found["peak_rss_bytes"] > 0
    assert found["stderr"] > 0
    assert found["stderr"] == pytest.approx(math.hypot(found["stderr_data"], found["stderr_probes"]))
    assert found["interval"][0] < found["trace"] < found["interval"][1]
    assert 0 < found["loss"] < 6


def test_engines_agree(record, run):
    taylor, hvp = (record(run, f"--engine {engine}") for engine in ("taylor", "hvp"))
    # Float32 sums of 200,000 products in another order, against traces of order 100: 1e-4 is ample.
    assert taylor["trace"] == pytest.approx(hvp["trace"], rel=1e-3)
    assert taylor["loss"] == pytest.approx(hvp["loss"], rel=1e-5)
    assert "Fisher" in record(run, "--engine fisher")["quantity"]


def test_the_same_command_again_measures_nothing(record, run):
    first = record(run)
    again = record(run)
    same = first.keys() - {"peak_rss_bytes", "predicted_peak_bytes"}
    assert {name: first[name] for name in same} == {name: again[name] for name in same}
    more = record(run, "--max-pairs 12")
    assert more["file"] == first["file"]
    assert more["pairs"] == 12
    assert more["seconds"] > first["seconds"], "it began anew"


def test_a_budget_that_is_not_enough_is_a_warning(trace, run):
    result = trace(run, "--rel-se 0.001")
    assert result.code == 0
    assert "est: warning: relative standard error " in result.err
    assert "after 8 pairs, not 0.1 %; raise --max-pairs to go on" in result.err
    assert json.loads(trace(run, "--rel-se 0.001 --json").out)["reached"] is False


def test_by_layer(trace, record, run):
    found = record(run, "--by-layer")
    assert found["engine"] == "hvp"
    assert sum(block["parameters"] for block in found["blocks"]) == found["num_parameters"]
    # The blocks of each measurement sum to its value, up to float64.
    assert sum(block["trace"] for block in found["blocks"]) == pytest.approx(found["trace"], rel=1e-9)
    assert sum(kind["trace"] for kind in found["kinds"]) == pytest.approx(found["trace"], rel=1e-9)
    shown = trace(run, "--by-layer").out
    assert "by layer" in shown
    assert "by kind of module" in shown


def test_spectrum(trace, record, run):
    found = record(run, "--spectrum")["spectrum"]
    assert len(found["top_eigenvalues"]) == 5
    assert len(found["density"]["grid"]) == len(found["density"]["density"])
    assert "largest eigenvalues" in trace(run, "--spectrum").out


def test_several_texts_are_read_one_after_the_other(record, run, tmp_path):
    for name, word in (("a", "alpha "), ("b", "beta ")):
        (tmp_path / f"{name}.txt").write_text((word * 12 + "\n") * 20)
    line = "--over batches --max-pairs 400 --rel-se 9"
    both = record(run, line, text=("--text", "a.txt", "--text", "b.txt"))
    one = record(run, line, text=("--text", "a.txt"))
    size = {name: (tmp_path / f"{name}.txt").stat().st_size for name in "ab"}
    assert both["targets"] == 32 * ((size["a"] + 1 + size["b"] + 1 + 1) // 32)
    assert one["targets"] < both["targets"]
    assert one["text"] != both["text"]
    assert both["stderr_data"] == 0


def test_an_error_that_cannot_be_told_is_null(est, record, trace, run):
    """One probe of each of four batches out of more: of exactly these batches nothing shows the probes' error."""
    line = "--over batches --probes 1 --max-pairs 4 --out four.jsonl"
    found = record(run, line)
    assert (found["stderr"], found["interval"], found["reached"]) == (None, [None, None], False)
    result = trace(run, line)
    assert "no standard error" in result.out
    assert "relative standard error unknown after 4 pairs" in result.err
    kept = Path("four.jsonl").read_text().splitlines(keepends=True)[:2]
    Path("four.jsonl").write_text("".join(kept))
    merged = est("merge", "four.jsonl", "--json").out
    assert "NaN" not in merged
    assert json.loads(merged)["interval"] == [None, None]


# --- shards, revisions, processes -------------------------------------------------------------------------------------


def test_shards_merged_are_one_estimate(est, record, trace, run, tmp_path):
    whole = record(run, "--out whole.jsonl")
    for i in (1, 2):
        assert trace(run, f"--shard {i}/2 --out part{i}.jsonl").code == 0
    merged = json.loads(est("merge", "part1.jsonl", "part2.jsonl", "--json").out)
    assert {name: merged[name] for name in ("trace", "stderr", "pairs", "loss")} == {
        name: whole[name] for name in ("trace", "stderr", "pairs", "loss")
    }
    assert lines(tmp_path / "whole.jsonl")[1:] == sorted(
        lines(tmp_path / "part1.jsonl")[1:] + lines(tmp_path / "part2.jsonl")[1:], key=lambda line: line["index"]
    )
    assert est("merge", "part1.jsonl", "part2.jsonl").out.startswith("Hessian trace  ")
    assert "a second time" in est("merge", "part1.jsonl", "part1.jsonl").error
    assert est("merge", "absent.jsonl").error.startswith("no file absent.jsonl")
    (tmp_path / "empty.jsonl").write_text(json.dumps({"engine": "taylor"}) + "\n")
    assert "holds no measurement yet" in est("merge", "empty.jsonl").error


def test_a_curve_over_revisions_and_a_duplicate_refused(trace, run, tmp_path):
    series = shutil.copytree(run, tmp_path / "series")
    steps = sorted(path.name for path in (series / "checkpoints").iterdir())
    shutil.copytree(series / "checkpoints" / steps[0], series / "checkpoints" / "step000099")
    result = trace(series, "--revisions step* --json")
    assert result.code == 0, result.err
    records = json.loads(result.out)["revisions"]
    assert [one["revision"] for one in records] == [*steps, "step000099"]
    assert records[-1]["duplicate_of"] == steps[0]
    assert "trace" not in records[-1]
    assert all(one.keys() >= KEYS for one in records[:-1])
    assert len({one["trace"] for one in records[:-1]}) == len(steps)
    table = trace(series, "--revisions step*").out
    assert f"refused: the same weights as {steps[0]}" in table
    assert "--revisions 'step*' goes over many" in trace(series, "--revisions step* --out x").error


ARGUMENTS = ["--seq-len", "32", "--micro-batch", "1", "--probes", "2", "--threads", "1", "--rel-se", "1e-9"]


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def test_killed_and_started_again_it_has_lost_nothing(fork, run, shared, tmp_path):
    command = ["trace", run, "--corpus", shared / "text.txt", *ARGUMENTS, "--max-pairs", "80", "--json"]
    out = tmp_path / "out.jsonl"
    count = 0
    for _ in range(2):
        process = fork.start(tmp_path, *command, "--out", out)
        until(lambda count=count: out.exists() and len(out.read_bytes().splitlines()) > count + 4)
        os.kill(process, signal.SIGKILL)
        assert fork.wait(process) == -9, "it had finished before"
        count = out.read_bytes().count(b"\n")
    (tmp_path / "last").mkdir()
    (tmp_path / "whole").mkdir()
    before = out.read_bytes()
    assert fork.wait(fork.start(tmp_path / "last", *command, "--out", out)) == 0
    assert fork.wait(fork.start(tmp_path / "whole", *command, "--out", tmp_path / "whole.jsonl")) == 0
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "a measurement was made twice"
    assert lines(out) == lines(tmp_path / "whole.jsonl")
    resumed, whole = (json.loads((tmp_path / name / "stdout.txt").read_text()) for name in ("last", "whole"))
    assert {n: resumed[n] for n in ("trace", "stderr", "pairs")} == {n: whole[n] for n in ("trace", "stderr", "pairs")}


def test_two_processes_measure_what_one_does(record, run, shared, tmp_path):
    whole = record(run, "--out whole.jsonl --rel-se 1e-9")
    line = [*ARGUMENTS, "--max-pairs", "8", "--json", "--out", "two.jsonl"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    found = subprocess.run(
        [*torchrun, "est_analysis", "trace", str(run), "--corpus", str(shared / "text.txt"), *line],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    two = json.loads(found.stdout)
    assert (two["trace"], two["stderr"], two["pairs"]) == (whole["trace"], whole["stderr"], 8)
    assert lines(tmp_path / "two.jsonl") == lines(tmp_path / "whole.jsonl")


# --- comparisons ------------------------------------------------------------------------------------------------------


@pytest.fixture
def compare(est, shared):
    def call(*checkpoints, line=""):
        small = "--seq-len 32 --micro-batch 1 --probes 2 --max-pairs 32 --threads 1"
        return est("compare", *checkpoints, "--corpus", shared / "text.txt", *small.split(), *line.split())

    return call


def test_compare(compare, run):
    steps = sorted((run / "checkpoints").iterdir())
    found = json.loads(compare(steps[0], steps[-1], line="--json").out)
    first, last = found["traces"]
    assert found["difference"] == pytest.approx(last["trace"] - first["trace"])
    assert found["ratio"] == pytest.approx(last["trace"] / first["trace"])
    assert found["difference_stderr"] > 0
    assert len(found["ratio_ci"]) == 2
    assert found["paired"] is True
    shown = compare(steps[0], steps[-1])
    assert shown.code == 0
    assert "32 pairs each, engine taylor, same batches and probes." in shown.out


def test_compare_three(compare, run):
    steps = sorted((run / "checkpoints").iterdir())
    found = json.loads(compare(*steps[:3], line="--json").out)
    assert len(found["traces"]) == 3
    for name in ("difference", "difference_stderr", "ratio", "ratio_ci"):
        assert len(found[name]) == 2
    assert compare(*steps[:3]).code == 0


def test_compare_by_kind(compare, run):
    steps = sorted((run / "checkpoints").iterdir())
    found = json.loads(compare(steps[0], steps[-1], line="--json --by-layer --max-pairs 4").out)
    for one in found["traces"]:
        assert sum(one["kinds"].values()) == pytest.approx(one["trace"], rel=1e-9)


def test_compare_what_cannot_be_compared(compare, run, checkpoint):
    assert compare(run).error == "one checkpoint has nothing to be compared with; name two or more"
    assert "hold the same weights; name different checkpoints" in compare(run, checkpoint).error


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--engine tylor",
            "unknown engine 'tylor': did you mean 'taylor'? Known: auto, empirical-fisher, fisher, hvp, ",
        ),
        ("--loss cuasal", "unknown --loss 'cuasal': did you mean 'causal'? Known: auto, causal, masked, seq2seq"),
        ("--loss masked", "--loss masked: no such class for "),
        ("--dtype float16", "unknown --dtype 'float16': did you mean 'bfloat16'? Known: bfloat16, float32, float64"),
        ("--over batch", "unknown --over 'batch': did you mean 'batches'? Known: batches, distribution"),
        ("--seq-len -1", "--seq-len -1 is negative"),
        ("--micro-batch -1", "--micro-batch -1 is negative"),
        ("--probes -2", "--probes -2 is negative"),
        ("--threads -1", "--threads -1 is negative"),
        ("--max-pairs -1", "max_pairs=-1 is fewer than two batches"),
        ("--max-pairs 3", "max_pairs=3 is fewer than two batches of 2 probes"),
        ("--rel-se 0", "rel_se=0.0 is not positive"),
        ("--rel-se nan", "rel_se=nan is not positive"),
        ("--max-bytes -5", "max_bytes=-5 leaves no validation text"),
        ("--seq-len 100000", "seq_len=100000 is more than "),
        ("--device cuda", "--device cuda: torch sees no GPU here; use cpu"),
        ("--device gpu", "unknown --device 'gpu'; use cpu, cuda or cuda:NUMBER"),
        ("--shard 3/2", "--shard '3/2' is not i/n with 1 <= i <= n"),
        ("--shard 0/2", "--shard '0/2' is not i/n"),
        ("--shard half", "--shard 'half' is not i/n"),
        ("--text text.txt", "--text, --dataset and --corpus each name a text; give one of them"),
        ("--dataset wikitext", "--text, --dataset and --corpus each name a text"),
        ("--tokenizer byets", "unknown tokenizer 'byets': did you mean 'bytes'?"),
        ("--revision step7", "no checkpoint 'step7' in "),
        ("--revisions epoch*", "no revision of "),
        ("--by-layer --engine taylor", "engine taylor cannot tell layers apart"),
        ("--out text.txt/below", "cannot write text.txt/below ("),
        ("--out text.txt", "text.txt is no file of measurements, or damaged; give another --out"),
    ],
)
def test_bad_options(trace, run, tmp_path, monkeypatch, line, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "text.txt").write_text("mine\n")
    result = trace(run, line)
    errors = [part for part in result.err.splitlines() if part.startswith("est: ")]
    assert (result.code, result.out, len(errors)) == (2, "", 1), result
    assert errors[0].removeprefix("est: ").startswith(message)
    assert (tmp_path / "text.txt").read_text() == "mine\n"


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights(folder, change):
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def _pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Evil()}, folder / "pytorch_model.bin")


def _missing_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _not_finite(folder):
    weights(folder, lambda values: next(iter(values.values())).view(-1)[:1].fill_(math.nan))


def _image_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))


DAMAGE = {
    "pickle that runs code": (_pickle, "is a pickle that wants to run"),
    "missing shard": (_missing_shard, "lacks the shard 'model-2.safetensors' that its index lists"),
    "weights that are NaN": (_not_finite, "is not finite in torch.float32; give another checkpoint"),
    "weights cut short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]),
        "is damaged",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in "),
    "no config": (lambda f: (f / "config.json").unlink(), "no "),
    "model with no loss": (_image_model, "model with no loss: "),
    "quantised": (lambda f: config(f, quantization_config={"quant_method": "gptq"}), "is quantised (config.json says"),
    "own code": (lambda f: config(f, auto_map={"AutoModelForCausalLM": "own.Own"}), "pass --trust-remote-code if you"),
    "unknown type": (lambda f: config(f, model_type="own"), "is of a type that needs its own code (own)"),
    "fewer layers in config": (lambda f: config(f, n_layer=1), "its config.json has fewer layers than the file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_bad_checkpoints(trace, copied, tmp_path, name):
    damage, message = DAMAGE[name]
    damage(copied)
    assert message in trace(copied).error
    assert not (tmp_path / "ran").exists()


def test_no_such_checkpoint(trace, tmp_path):
    assert trace("./absent").error.startswith("no folder './absent'")
    (tmp_path / "empty").mkdir()
    assert "empty" in trace("empty").error


def test_a_tokenizer_that_does_not_fit(trace, copied, shared):
    config(copied, vocab_size=100)
    weights(
        copied, lambda values: values.update({"transformer.wte.weight": values["transformer.wte.weight"][:100].clone()})
    )
    error = trace(copied, BYTES).error
    assert error.startswith(f"the tokenizer does not fit {copied}: it gives token 121, ")
    assert error.endswith("the model knows 100; give the model's own with --tokenizer")


def test_no_tokenizer(trace, copied):
    for path in copied.iterdir():
        if path.name.startswith("tokenizer") or path.name.startswith("vocab"):
            path.unlink()
    assert trace(copied).error == f"{copied} has no tokenizer; give one with --tokenizer, such as bytes"
    assert trace(copied, BYTES).code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file 'text.txt' is empty; give a file with text"),
        ("a", "corpus 'text.txt' is too short"),
        ("few words\nx y\n" * 2, "text of 30 tokens is shorter than one sequence; use seq_len <= 29 or more text"),
        ("words\n" * 10, "fewer than two batches give no standard error; give more text or shorter sequences"),
    ],
)
def test_texts_that_are_too_short(trace, run, tmp_path, content, message):
    (tmp_path / "text.txt").write_text(content)
    result = trace(run, text=("--text", "text.txt"))
    errors = [line for line in result.err.splitlines() if line.startswith("est: ")]
    assert (result.code, result.out) == (2, "")
    assert [error.removeprefix("est: ")[: len(message)] for error in errors] == [message]
