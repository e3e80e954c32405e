"""`est trace`: options, checkpoints and texts that cannot be used."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

BYTES = "--tokenizer bytes"


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
        ("--rel-se inf", "rel_se=inf is not positive and finite"),
        ("--max-bytes -5", "max_bytes=-5 leaves no validation text"),
        ("--seq-len 100000", "seq_len=100000 is more than "),
        ("--device cuda", "--device cuda: torch sees no GPU here; use cpu"),
        ("--device gpu", "unknown --device 'gpu'; use cpu, cuda or cuda:NUMBER"),
        ("--shard 3/2", "--shard '3/2' is not i/n with 1 <= i <= n"),
        ("--shard 0/2", "--shard '0/2' is not i/n"),
        ("--shard half", "--shard 'half' is not i/n"),
        ("--text text.txt", "--text and --corpus each name a text; give one of them"),
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


def test_a_tokenizer_learned_on_the_text_is_nobodys(trace, run):
    assert trace(run, "--tokenizer bpe:300").error.startswith("--tokenizer bpe:300 would learn one on this text")


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


def test_a_part_too_small_for_an_error_is_told_what_helps(trace, run):
    result = trace(run, "--max-pairs 8 --probes 2 --shard 1/3")
    assert result.code == 2
    assert result.err.endswith("est: fewer than two batches give no standard error; raise --max-pairs\n")
