"""Loading a checkpoint: the model that was saved, with its own loss, or a refusal in one line."""

import os
import subprocess
import sys

import pytest
import torch

from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("gpt2", "causal"), ("llama", "causal"), ("bert", "masked"), ("bart", "seq2seq"), ("t5", "seq2seq")],
)
def test_loads_what_was_saved(language_models, save, kind, loss, capfd):
    located = locate(save(kind))
    capfd.readouterr()
    loaded = load(located)
    assert capfd.readouterr() == ("", "")
    assert (loaded.loss, loaded.tokenizer, loaded.model.training) == (loss, None, False)
    inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if kind in ("bart", "t5") else {})
    with torch.no_grad():
        expected = language_models[kind](**inputs)
        logits = expected["prediction_logits"] if kind == "bert" else expected.logits
        assert torch.equal(loaded.model(**inputs).logits, logits)
    assert loaded.model.config._attn_implementation == "sdpa"
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert tied == (kind != "llama")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_dtype_and_explicit_loss(save):
    loaded = load(locate(save("bert")), dtype=torch.float64, loss="masked")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float64}


def test_tokenizer(save, refused):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = save()
    vocabulary = {"a": 0, "b": 1}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary))).save_pretrained(folder)
    assert load(locate(folder)).tokenizer.get_vocab() == vocabulary
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "cannot load the tokenizer of .*; repair or delete its files")


def test_settings_of_transformers_are_put_back(save, monkeypatch):
    from transformers.utils import logging

    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    folder, verbosity, bars = save(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(locate(folder))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, bars)
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "no")
    load(locate(folder))
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "no"


def test_importing_is_cheap():
    code = "import sys, est_analysis.curvature.checkpoint; print('transformers' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("kind", "architectures", "loss"),
    [("bert", ["BertForMaskedLM"], "masked"), ("gpt2", ["GPT2Model"], "causal"), ("t5", None, "seq2seq")],
)
def test_loss_from_config(save, kind, architectures, loss, configured):
    assert load(locate(configured(save(kind), architectures=architectures))).loss == loss


def test_bad_loss(save, tmp_path, configured, refused):
    refused(save("llama"), r"--loss masked: no such class for .* \(llama\); use --loss causal", loss="masked")
    refused(save("gpt2"), "--loss seq2seq: no such class", loss="seq2seq")
    refused(save("gpt2"), "unknown loss 'mask': did you mean 'masked'", loss="mask")
    folder = configured(save(name="vision"), model_type="resnet", architectures=["ResNetModel"])
    refused(folder, r"model with no loss: .* \(resnet\); use --loss causal\|masked\|seq2seq")


def test_remote_code_is_not_run(save, tmp_path, configured, refused):
    marker = tmp_path / "marker"
    folder = save()
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nfrom transformers import GPT2LMHeadModel as Own\n"
    (folder / "own.py").write_text(code)
    configured(folder, auto_map={"AutoModelForCausalLM": "own.Own"})
    refused(folder, "pass --trust-remote-code if you trust it")
    configured(folder, auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.Own"}, model_type="own")
    refused(folder, r"needs its own code \(own\); pass --trust-remote-code")
    configured(folder, auto_map=None)
    refused(folder, r"needs its own code \(own\)")
    path = folder / "config.json"
    path.write_text("{}")
    refused(folder, r"\(no model_type\)")
    assert not marker.exists()


def test_remote_code_runs_on_request(save, tmp_path, monkeypatch, configured):
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save()
    (folder / "own.py").write_text(
        "from transformers import GPT2LMHeadModel\n\n\nclass Own(GPT2LMHeadModel):\n    pass\n"
    )
    configured(folder, auto_map={"AutoModelForCausalLM": "own.Own"})
    loaded = load(locate(folder), trust_remote_code=True)
    assert type(loaded.model).__name__ == "Own"


def test_attention_of_config_is_not_fetched(save, configured):
    folder = configured(save(), attn_implementation="someone/kernel", _attn_implementation="someone/kernel")
    assert load(locate(folder)).model.config._attn_implementation == "sdpa"
    assert load(locate(configured(folder, transformers_weights="../x.bin"))).loss == "causal"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(save, value, changed, refused):
    name = "transformer.h.1.mlp.c_fc.weight"
    refused(changed(save(), lambda w: w[name][3].fill_(value)), f"weight '{name}' is not finite")


def test_not_finite_in_the_dtype_asked_for(save, changed, refused):
    name = "transformer.ln_f.bias"
    folder = changed(save(), lambda w: w[name].fill_(1e30))
    load(locate(folder))
    refused(folder, f"weight '{name}' is not finite in torch.float16", dtype=torch.float16)


def test_missing_weights(save, changed, refused):
    folder = changed(save(), lambda w: w.pop("transformer.h.1.mlp.c_fc.weight"))
    refused(folder, r"lacks the weight 'transformer\.h\.1\.mlp\.c_fc\.weight'; it is incomplete")
    folder = changed(save(name="tied"), lambda w: w.pop("transformer.wte.weight"))
    refused(folder, r"lacks the weight '(lm_head|transformer\.wte)\.weight'")
    folder = changed(save("llama", "untied"), lambda w: w.pop("lm_head.weight"))
    refused(folder, r"lacks the weight 'lm_head\.weight'")


def test_body_without_head(language_models, tmp_path, refused):
    language_models["bert"].bert.save_pretrained(tmp_path / "body")
    refused(tmp_path / "body", r"lacks the weight 'cls\.predictions", loss="masked")


def test_mismatched_shapes(save, changed, configured, refused):
    name = "transformer.h.0.attn.c_attn.weight"
    folder = changed(save(), lambda w: w.__setitem__(name, torch.zeros(3, 5)))
    refused(folder, rf"weight '{name}' has the shape \(3, 5\) where config\.json wants \(16, 48\)")
    refused(configured(save(name="other"), n_embd=8), r"has the shape .* where config\.json wants")


def test_more_layers_than_config(save, configured, refused):
    refused(configured(save(), n_layer=1), r"no place for weight 'transformer\.h\.1\..*fewer layers")


def test_a_config_far_larger_than_its_weights_is_refused_before_any_memory_is_taken(save, configured, refused):
    refused(configured(save(), vocab_size=2 * 10**9), r"config\.json wants [\d,]{14} numbers, the file has ")
    refused(
        configured(save(name="deep"), n_layer=10**9), r"config\.json has 1,000,000,000 layers, the file \d+ weights"
    )


def test_config_that_describes_no_model(save, configured, refused):
    refused(configured(save(), n_head=3), "cannot build|cannot be used")
    refused(configured(save(), n_embd="many"), "cannot build|cannot be used")


def test_the_same_weights_in_another_config_are_another_model(save, configured):
    plain, other = load(locate(save())), load(locate(configured(save(name="other"), layer_norm_epsilon=0.5)))
    again = load(locate(configured(save(name="again"), _name_or_path="elsewhere", transformers_version="0")))
    assert plain.weight_hash == other.weight_hash == again.weight_hash
    assert plain.config_hash == again.config_hash != other.config_hash
