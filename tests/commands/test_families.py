"""Every family from the command line."""

import json

import pytest

from est_analysis.models.families import FAMILIES
from est_analysis.subnet.cost import PUBLISHED_ARCHITECTURES


@pytest.mark.parametrize(
    ("family", "preset"), [(family, name) for family in FAMILIES for name in FAMILIES[family].presets]
)
def test_a_schedule_costs_something_on_every_preset(est, family, preset):
    record = json.loads(est("flops", "gpt2-est", "--model", preset, "--family", family, "--json").out)
    assert 0 < record["true_saving"] < record["paper_saving"] == pytest.approx(80 / 3)
    assert record["architecture"]["num_heads"] == FAMILIES[family].presets[preset].num_heads


USUAL = {"gpt2": "gpt2", "llama": "tinyllama", "t5": "t5-v1.1-small", "bert": "bert-base", "megatron-bert": "mini"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_alone_is_its_usual_model(est, family):
    preset = FAMILIES[family].presets[USUAL[family]]
    vocabulary = 256 if USUAL[family] == "mini" else preset.vocab_size
    for command in (("flops", "est"), ("methods",)):
        record = json.loads(est(*command, "--family", family, "--json").out)
        assert (record["model"], record["family"]) == (USUAL[family], family)
        sizes = record["architecture"]
        assert (sizes["hidden"], sizes["num_layers"]) == (preset.hidden, preset.num_layers)
        assert sizes["vocab_size"] == vocabulary
        named = json.loads(est(*command, "--family", family, "--model", USUAL[family], "--json").out)
        assert named == record


@pytest.mark.parametrize("family", FAMILIES)
def test_a_schedule_keeps_its_model_within_the_family(est, family):
    for schedule, suited in {"tinyllama-est": "tinyllama", "ul2-raptr-12-16-20-24": "bert-large"}.items():
        record = json.loads(est("flops", schedule, "--family", family, "--json").out)
        own = suited in FAMILIES[family].presets
        assert record["model"] == (suited if own else USUAL[family])


@pytest.mark.parametrize(
    ("model", "family"),
    [("t5-v1.1-small", "t5"), ("tinyllama", "llama"), ("bert-large", "bert"), ("gpt2-xl", "gpt2"), ("tiny", "gpt2")],
)
def test_a_model_alone_finds_its_family(est, model, family):
    for command in (("flops", "full"), ("methods",)):
        record = json.loads(est(*command, "--model", model, "--json").out)
        assert (record["model"], record["family"]) == (model, family)
        assert record == json.loads(est(*command, "--model", model, "--family", family, "--json").out)


def test_every_published_model_is_of_a_family(est):
    for model in PUBLISHED_ARCHITECTURES:
        assert json.loads(est("flops", "full", "--model", model, "--json").out)["family"] in FAMILIES


def test_the_heading_names_the_family_where_the_model_alone_does_not(est):
    assert "est, with gpt2-est, on mini of t5" in est("flops", "est", "--model", "mini", "--family", "t5").out
    first, *_ = est("flops", "est", "--family", "llama").out.splitlines()
    assert first.rstrip() == "est, with gpt2-est, on tinyllama"
    assert "what they save on mini of llama" in est("methods", "--model", "mini", "--family", "llama").out


def test_whole_groups_save_a_little_more(est):
    kept, sampled = (
        json.loads(est("flops", "tinyllama-est", *more, "--json").out)["true_saving"]
        for more in ((), ("--head-sampling", "whole_groups"))
    )
    assert (round(kept, 2), round(sampled, 2)) == (23.34, 23.66)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flops", "gpt2-est", "--family", "lama"), "unknown family 'lama': did you mean 'llama'? Known: bert, gpt2"),
        (
            ("flops", "gpt2-est", "--model", "small", "--family", "llama"),
            "model 'small' is not of the family 'llama'; give --family gpt2, or one of its models: grid, mini, tiny, t",
        ),
        (
            ("flops", "est", "--model", "gpt2", "--family", "bert"),
            "model 'gpt2' is not of the family 'bert'; give --family gpt2, or one of its models: bert-base, bert-large",
        ),
        (
            ("methods", "--model", "grid", "--family", "bert"),
            "model 'grid' is not of the family 'bert'; give --family gpt2 or llama or t5 or megatron-bert, or one of",
        ),
        (
            ("flops", "est", "--model", "t5-v1.1-smal"),
            "unknown model 't5-v1.1-smal': did you mean 't5-v1.1-small'? Known: ",
        ),
        (
            ("flops", "est", "--model", "bert-bas", "--family", "bert"),
            "unknown model 'bert-bas': did you mean 'bert-base'? Known: bert-base, bert-large, mini, tiny",
        ),
        (("flops", "gpt2-est", "--head-sampling", "groups"), "unknown head sampling 'groups': did you mean 'whole_"),
        (("train", "--family", "lama"), "unknown family 'lama': did you mean 'llama'?"),
        (("train", "--family", "llama", "--preset", "gpt2"), "unknown preset 'gpt2': Known: grid, mini, tiny"),
    ],
)
def test_what_there_is_not(est, arguments, message):
    result = est(*arguments)
    assert result.code == 2
    assert result.error.startswith(message)
