"""`est stability` as it is typed."""

import json
import math
import os

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from est_analysis.commands.stability_output import verdict

SIZES = {"vocab_size": 259, "n_embd": 16, "n_head": 2, "n_positions": 48, "bos_token_id": 0, "eos_token_id": 0}
LAYER_KEYS = {"name", "psi", "psi_stderr", "loss_change", "loss_change_stderr"}
KEYS = {
    *("checkpoint", "revision", "commit", "weight_hash", "layers", "loss_full", "loss_full_stderr", "loss_one_dropped"),
    *("gap", "gap_stderr", "gap_inner", "gap_inner_stderr", "mu", "bound", "mu_predicted", "bound_predicted"),
    *("tolerance", "layers_below_tolerance", "gap_below_tolerance", "gap_inner_below_tolerance", "loss_kind"),
    *("text", "text_source", "seq_len", "micro_batch", "batches", "targets", "dtype", "seed", "seconds"),
}


@pytest.fixture
def save(tmp_path):
    """Saves a tiny random GPT-2 of so many layers, its weights far from their usual small ones."""

    def save(layers=4, name="model"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = GPT2LMHeadModel(GPT2Config(n_layer=layers, **SIZES))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def stability(est, shared):
    """`stability(folder, "--seed 1")` on a few short sequences of the small text; later options override."""

    def call(checkpoint, line="", text=("--corpus", shared / "text.txt")):
        small = "--tokenizer bytes --seq-len 24 --micro-batch 2 --max-batches 3 --threads 1"
        return est("stability", checkpoint, *text, *small.split(), *line.split())

    return call


@pytest.fixture
def record(stability):
    def record(checkpoint, line=""):
        result = stability(checkpoint, f"{line} --json")
        assert result.code == 0, result.err
        return json.loads(result.out, parse_constant=pytest.fail)

    return record


# --- what it says -----------------------------------------------------------------------------------------------------


def test_for_a_program(record, save):
    folder = save()
    found = record(folder)
    assert set(found) == KEYS
    assert [set(layer) for layer in found["layers"]] == [LAYER_KEYS] * 4
    assert [layer["name"] for layer in found["layers"]] == ["h.0", "h.1", "h.2", "h.3"]
    assert (found["batches"], found["targets"], found["seq_len"], found["micro_batch"]) == (3, 3 * 2 * 24, 24, 2)
    assert (found["checkpoint"], found["loss_kind"], found["dtype"]) == (str(folder), "causal", "float32")
    changes = [layer["loss_change"] for layer in found["layers"]]
    # Sums of four numbers.
    assert found["gap"] == pytest.approx(sum(changes) / 4, rel=1e-9)
    assert found["gap_inner"] == pytest.approx(sum(changes[1:3]) / 2, rel=1e-9)
    assert found["loss_one_dropped"] == pytest.approx(found["loss_full"] + found["gap"], rel=1e-9)
    assert abs(found["gap"]) <= found["bound"]
    assert found["bound"] == pytest.approx(found["mu"] * sum(layer["psi"] for layer in found["layers"]) / 4)
    assert found["layers_below_tolerance"] == sum(change < 0.05 for change in changes)
    assert found["gap_below_tolerance"] == (abs(found["gap"]) < 0.05)


def test_the_same_again_and_another_seed(record, save):
    folder = save()
    first, again, other = (record(folder, line) for line in ("", "", "--seed 1"))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert (other["weight_hash"], other["text"]) == (first["weight_hash"], first["text"])
    assert other["loss_full"] != first["loss_full"]


def test_double_precision_is_near(record, save):
    folder = save()
    single, double = record(folder), record(folder, "--dtype float64")
    assert double["dtype"] == "float64"
    assert double["gap"] == pytest.approx(single["gap"], abs=1e-5)
    assert double["weight_hash"] == single["weight_hash"]


def test_for_a_person(stability, record, save):
    folder = save()
    result, found = stability(folder, "--tolerance 0.03"), record(folder, "--tolerance 0.03")
    assert result.code == 0
    table, numbers, judgement = result.out.partition("loss of all")[0], *result.out.rsplit("\n\n", 2)[:2]
    for layer in found["layers"]:
        (row,) = [line for line in table.splitlines() if f" {layer['name']} " in line]
        assert f"{layer['psi']:.4f}" in row
        assert f"{layer['loss_change']:+.4f}" in row
    lines = numbers.splitlines()[-6:]
    # One column of names, one of numbers.
    assert len({line.index(line.split("  ")[-1].strip()) for line in lines if "(mu" not in line}) == 1
    assert f"{found['loss_full']:.4f} nats a token" in numbers
    assert f"{found['gap']:+.4f} ± " in numbers
    assert f"{found['gap_inner']:+.4f} ± " in numbers
    assert f"(mu = {found['mu']:.4g}, " in numbers
    assert f"(mu = {found['mu_predicted']:.4g}, " in numbers
    assert judgement.strip() == verdict(found)
    assert "144 targets in 3 batches" in result.out
    assert "of 2 x 24 tokens, each 5 times" in result.err


def said(changes, gap, inner=None, error=0.001):
    layers = [{"name": f"h.{i}", "loss_change": one, "loss_change_stderr": error} for i, one in enumerate(changes)]
    fields = {"gap": gap, "gap_stderr": error, "gap_inner": inner, "gap_inner_stderr": error}
    return verdict({"layers": layers, "tolerance": 0.05, **fields}).splitlines()


def test_the_verdict():
    assert said([0.5, 0.01, -0.2], 0.31 / 3, 0.01) == [
        "2 of 3 layers can each be bypassed alone within the tolerance of 0.05 nats a token.",
        "From one layer dropped at random, the transition to all layers would change the loss by -0.1033: not stable, "
        "beyond the tolerance.",
        "Where first and last layer always stay, as in RaPTr's experiments, the transition to all layers would change "
        "the loss by -0.0100: stable, within the tolerance.",
    ]
    few = said([0.5, 0.0505, 0.01], -0.0495)
    assert few[0].startswith("1 of 3 layers can each be bypassed")
    assert few[0].endswith("; 1 is too close to call.")
    assert few[1].endswith("change the loss by +0.0495: too close to the tolerance to call.")
    assert len(few) == 2
    assert said([0.0, 0.0], -0.3)[1].endswith("change the loss by +0.3000: not stable, beyond the tolerance.")


def test_layers_that_add_nothing(record, stability, save):
    folder = save(layers=2)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value * 0 if ".c_proj." in name else value for name, value in weights.items()},
        folder / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    found = record(folder)
    assert [(layer["psi"], layer["loss_change"]) for layer in found["layers"]] == [(0, 0), (0, 0)]
    assert (found["gap"], found["bound"], found["mu_predicted"], found["gap_inner"]) == (0, 0, None, None)
    assert found["gap_inner_below_tolerance"] is None
    result = stability(folder)
    assert result.code == 0
    assert "nan" not in result.out.lower()
    assert "2 of 2 layers can each be bypassed alone" in result.out


# --- the figure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "magic"), [("figure.png", b"\x89PNG"), ("figure.PDF", b"%PDF"), ("figure.svg", b"<?xml")]
)
def test_a_figure(stability, save, tmp_path, name, magic):
    result = stability(save(), f"--plot {name} --json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["layers"]
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_the_figure_shows_the_record(stability, save, monkeypatch):
    from est_analysis import plots

    drawn, own = [], plots.stability_by_layer

    def keep(frame, tolerance):
        drawn.append((frame, tolerance))
        return own(frame, tolerance)

    monkeypatch.setattr(plots, "stability_by_layer", keep)
    found = json.loads(stability(save(), "--plot figure.svg --json --tolerance 0.2").out)
    ((frame, tolerance),) = drawn
    pd.testing.assert_frame_equal(frame, pd.DataFrame(found["layers"]))
    assert tolerance == 0.2


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_the_help_names_what_it_measures(est):
    shown = est("stability", "--help")
    assert shown.code == 0
    assert "--tolerance" in shown.out
    assert "--plot" in shown.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--tolerance 0", "tolerance=0.0 is no change of the loss; use a positive number of nats"),
        ("--tolerance -1", "tolerance=-1.0 is no change of the loss"),
        ("--tolerance nan", "tolerance=nan is no change of the loss"),
        ("--tolerance inf", "tolerance=inf is no change of the loss"),
        ("--max-batches 1", "max_batches=1 gives no standard error; use at least 2"),
        ("--max-batches -3", "max_batches=-3 gives no standard error"),
        ("--micro-batch -1", "--micro-batch -1 is negative"),
        ("--seq-len -1", "--seq-len -1 is negative"),
        ("--seq-len 49", "seq_len=49 is more than "),
        ("--threads -1", "--threads -1 is negative"),
        ("--plot figure.jpg", "--plot figure.jpg: no kind of figure; end its name in one of .pdf, .png, .svg"),
        ("--plot figure", "--plot figure: no kind of figure"),
        ("--plot absent/figure.png", "--plot absent/figure.png: no folder absent; make it, or name another"),
        ("--loss cuasal", "unknown --loss 'cuasal': did you mean 'causal'?"),
        ("--dtype float16", "unknown --dtype 'float16'"),
        ("--device gpu", "unknown --device 'gpu'; use cpu, cuda or cuda:NUMBER"),
        ("--text a.txt", "--text and --corpus each name a text; give one of them"),
        ("--tokenizer byets", "unknown tokenizer 'byets': did you mean 'bytes'?"),
        ("--revision main", "no checkpoint 'main' in "),
    ],
)
def test_bad_options(stability, save, line, message):
    error = stability(save(), line).error
    assert error.startswith(message), error


def test_a_place_that_cannot_be_written(stability, save, tmp_path, monkeypatch):
    (tmp_path / "taken.png").mkdir()
    assert stability(save(), "--plot taken.png").error == "--plot taken.png: a folder; name a file"

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    result = stability(save(), "--plot figure.png --json")
    assert result.code == 2
    assert result.err.splitlines()[-1] == "est: cannot write figure.png (No space left on device); name another --plot"
    assert json.loads(result.out)["layers"], "the measurement was lost"


def test_too_few_layers(stability, save):
    error = stability(save(layers=1, name="one")).error
    assert error == "GPT2LMHeadModel has one residual layer (h.0); leaving one out takes at least 2"
    error = stability(save(layers=0, name="none")).error
    assert error.startswith("no residual layers in GPT2LMHeadModel: no list of blocks that pass hidden states on; ")


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_that_wants_to_run_code(stability, save, tmp_path):
    folder = save()
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Evil()}, folder / "pytorch_model.bin")
    assert "is a pickle that wants to run" in stability(folder).error
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_numbers(stability, save):
    folder = save()
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "is not finite in torch.float32; give another checkpoint" in stability(folder).error


def test_no_such_checkpoint(stability):
    assert stability("./absent").error.startswith("no folder './absent'")


def test_text_for_one_batch_only(stability, save, tmp_path):
    (tmp_path / "short.txt").write_text("x" * 60)
    result = stability(save(), text=("--text", tmp_path / "short.txt"))
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].endswith("batches give no standard error; give more text, or shorter sequences")
