"""Whatever a user can get wrong is one line on stderr and exit code 2."""

import sys

import pytest

from est_analysis.models.families import FAMILIES
from est_analysis.models.gpt2.config import GPT2Config

TRAIN = [
    (["--method", "ets"], "unknown method 'ets': did you mean 'est'? Known: dropout, est, full, "),
    (["--method", "zzz"], "unknown method 'zzz': Known: dropout, est, full, gradual_stacking, layer_dropout"),
    (["--schedule", "gpt2-ets"], "unknown schedule 'gpt2-ets': did you mean 'gpt2-est'? Known: bert-raptr-6-8-10-12, "),
    (["--preset", "tinny"], "unknown preset 'tinny': did you mean 'tiny'? Known: gpt2, grid, mini, odd, small, tiny"),
    (["--family", "gpt"], "unknown family 'gpt': did you mean 'gpt2'? Known: bert, gpt2, llama"),
    (["--corpus", "pyhton"], "unknown corpus 'pyhton': did you mean 'python'? Known: "),
    (["--corpus", "no/such/text.txt"], "no file or folder 'no/such/text.txt'; give an existing path"),
    (["--corpus", "empty.txt"], "file 'empty.txt' is empty; give a file with text"),
    (["--corpus", "short.txt"], "corpus 'short.txt' is too short: it has no validation text; give more text"),
    (["--corpus", "medium.txt"], "text of 23 tokens is shorter than one sequence; use seq_len <= 22 or more text"),
    (["--corpus", "binary.txt"], "file 'binary.txt' is not UTF-8 text"),
    (["--tokenizer", "byets"], "unknown tokenizer 'byets': did you mean 'bytes'? Known: "),
    (["--tokenizer", "bpe:12"], "tokenizer 'bpe:12': the size must be a whole number >= 257"),
    (["--decay", "linaer"], "unknown decay 'linaer': did you mean 'linear'? Known: constant, cosine, linear"),
    (["--precision", "float16"], "unknown precision 'float16': did you mean 'bfloat16'? Known: bfloat16, float32"),
    (["--skipped-gradient", "nil"], "unknown skipped gradient 'nil': "),
    (["--logger", "wandbb"], "unknown logger 'wandbb': did you mean 'wandb'? Known: none, tensorboard, trackio, wandb"),
    (
        ["--method", "raptr", "--option", "output_scale=inv"],
        "unknown output scale 'inv': did you mean 'inv_p'? Known: ",
    ),
    (["--method", "raptr", "--option", "output_scale=1"], "unknown output scale '1.0': Known: inv_p, linear_gap, "),
    (["--option", "output_scale=inv_p"], "unknown option 'output_scale' of method est; its options are head_sampling"),
    (["--option", "head_sampling"], "option 'head_sampling' has no value; write NAME=VALUE"),
    (["--objective", "ul2"], "family gpt2 cannot be trained on 'ul2'; use causal"),
    (["--family", "t5", "--objective", "ul3"], "unknown objective 'ul3': did you mean 'ul2'?"),
    (
        ["--method", "staged", "--schedule", "1:0.75,0.75,1; 2:1,1,1"],
        "schedule '1:0.75,0.75,1; 2:1,1,1' has p_H=0.75, and staged only doubles",
    ),
    (
        ["--method", "pld", "--schedule", "gpt2-est"],
        "schedule 'gpt2-est' samples heads or MLP columns, pld only layers",
    ),
    (["--preset", "odd"], "p_H=0.5 of 3 heads is 1.5 heads; use a multiple of 1/3 above 0"),
    (["--seq-len", "257"], "seq_len=257 is longer than the context of 'tiny' (256 tokens)"),
    (["--steps", "-5"], "steps=-5 must be at least 1"),
    (["--steps", "0"], "steps=0 must be at least 1"),
    (["--steps", "2"], "2 steps are too few for the 3 stages of 'gpt2-est'; use more steps"),
    (["--warmup", "12"], "warmup=12 must be at least 0 and shorter than the 12 steps"),
    (["--batch", "0"], "batch_size=0 must be at least 1"),
    (["--accumulation", "3"], "a batch of 4 does not divide into 3 micro-batches"),
    (["--lr", "0"], "lr=0 must be above 0"),
    (["--lr", "nan"], "lr=nan must be above 0"),
    (["--threads", "-1"], "threads=-1 and masks_ahead=8 must be at least 0"),
    (["--device", "gpu"], "unknown device 'gpu'; use cpu, cuda or cuda:NUMBER"),
    (["--out", "empty.txt"], "empty.txt is a file; give a folder for the run"),
    (["--out", "empty.txt", "--no-resume"], "empty.txt is a file; give a folder for the run"),
    (["--out", "empty.txt/below"], "cannot write to empty.txt/below (Not a directory); give another folder"),
    (["--out", "other"], "other is not empty and holds no run; give an empty or new folder"),
    (["--out", "other", "--no-resume"], "other already holds something and --no-resume was given; give another --out"),
]


@pytest.fixture
def _things_to_trip_over(tmp_path, monkeypatch):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("a few\nwords\n")
    (tmp_path / "medium.txt").write_text("some words\n" * 50)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00" * 100)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    odd = GPT2Config(num_layers=4, hidden=12, num_heads=3, mlp_columns=8, vocab_size=1, context_length=256)
    monkeypatch.setitem(FAMILIES["gpt2"].presets, "odd", odd)


@pytest.mark.usefixtures("_things_to_trip_over")
@pytest.mark.parametrize(("arguments", "message"), TRAIN, ids=[" ".join(arguments) for arguments, _ in TRAIN])
def test_train(train, tmp_path, arguments, message):
    error = train(*arguments).error
    assert error.startswith(message)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


OTHERS = [
    (
        "run reprodcue",
        "unknown recipe 'reprodcue': did you mean 'reproduce'? Known: est-ablations, first-experiments, flatness, ",
    ),
    (
        "run reproduce --scale smoek",
        "unknown scale 'smoek': did you mean 'smoke'? Known: gpu, quick, rates, report, report-rates, smoke",
    ),
    ("run reproduce --scale smoke --seeds 0", "seeds=0 must be at least 1"),
    ("run grid --scael smoke", "No such option: --scael (Possible options: "),
    ("run reproduce --scale gpu --corpus nowhere", "device 'cuda': torch sees no CUDA device here; use cpu"),
    ("run", "Missing argument 'recipe' (see 'est run --help')"),
    ("trian", "No such command 'trian'. Did you mean 'train', 'trace'? (see 'est --help')"),
    ("train --steps many", "Invalid value for '--steps': "),
    ("trace one two", "Got unexpected extra argument"),
    ("run grid --scale smoke --out a.txt/b", "cannot write a report into 'a.txt/b': "),
    (
        "run stability-vs-depth --workers 3",
        "recipe stability-vs-depth runs in one process; leave '--workers 3' away",
    ),
    (
        "run first-experiments --corpus novel.txt",
        "recipe first-experiments trains on no text; leave '--corpus novel.txt'",
    ),
    (
        "run stability-vs-depth --corpus hmm:2,3,4",
        "recipe stability-vs-depth trains on no text; leave '--corpus hmm:2,",
    ),
    ("run transition-smoothness --corpus a", "recipe transition-smoothness trains on no text; leave '--corpus a' away"),
    ("trace nowhere --rel-se 0", "rel_se=0.0 is not positive and finite; 0.02 asks for 2 %"),
    ("figures --scale exact", "unknown scale 'exact': Known: gpu, quick, report, smoke"),
    ("run reproduce --scale smoke --workers -1", "workers=-1 must be 1 or more, or 0 for the recipe's own number"),
    ("train --lr inf", "lr=inf must be above 0 and finite"),
    ("train --weight-decay inf", "weight_decay=inf must be at least 0 and finite"),
    ("train --device mps", "device 'mps' is not supported; use cpu, cuda or cuda:NUMBER"),
    ("train --method est --option normalise=maybe", "normalise='maybe' must be true or false"),
    ("reproduce --scale smoke --seeds -1", "seeds=-1 must be at least 1"),
    ("reproduce --scale fast", "unknown scale 'fast': "),
    ("flops gpt2-ets", "unknown schedule or method 'gpt2-ets': did you mean 'gpt2-est'? Known: bert-"),
    ("flops raptor", "unknown schedule or method 'raptor': did you mean 'raptr'? Known: "),
    ("flops 1:2", "'1:2' is not a stage; write END:HEADS,MLP,LAYERS"),
    ("flops gradual_stacking --model tinyllama", "p_L=0.75 of 22 layers is 16.5 layers; use a multiple of 1/22"),
    ("methods --model gpt3", "unknown model 'gpt3': did you mean 'gpt2'? Known: bert-base, bert-large, gpt2, "),
    ("methods --attention cuasal", "unknown attention 'cuasal': did you mean 'causal'? Known: causal, full"),
    (
        "audit --published no.csv",
        "no published values at 'no.csv'; give the repository's paper_figures/data/published.c",
    ),
    ("flops gpt2-est --model gpt3", "unknown model 'gpt3': did you mean 'gpt2'? Known: bert-base, bert-large, gpt2, "),
    ("flops gpt2-est --attention cuasal", "unknown attention 'cuasal': did you mean 'causal'? Known: causal, full"),
    ("flops gpt2-est --seq-len -1", "seq_len=-1 must be at least 1"),
]


@pytest.mark.parametrize(("line", "message"), OTHERS, ids=[line for line, _ in OTHERS])
def test_other_commands(est, tmp_path, line, message):
    (tmp_path / "a.txt").touch()
    assert est(*line.split()).error.startswith(message)


def test_reproduce_with_an_unknown_corpus(est):
    error = est("reproduce", "--scale", "smoke", "--corpus", "pythn").error
    assert error.startswith("unknown corpus 'pythn': did you mean 'python'? Known: ")


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_logger_that_is_not_installed(train, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert train("--logger", name).error == f"the logger '{name}' is not installed; run: pip install {name}"


def test_no_resume_on_a_used_folder(train):
    assert train("--out", "run").code == 0
    assert train("--out", "run", "--no-resume").error == (
        "run already holds something and --no-resume was given; give another --out"
    )


def test_another_learning_rate_into_the_same_folder(train):
    assert train("--out", "run", "--lr", "0.001").code == 0
    assert train("--out", "run", "--lr", "0.002").error == (
        "run holds another run (settings.lr: 0.001 -> 0.002); give another folder or the same settings"
    )


def test_a_run_whose_end_is_cut_short(train, tmp_path):
    assert train("--out", "run").code == 0
    end = tmp_path / "run" / "finished.json"
    end.write_text(end.read_text()[:9])
    assert train("--out", "run").error == (
        "run/finished.json is damaged; delete it to finish the run from its last checkpoint"
    )
    rows = (tmp_path / "run" / "rows.csv").read_text()
    end.unlink()
    assert train("--out", "run").code == 0
    assert (tmp_path / "run" / "rows.csv").read_text() == rows


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt"])
def test_a_damaged_checkpoint(train, tmp_path, name):
    assert train("--out", "run").code == 0
    (tmp_path / "run" / "finished.json").unlink()
    file = tmp_path / "run" / "checkpoints" / "step000012" / name
    file.write_bytes(file.read_bytes()[:1000])
    error = train("--out", "run").error
    assert error.startswith("checkpoint run/checkpoints/step000012 is damaged (")
    assert error.endswith("); delete it to resume from step 10")


def test_a_rate_far_too_high(train):
    result = train("--method", "full", "--lr", "1e30", "--warmup", "0", "--out", "run")
    assert result.code == 2
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if "  step " not in line]
    assert len(lines) == 1
    assert lines[0].startswith("est: the loss is ")
    assert lines[0].endswith("at step 2; last good checkpoint: run/checkpoints/step000000; lower lr=1e+30 or clip")


def test_only_one_rank_speaks(est, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = est("flops", "nonsense")
    assert (result.code, result.out, result.err) == (2, "", "")
