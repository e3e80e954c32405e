"""A checkpoint, a text and settings -> what is measured and how, for runs of ours and models of every kind."""

import json
from dataclasses import replace

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers as t
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from est_analysis.any_checkpoint.compare import compare_checkpoints, prepare_alike
from est_analysis.any_checkpoint.text import TextSource
from est_analysis.any_checkpoint.trace import (
    TraceSettings,
    budget_of,
    default_file,
    measure,
    prepare,
)
from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate
from est_analysis.curvature.taylor import jet
from est_analysis.data.corpus import open_corpus
from est_analysis.data.tokenizer import build_tokenizer
from est_analysis.errors import InputError
from est_analysis.experiments.runs.run import run


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch, tmp_path):
    """No test reaches the hub, nor the user's own cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def ours(spec, quiet, tmp_path_factory):
    """The folder of a run of four steps, 32 tokens a sequence."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EST_ANALYSIS_CACHE", str(root / "cache"))
        return run(spec, quiet, root=root / "runs").folder


@pytest.fixture
def loaded(ours):
    return load(locate(ours))


@pytest.fixture
def settings(shared):
    """Few pairs of one short sequence and two probes."""
    source = TextSource(corpora=(str(shared / "text.txt"),))
    return TraceSettings(text=source, micro_batch=1, probes=2, max_pairs=8)


WORDS = ["the", "model", "layer", "rate", "depth", "step", "of", "a", "mask"]
SPECIAL = {
    "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    "eos_token": "</s>",
}  # fmt: skip
SENTINELS = [f"<extra_id_{i}>" for i in range(100)]


def make(kind):
    common = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 5, "pad_token_id": 1}
    if kind == "causal":
        return t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=24, **common))
    if kind == "masked":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
        return t.BertForMaskedLM(t.BertConfig(max_position_embeddings=24, **sizes, **common))
    sizes = {"d_model": 16, "d_ff": 20, "d_kv": 8, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 1}
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, **common | {"vocab_size": 140}))


@pytest.fixture
def folder(tmp_path):
    """Saves a tiny model of a kind, with a tokenizer of words."""

    def folder(kind, words=True, seed=0):
        path = tmp_path / f"{kind}-{seed}-{words}"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            make(kind).save_pretrained(path)
        if words:
            extra = SENTINELS if kind == "seq2seq" else []
            names = [*SPECIAL.values(), *extra, *WORDS]
            backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
            backend.pre_tokenizer = pre_tokenizers.Whitespace()
            tokenizer = t.PreTrainedTokenizerFast(
                tokenizer_object=backend, **SPECIAL, additional_special_tokens=extra
            )  # fmt: skip
            tokenizer.save_pretrained(path)
        return path

    return folder


def found(prepared, settings, **options):
    return measure(prepared, budget_of(settings, prepared), **options)


# --- prepare ----------------------------------------------------------------------------------------------------------


OWN_TOKENIZER = """
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

class Own(PreTrainedTokenizerFast):
    def __init__(self, **more):
        super().__init__(**{{**more, "tokenizer_object": Tokenizer.from_file({words!r})}})
"""


def test_a_tokenizer_with_code_of_its_own_is_the_one_that_was_loaded(folder, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(t.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = folder("causal")
    settings = replace(settings, seq_len=8)
    plain = prepare(load(locate(path)), settings)
    words = (path / "tokenizer.json").rename(path / "words.json")
    (path / "own.py").write_text(OWN_TOKENIZER.format(words=str(words)))
    config = path / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    config.write_text(json.dumps(json.loads(config.read_text()) | own))
    prepared = prepare(load(locate(path), trust_remote_code=True), settings)
    assert type(prepared.loaded.tokenizer).__name__ == "Own"
    assert prepared.identity == plain.identity


def test_a_run_of_ours_is_measured_as_it_was_trained(loaded, settings):
    prepared = prepare(loaded, settings)
    assert prepared.identity["seq_len"] == 32
    assert prepared.identity["engine"] == prepared.engine.name == "taylor"
    assert prepared.inputs[0]["input_ids"].shape == (1, 32)
    assert prepared.fallback == ""
    assert prepare(loaded, replace(settings, seq_len=16)).identity["seq_len"] == 16
    estimate = found(prepared, settings)
    assert (estimate.pairs, estimate.batches, estimate.targets) == (8, 4, 128)
    assert estimate.stderr > 0


@pytest.mark.parametrize(("family", "objective"), [("bert", "masked"), ("t5", "span_corruption"), ("t5", "ul2")])
def test_a_denoising_run_of_ours_is_measured_on_what_it_was_trained_on(
    spec, quiet, settings, tmp_path, family, objective
):
    result = run(replace(spec, family=family, objective=objective, method="full"), quiet, root=tmp_path)
    checkpoint = load(locate(result.folder))
    prepared = prepare(checkpoint, settings)
    assert prepared.identity["objective"] == objective
    batch, vocabulary = prepared.inputs[0], checkpoint.tokenizer.get_vocab()
    modes = {vocabulary[name] for name in ("[R]", "[S]", "[X]") if name in vocabulary}
    assert (int(batch["input_ids"][0, 0]) in modes) == (objective == "ul2")
    assert found(prepared, settings).targets > 0
    assert (
        "objective"
        not in prepare(
            checkpoint, replace(settings, text=replace(settings.text, tokenizer=str(checkpoint.located.folder)))
        ).identity
    ), "a tokenizer of the user's own may lack what the objective needs"


def test_sequences_begin_as_the_tokenizer_begins_a_text(folder, loaded, settings):
    """Some models are lost without the token that all of their training began with."""
    path = folder("causal")
    settings = replace(settings, seq_len=8)
    plain = prepare(load(locate(path)), settings)
    backend = Tokenizer.from_file(str(path / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A </s>", special_tokens=[("[CLS]", 2), ("</s>", 5)]
    )
    backend.save(str(path / "tokenizer.json"))
    begun = prepare(load(locate(path)), settings)
    assert "begin" not in plain.identity
    assert begun.identity == plain.identity | {"begin": [2]}
    assert begun.inputs[0]["input_ids"][:, 0].tolist() == [2]
    assert torch.equal(begun.inputs[0]["targets"][:, :-1], begun.inputs[0]["input_ids"][:, 1:])
    twins = prepare_alike([load(locate(path)), load(locate(folder("causal", seed=1)))], settings)
    assert twins[0].identity["text"] == twins[1].identity["text"]
    assert not compare_checkpoints(twins, settings, keep=False).paired, "one token further on it is another batch"
    assert "begin" not in prepare(loaded, settings).identity, "a run of ours was trained on windows of a stream"


@pytest.mark.parametrize(("kind", "seq_len"), [("causal", 24), ("masked", 24), ("seq2seq", 512)])
def test_every_kind_of_model(folder, settings, kind, seq_len):
    checkpoint = load(locate(folder(kind)))
    settings = replace(settings, text=replace(settings.text, split="all"))
    assert prepare(checkpoint, settings).identity["seq_len"] == seq_len
    settings = replace(settings, seq_len=16)
    taylor, hvp = (found(prepare(checkpoint, replace(settings, engine=e)), settings) for e in ("taylor", "hvp"))
    # The same probes: float32 sums in another order.
    assert taylor.value == pytest.approx(hvp.value, rel=1e-3)
    assert taylor.loss == pytest.approx(hvp.loss, rel=1e-5)
    assert taylor.loss == pytest.approx(np.log(checkpoint.model.config.vocab_size), abs=0.5)  # nothing is learnt yet
    per_batch = {"causal": 16, "masked": 2}.get(kind, 4)  # 14 tokens and a frame; a span of 2, its sentinel and the end
    assert taylor.targets == 4 * per_batch


def test_the_identity_names_all_that_decides_the_numbers(loaded, settings, tmp_path):
    base = prepare(loaded, settings).identity
    assert prepare(loaded, settings).identity == base
    assert prepare(loaded, replace(settings, rel_se=0.5, max_pairs=100, over="batches")).identity == base
    changes = [
        {"engine": "hvp"}, {"seq_len": 16}, {"micro_batch": 2}, {"probes": 1}, {"seed": 1},
        {"engine": "hvp", "blocks": True}, {"text": replace(settings.text, split="all")},
        {"text": replace(settings.text, max_bytes=50_000)},
    ]  # fmt: skip
    others = [prepare(loaded, replace(settings, **change)).identity for change in changes]
    files = {default_file(identity) for identity in (base, *others)}
    assert len(files) == len(changes) + 1
    assert default_file(base, (0, 2)) not in files


def test_a_tokenizer_that_does_not_fit(folder, settings):
    text = replace(settings.text, tokenizer="bytes")
    with pytest.raises(InputError, match=r"does not fit .*: it gives token 121, the model knows 40; .*--tokenizer"):
        prepare(load(locate(folder("causal"))), replace(settings, text=text))


def test_a_tokenizer_whose_mask_does_not_fit(folder, settings):
    """The text's own tokens fit; the mask and random tokens in their places need not."""
    loaded = load(locate(folder("masked")))
    loaded.tokenizer.add_tokens([f"new{i}" for i in range(60)])
    with pytest.raises(InputError, match=r"does not fit .*: it gives token \d+, the model knows 40; .*--tokenizer"):
        prepare(loaded, settings)


def test_another_config_is_measured_anew(loaded, settings):
    one = prepare(loaded, settings).identity
    assert default_file(prepare(replace(loaded, config_hash="another"), settings).identity) != default_file(one)


def test_no_tokenizer(folder, settings):
    checkpoint = load(locate(folder("causal", words=False)))
    with pytest.raises(InputError, match="has no tokenizer; give one with --tokenizer, such as bytes"):
        prepare(checkpoint, settings)


def test_a_tokenizer_that_can_mask_nothing(folder, settings, shared, tmp_path):
    tokenizer = build_tokenizer("bytes", open_corpus(str(shared / "text.txt")))
    path = folder("masked", words=False)
    t.BertForMaskedLM(t.BertConfig(vocab_size=256, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                   intermediate_size=8, max_position_embeddings=24)).save_pretrained(path)  # fmt: skip
    tokenizer.save_pretrained(path)
    with pytest.raises(InputError, match="no mask token"):
        prepare(load(locate(path)), settings)


def test_sequences_that_the_model_or_the_text_cannot_give(loaded, folder, settings, tmp_path):
    with pytest.raises(InputError, match=r"seq_len=25 is more than .* reads; use at most 24"):
        prepare(load(locate(folder("causal"))), replace(settings, seq_len=25))
    short = tmp_path / "short.txt"
    short.write_text("the model\n" * 2)
    with pytest.raises(InputError, match=r"the text has 2\d tokens, less than one sequence of 32 and .*--seq-len 1"):
        prepare(loaded, replace(settings, text=TextSource(corpora=(str(short),), split="all")))
    short.write_text("")
    with pytest.raises(InputError, match="is empty"):
        prepare(loaded, replace(settings, text=TextSource(corpora=(str(short),))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": "tylor"}, "unknown engine 'tylor': did you mean 'taylor'"),
        ({"seq_len": 0}, "seq_len=0 is not positive"),
        ({"micro_batch": -1}, "micro_batch=-1 is not positive"),
        ({"probes": 0}, "probes=0 is not positive"),
        ({"engine": "taylor", "blocks": True}, "cannot tell layers apart"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(InputError, match=message):
        TraceSettings(**fields)


def test_an_operator_without_a_rule_falls_back_to_hvp_and_is_named(loaded, settings, monkeypatch):
    expected = found(prepare(loaded, replace(settings, engine="hvp")), settings)
    for rule in [rule for rule in jet.RULES if "layer_norm" in str(rule)]:
        monkeypatch.delitem(jet.RULES, rule)
    monkeypatch.setattr(jet, "decomposition_table", {})
    prepared = prepare(loaded, settings)
    assert prepared.engine.name == prepared.identity["engine"] == "hvp"
    assert prepared.fallback.startswith("no Taylor rule for the operator 'aten.")
    assert "layer_norm" in prepared.fallback
    assert "\n" not in prepared.fallback
    assert found(prepared, settings).value == expected.value
    with pytest.raises(InputError, match=r"no Taylor rule for the operator .*; use --engine hvp"):
        prepare(loaded, replace(settings, engine="taylor"))


# --- measure ----------------------------------------------------------------------------------------------------------


def test_blocks_sum_to_the_trace(loaded, settings):
    settings = replace(settings, blocks=True)
    prepared = prepare(loaded, settings)
    estimate = found(prepared, settings)
    assert prepared.engine.name == "hvp"
    for sample in estimate.samples:
        assert len(sample.blocks) == len(prepared.objective.parameters)
        assert sum(sample.blocks) == pytest.approx(np.mean(sample.values), rel=1e-9)
    bare = found(prepare(loaded, replace(settings, blocks=False, engine="hvp")), settings)
    assert bare.value == estimate.value
    assert all(sample.blocks == () for sample in bare.samples)


def test_measurements_are_kept_and_continued(loaded, settings, tmp_path):
    file = tmp_path / "kept.jsonl"
    first = found(prepare(loaded, settings), settings, file=file)
    more = replace(settings, max_pairs=16)
    continued = found(prepare(loaded, more), more, file=file)
    assert continued.samples[:4] == first.samples
    fresh = found(prepare(loaded, more), more)
    assert (continued.value, continued.stderr) == (fresh.value, fresh.stderr)
    with pytest.raises(InputError, match=r"holds another measurement \(seed 0 not 1\)"):
        found(prepare(loaded, replace(settings, seed=1)), settings, file=file)
    assert found(prepare(loaded, more), more, file=file).samples == continued.samples


# --- compare ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(ours):
    return [load(locate(ours, revision=step)) for step in ("step000000", "step000004")]


def test_compared_checkpoints_see_the_same(two, settings):
    prepared = prepare_alike(two, replace(settings, max_pairs=24))
    compared = compare_checkpoints(prepared, replace(settings, max_pairs=24))
    assert compared.paired
    first, last = compared.estimates
    assert [s.index for s in first.samples] == [s.index for s in last.samples] == list(range(12))
    assert compared.comparisons[0].difference == pytest.approx(last.value - first.value)
    alone = found(prepare(two[1], replace(settings, max_pairs=24)), replace(settings, max_pairs=24))
    assert alone.value == last.value
    again = compare_checkpoints(prepared, replace(settings, max_pairs=24))
    assert again.estimates[0].samples == first.samples, "measured again"
    rounds = []
    prepared = prepare_alike(two[::-1], settings)  # now the baseline's trace is far from zero
    lax = compare_checkpoints(prepared, replace(settings, rel_se=1e3, max_pairs=64), on_round=rounds.append, keep=False)
    assert lax.reached
    assert rounds == [lax]


def test_the_same_weights_are_refused(two, settings):
    with pytest.raises(InputError, match="hold the same weights; name different checkpoints"):
        prepare_alike([*two, two[0]], settings)
    with pytest.raises(InputError, match="one checkpoint has nothing to be compared with"):
        prepare_alike(two[:1], settings)


def test_different_tokenizers_are_not_paired(loaded, folder, settings):
    settings = replace(settings, max_pairs=32)
    prepared = prepare_alike([loaded, load(locate(folder("causal")))], settings)
    assert {one.identity["seq_len"] for one in prepared} == {24}
    compared = compare_checkpoints(prepared, settings)
    assert not compared.paired
    errors = [one.stderr for one in compared.estimates]
    assert compared.comparisons[0].difference_stderr == pytest.approx(np.hypot(*errors))


def test_losses_of_another_kind_are_refused(two, settings):
    with pytest.raises(InputError, match=r"has a causal loss and .* a masked one; compare checkpoints of one kind"):
        prepare_alike([two[0], replace(two[1], loss="masked")], settings)


def test_a_short_text_gives_two_batches_unless_told_otherwise(loaded, settings, tmp_path):
    """Of three sequences, which a planned micro-batch would hold at once: one batch has no standard error."""
    short = tmp_path / "short.txt"
    short.write_text("the model of a layer " * 5)  # 105 tokens of bytes, 32 a sequence
    text = TextSource(corpora=(str(short),), split="all")
    prepared = prepare(loaded, replace(settings, text=text, micro_batch=None))
    assert (prepared.plan.micro_batch, len(prepared.inputs)) == (1, 3)
    with pytest.raises(
        InputError, match="3 sequences of 32, fewer than a batch of 4; use a --micro-batch of at most 3"
    ):
        prepare(loaded, replace(settings, text=text, micro_batch=4))
