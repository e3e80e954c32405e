import json
import subprocess
import sys
from pathlib import Path

import pytest

import est_analysis
from est_analysis.experiments.runs.store import collect


def test_json_for_a_program(train, tmp_path):
    first = train("--out", "run", "--json")
    assert first.code == 0
    record = json.loads(first.out)
    assert list(record) == [
        "run_id", "folder", "checkpoint", "cached", "steps", "validation_loss", "train_loss", "layer_flops",
        "total_flops",
    ]  # fmt: skip
    rows = collect([tmp_path / "run"])
    last = rows[rows["step"] == 12].set_index("metric")["value"]
    for name in ("validation_loss", "train_loss", "layer_flops", "total_flops"):
        assert record[name] == last[name]
    assert record["run_id"].startswith("est-")
    assert record["steps"] == 12
    assert (record["folder"], record["checkpoint"]) == ("run", "run/checkpoints/step000012")
    assert record["cached"] is False
    again = train("--out", "run", "--json")
    assert json.loads(again.out) == {**record, "cached": True}
    assert again.err == ""


def test_text_for_a_person(train):
    first = train("--method", "full")
    lines = first.out.splitlines()
    assert first.code == 0
    assert lines[0].startswith("finished: full-")
    assert "runs/full-" in lines[0]
    assert lines[1].endswith("nats a token (full model), 12 steps")
    assert lines[2].startswith("open it with transformers: AutoModelForCausalLM.from_pretrained('runs/full-")
    assert train("--method", "full").out.splitlines()[0].startswith("finished before: full-")


@pytest.fixture(scope="module")
def options():
    """Every option that changes the numbers, with another value than its default, and the field it sets."""
    return {
        "--method": ("full", "method"),
        "--schedule": ("table1", "schedule"),
        "--tokenizer": ("bpe:270", "tokenizer"),
        "--batch": ("8", "batch_size"),
        "--seq-len": ("16", "seq_len"),
        "--seed": ("5", "seed"),
        "--preset": ("mini", "preset"),
        "--lr": ("0.5", "settings.lr"),
        "--warmup": ("3", "settings.warmup"),
        "--decay": ("cosine", "settings.decay"),
        "--weight-decay": ("0.5", "settings.weight_decay"),
        "--clip": ("0.5", "settings.clip"),
        "--accumulation": ("2", "settings.accumulation"),
        "--precision": ("bfloat16", "settings.precision"),
        "--skipped-gradient": ("none", "settings.skipped_gradient"),
        "--steps": ("19", "settings.steps"),
        "--log-every": ("3", "settings.log_every"),
        "--eval-every": ("3", "settings.eval_every"),
        "--save-every": ("3", "settings.save_every"),
        "--keep-every": ("3", "settings.keep_every"),
        "--embedding-decay": ("0.2", "settings.embedding_decay"),
    }


def test_resuming_with_other_settings_names_each(train, options):
    assert train("--out", "run").code == 0
    before = (train("--out", "run", "--json")).out
    for option, (value, field) in options.items():
        error = train("--out", "run", option, value).error
        assert error.startswith(f"run holds another run ({field}: "), option
        assert f" -> {value}" in error
        assert error.endswith("); give another folder or the same settings")
    assert train("--out", "run", "--json").out == before


def test_every_option_takes_effect(train):
    """A run with all of them at once, bfloat16 included."""
    extra = "--method raptr --option output_scale=sqrt_gap --accumulation 2 --precision bfloat16 --decay cosine"
    more = "--warmup 3 --rewarm 2 --skipped-gradient none --masks-ahead 0 --clip 0 --embedding-decay 0.2"
    result = train(*extra.split(), *more.split(), "--keep-every", "3", "--out", "all")
    assert result.code == 0, result.err
    spec = json.loads(Path("all/spec.json").read_text())["spec"]
    assert (spec["method"], spec["options"]["output_scale"]) == ("raptr", "sqrt_gap")
    assert spec["settings"] == {
        "steps": 12, "lr": 1e-3, "warmup": 3, "rewarm": 2, "decay": "cosine", "betas": [0.9, 0.95],
        "weight_decay": 0.1, "clip": 0.0, "accumulation": 2, "precision": "bfloat16", "skipped_gradient": "none",
        "log_every": 4, "eval_every": 7, "save_every": 5, "embedding_decay": 0.2, "keep_every": 3,
    }  # fmt: skip


def test_the_checkpoint_is_a_hugging_face_model(train):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = json.loads(train("--json").out)["checkpoint"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer("the model", return_tensors="pt")
    assert prompt["input_ids"].tolist() == [list(b"the model")]
    output = model.generate(
        input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=4, min_new_tokens=4,
        do_sample=False,
    )  # fmt: skip
    assert output.shape == (1, 13)
    assert tokenizer.decode(output[0]).startswith("the model")
    from est_analysis.models.hf import load_folder

    with torch.no_grad():
        ours, theirs = load_folder(checkpoint)(output), model(output).logits
    # Float32 through six layers; logits of order 1, some dozens of roundings of 6e-8.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_tensorboard_beside_the_rows(train, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an optional logger")
    assert train("--out", "run", "--logger", "tensorboard").code == 0
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_version(est):
    assert est("--version").out == f"{est_analysis.__version__}\n"


def test_help_names_every_command(est):
    result = est("--help")
    assert result.code == 0
    assert all(command in result.out for command in ("reproduce", "train", "flops", "run"))


def test_the_version_needs_no_torch():
    code = "import sys, est_analysis.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
