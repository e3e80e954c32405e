"""`est eval`: what it prints, and what it refuses in one line."""

import json
import sys

import pandas as pd
import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from est_analysis.commands.evaluate import _GLUE, _LOCAL, _SUITES
from est_analysis.data.tokenizer import build_tokenizer
from est_analysis.downstream.glue import GLUE
from est_analysis.downstream.harness import SUITES
from est_analysis.downstream.proxies import PROXIES


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of small models at random, `gpt2`, `bert` and `t5`."""
    root = tmp_path_factory.mktemp("saved")
    sizes = {"vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    models = {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=32, n_embd=16, n_layer=1, n_head=2)),
        "bert": BertForMaskedLM(BertConfig(**sizes, intermediate_size=16, max_position_embeddings=32)),
        "t5": T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=16, d_ff=16, num_layers=1, num_heads=2)),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        build_tokenizer("bytes", None).save_pretrained(root / name)
    return root


@pytest.fixture
def run(saved):
    return saved / "gpt2"


def test_names_known_without_torch_are_those_that_exist():
    assert set(_LOCAL) == set(PROXIES)
    assert set(_GLUE) == set(GLUE)
    assert set(_SUITES) == set(SUITES)


def test_proxies_as_a_table_and_as_json(est, run):
    result = est("eval", run, "--tasks", "last-word")
    assert result.code == 0, result.err
    assert "last-word" in result.out
    assert "32 tokens at once" in " ".join(result.out.split())
    record = json.loads(est("eval", run, "--tasks", "last-word", "--json", "--threads", "1").out)
    (score,) = record["scores"]
    assert (score["task"], score["metric"], score["items"]) == ("last-word", "accuracy", 1000)
    assert 0 <= score["value"] <= 1
    assert record["window"] == 32
    assert record["means"] == {}
    assert len(record["settings"]["proxies_text"]) == 64
    assert record["settings"]["environment"]["python"]
    assert "last-word accuracy" in result.err


def test_glue_from_a_folder(est, run, tmp_path):
    rows = pd.DataFrame({"sentence1": ["a", "b"] * 8, "sentence2": "c", "label": [0, 1] * 8})
    for split in ("train", "validation"):
        (tmp_path / "rte").mkdir(exist_ok=True)
        rows.to_csv(tmp_path / "rte" / f"{split}.csv", index=False)
    result = est("eval", run, "--tasks", "rte", "--data", tmp_path, "--seeds", "2", "--epochs", "1", "--json")
    assert result.code == 0, result.err
    (score,) = json.loads(result.out)["scores"]
    assert (score["task"], score["over"], score["chance"]) == ("rte", "seeds", 0.5)
    settings = json.loads(result.out)["settings"]
    assert (settings["seeds"], settings["fine_tuning"]["epochs"], settings["data"]) == (2, 1, str(tmp_path))
    missing = est("eval", run, "--tasks", "rte,mnli", "--data", tmp_path)
    assert missing.error.startswith("no train data in '")
    assert "rte accuracy" not in missing.err, "what is missing is missed before anything is measured"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "kind"), "unknown task 'kind': did you mean 'kinds'?"),
        (("--tasks", ","), "--tasks ',' names none"),
        (("--tasks", "cola", "--data", "nowhere"), "no folder 'nowhere'"),
        (("--tasks", "cola", "--data", "."), "no train data in 'cola'; give it as train.csv"),
        (("--tasks", "cola", "--seeds", "0"), "--seeds 0 is none"),
        (("--tasks", "cola", "--lr", "0"), "each must be above 0"),
        (("--tasks", "lambada"), "pip install 'lm-eval"),
    ],
)
def test_what_cannot_be_done_is_one_line(est, run, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert message in est("eval", run, *arguments).error


def test_a_masked_model_does_what_asks_for_no_next_token(est, saved):
    """Its causal class exists, and in it every token would see those that it is to predict."""
    refused = est("eval", saved / "bert", "--tasks", "kinds,last-word").error
    assert "is a masked model, and last-word asks for the next token, which it has been shown; use others" in refused
    record = json.loads(est("eval", saved / "bert", "--tasks", "kinds", "--json").out)
    assert [score["task"] for score in record["scores"]] == ["kinds"]


def test_an_encoder_decoder_is_refused(est, saved):
    assert est("eval", saved / "t5").error.endswith("is an encoder-decoder; the tasks are for causal and masked models")
