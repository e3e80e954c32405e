"""Reading the weights of a checkpoint: whole, without running anything, and with one identity."""

import json
import os

import pytest
import torch

from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate
from est_analysis.curvature.weights import weight_hash
from est_analysis.errors import InputError


@pytest.mark.parametrize("kind", ["gpt2", "bert", "bart", "t5", "llama"])
def test_identity_is_of_the_weights_alone(language_models, save, kind, pickled):
    whole, shards = save(kind, "whole"), save(kind, "shards", max_shard_size="5KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 1
    # A state_dict names tied weights twice, safetensors once.
    both = pickled(save(kind, "pickled"), language_models[kind].state_dict())
    plain = pickled(save(kind, "plain"))
    loaded = [load(locate(folder)) for folder in (whole, shards, both, plain)]
    assert len({one.weight_hash for one in loaded} | {weight_hash(whole), weight_hash(str(both))}) == 1
    reference = loaded[0].model.state_dict()
    for other in loaded[1:]:
        assert all(torch.equal(value, reference[name]) for name, value in other.model.state_dict().items())
        assert len(list(other.model.parameters())) == len(list(loaded[0].model.parameters()))


def test_identity_sees_every_change(save, changed):
    name = "transformer.ln_f.bias"

    def swap(weights):
        first, second = "transformer.h.0.attn.c_attn.weight", "transformer.h.1.attn.c_attn.weight"
        weights[first], weights[second] = weights[second], weights[first]

    changes = [
        lambda w: w[name].__setitem__(0, 1e-30),
        lambda w: w.__setitem__(name, w[name].reshape(2, 8)),
        lambda w: w.__setitem__(name, w[name].to(torch.bfloat16)),
        lambda w: w.__setitem__("other", w.pop(name)),
        swap,
    ]
    hashes = {weight_hash(changed(save(name=str(i)), change)) for i, change in enumerate([lambda w: None, *changes])}
    assert len(hashes) == 6
    assert all(len(one) == 64 for one in hashes)


def test_sharded_pickle(language_models, tmp_path, save):
    folder = save()
    (folder / "model.safetensors").unlink()
    weights = list(language_models["gpt2"].state_dict().items())
    shards = {
        "pytorch_model-00001-of-00002.bin": dict(weights[:9]),
        "pytorch_model-00002-of-00002.bin": dict(weights[9:]),
    }
    for name, content in shards.items():
        torch.save(content, folder / name)
    index = {"weight_map": {weight: name for name, content in shards.items() for weight in content}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert load(locate(folder)).weight_hash == weight_hash(save(name="other"))


def test_tied_weight_under_its_other_name(language_models, save, changed):
    """Some conversions keep the output embedding rather than the input embedding."""

    def rename(weights):
        weights["lm_head.weight"] = weights.pop("transformer.wte.weight")

    loaded = load(locate(changed(save(), rename)))
    assert torch.equal(loaded.model.transformer.wte.weight, language_models["gpt2"].transformer.wte.weight)
    assert loaded.model.lm_head.weight is loaded.model.transformer.wte.weight
    assert loaded.weight_hash == weight_hash(save(name="other"))


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_pickles_never_run(save, tmp_path, pickled, refused):
    marker = tmp_path / "marker"
    refused(
        pickled(save(), {"a": torch.zeros(1), "b": _Payload(marker)}),
        r"pytorch_model\.bin' is a pickle that wants to run '\w+\.system'; refused; convert it to safetensors",
    )
    with pytest.raises(InputError, match="wants to run"):
        weight_hash(tmp_path / "model")
    import pickle

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps({"b": _Payload(marker)}, protocol=protocol)
        (tmp_path / "model" / "pytorch_model.bin").write_bytes(content)
        refused(tmp_path / "model", "pytorch_model.bin' .*refused; convert it to safetensors")
    assert not marker.exists()


def test_pickle_of_a_whole_model_or_of_other_things(language_models, save, pickled, refused):
    refused(pickled(save(name="whole"), language_models["gpt2"]), "wants to run 'transformers.*GPT2LMHeadModel'")
    refused(pickled(save(name="nested"), {"model": {"a": torch.zeros(1)}}), "more than weights by name")
    refused(pickled(save(name="list"), [torch.zeros(1)]), "more than weights by name")


def test_no_files(save, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' holds no config\.json; give the folder of a checkpoint"):
        locate(tmp_path / "empty")
    with pytest.raises(InputError, match=r"no config\.json in|no weights in"):
        weight_hash(tmp_path / "empty")
    folder = save()
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    refused(folder, r"no weights in .*; it needs model\.safetensors or pytorch_model\.bin")
    (folder / "config.json").write_text("{")
    refused(folder, r"config\.json' is damaged")
    (folder / "config.json").write_text("[]")
    refused(folder, r"config\.json' is damaged \(no JSON object\)")


def test_shards(save, tmp_path, refused):
    folder = save(max_shard_size="5KB")
    index = folder / "model.safetensors.index.json"
    held = json.loads(index.read_text())
    (folder / "model-00002-of-{:05}.safetensors".format(len(set(held["weight_map"].values())))).unlink()
    refused(folder, r"lacks the shard 'model-00002-of-\d+\.safetensors' that its index lists")
    for content in ("{", "{}", '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        refused(folder, r"index\.json' is damaged")
    (tmp_path / "outside.safetensors").write_bytes(b"")
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    refused(folder, r"lacks the shard 'outside\.safetensors'")


@pytest.mark.parametrize("cut", [0, 4, 100, -100])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_truncated(save, cut, as_pickle, pickled, refused):
    folder = pickled(save()) if as_pickle else save()
    path = folder / ("pytorch_model.bin" if as_pickle else "model.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    refused(folder, f"{path.name}' is damaged")


def test_quantised(save, changed, configured, refused):
    refused(configured(save(), quantization_config={"quant_method": "gptq", "bits": 4}), "quantised .*; dequantise")
    name = "transformer.h.0.attn.c_attn.weight"
    for dtype in (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn):
        folder = changed(save(), lambda w, dtype=dtype: w.__setitem__(name, w[name].to(dtype)))
        configured(folder, quantization_config=None)
        refused(folder, rf"weight '{name}' in .* is quantised or packed \({dtype}\); dequantise first")


def test_integer_buffers_are_no_quantised_weights(save, changed):
    folder = changed(save(), lambda w: w.__setitem__("transformer.h.0.attn.bias", torch.ones(4, 4, dtype=torch.uint8)))
    load(locate(folder))
