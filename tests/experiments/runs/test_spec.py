import json
from dataclasses import fields, replace

import pytest

from est_analysis.errors import InputError
from est_analysis.experiments.runs import spec as module
from est_analysis.experiments.runs.spec import TrainSpec, differing_fields, run_id
from est_analysis.models.families import FAMILIES
from est_analysis.models.gpt2.config import GPT2Config
from est_analysis.train.settings import Settings

BASE = TrainSpec(settings=Settings(steps=150))
OUTER = {
    "preset": "mini",
    "method": "raptr",
    "schedule": "gpt2-two-stage-a",
    "options": {"head_sampling": "whole_groups"},
    "corpus": "text.txt",
    "dataset_config": "wikitext-2-raw-v1",
    "text_column": "body",
    "max_bytes": 1_000_000,
    "tokenizer": "bpe:300",
    "batch_size": 16,
    "seq_len": 64,
    "validation_tokens": 65_536,
    "seed": 1,
}
INNER = {
    "steps": 300,
    "lr": 1e-3,
    "warmup": 1,
    "rewarm": 5,
    "decay": "cosine",
    "betas": (0.9, 0.999),
    "weight_decay": 0.0,
    "clip": 0.0,
    "accumulation": 2,
    "precision": "bfloat16",
    "skipped_gradient": "none",
    "log_every": 11,
    "eval_every": 101,
    "save_every": 201,
    "embedding_decay": 0.1,
    "keep_every": 10,
}


def test_the_name_of_a_run_is_settled():
    """If this fails, every cached run of every user is lost: change it only with NUMERICS_VERSION, on purpose."""
    assert run_id(BASE, data_hash="0" * 64) == "est-20ec25adcb20"


def test_every_field_is_covered():
    assert set(OUTER) == {field.name for field in fields(TrainSpec)} - {"family", "objective", "settings"}
    assert set(INNER) == {field.name for field in fields(Settings)}


@pytest.mark.parametrize("name", [*OUTER, *(f"settings__{name}" for name in INNER)])
def test_every_field_changes_the_name(changed, name):
    value = OUTER.get(name, INNER.get(name.removeprefix("settings__")))
    other = changed(BASE, **{name: value})
    one, two = (run_id(spec, data_hash="0") for spec in (BASE, other))
    assert one != two
    assert two.startswith(f"{other.method}-")
    changes = [line.partition(":")[0] for line in differing_fields(BASE.fields(), other.fields())]
    assert name.replace("__", ".") in {change.removesuffix(".head_sampling") for change in changes}
    assert len(changes) == 1 or name == "method"  # whose options come with it


def test_family_data_and_numerics_change_the_name_too(changed, monkeypatch):
    names = {run_id(BASE, data_hash="0"), run_id(BASE, data_hash="1")}
    monkeypatch.setitem(FAMILIES, "other", FAMILIES["gpt2"])
    names.add(run_id(changed(BASE, family="other"), data_hash="0"))
    monkeypatch.setattr(module, "NUMERICS_VERSION", module.NUMERICS_VERSION + 1)
    names.add(run_id(BASE, data_hash="0"))
    assert len(names) == 4


@pytest.mark.parametrize(
    "name", ["settings__keep_every", "settings__embedding_decay", "options__law", "options__normalise"]
)
def test_a_field_added_later_leaves_old_names_alone_and_counts_when_it_is_used(changed, name):
    part, _, field = name.partition("__")
    assert field in BASE.fields()[part]
    used = {"keep_every": 10, "embedding_decay": 0.1, "law": "bernoulli", "normalise": False}[field]
    default = BASE.fields()[part][field]
    one, two = (
        changed(BASE, **({name: value} if part == "settings" else {part: {field: value}})) for value in (default, used)
    )
    assert run_id(one, data_hash="0") == run_id(BASE, data_hash="0") != run_id(two, data_hash="0")


def test_a_default_given_is_the_default():
    given = replace(BASE, options={"head_sampling": "within_groups"}, objective="causal")
    assert run_id(given, data_hash="0") == run_id(BASE, data_hash="0")


def test_equal_specs_have_equal_names():
    again = TrainSpec(settings=Settings(steps=150, betas=(0.9, 0.95)))
    assert again == BASE
    assert run_id(again, data_hash="0") == run_id(BASE, data_hash="0")


def test_fields_survive_json():
    assert json.loads(json.dumps(BASE.fields())) == BASE.fields()
    assert set(BASE.fields()) == {field.name for field in fields(TrainSpec)}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"a": 2, "b": 3}, ["a: 1 -> 2", "b: 2 -> 3"]),
        ({"s": {"lr": 0.001, "t": 1}}, {"s": {"lr": 0.002, "t": 1}}, ["s.lr: 0.001 -> 0.002"]),
        ({"a": 1}, {"b": 1}, ["a: 1 -> (absent)", "b: (absent) -> 1"]),
        ({"a": {"b": 1}}, {"a": 2}, ["a: {'b': 1} -> 2"]),
    ],
)
def test_differing_fields(one, other, expected):
    assert differing_fields(one, other) == expected


REFUSED = [
    ({"family": "gtp2"}, "unknown family 'gtp2': did you mean 'gpt2'? Known: bert, gpt2, llama"),
    ({"preset": "tniy"}, "unknown preset 'tniy': did you mean 'tiny'? Known: gpt2, grid, mini, small, tiny"),
    ({"method": "ets"}, "unknown method 'ets': did you mean 'est'? Known: dropout, est, full, "),
    ({"schedule": "gpt2-ets"}, "unknown schedule 'gpt2-ets': did you mean 'gpt2-est'? Known: "),
    ({"options": {"output_scale": "inv_p"}}, "unknown option 'output_scale' of method est; its options are head_"),
    ({"objective": "casual"}, "unknown objective 'casual': did you mean 'causal'?"),
    ({"method": "pld", "schedule": "gpt2-est"}, "schedule 'gpt2-est' samples heads or MLP columns, pld only"),
    ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ({"seq_len": -1}, "seq_len=-1 must be at least 1"),
    ({"validation_tokens": 0}, "validation_tokens=0 must be at least 1"),
    ({"seq_len": 257}, "seq_len=257 is longer than the context of 'tiny' (256 tokens)"),
    ({"settings__accumulation": 3}, "a batch of 32 does not divide into 3 micro-batches"),
    ({"settings__steps": 2}, "2 steps are too few for the 3 stages of 'gpt2-est'; use more steps"),
    ({"settings__steps": 0}, "steps=0 must be at least 1"),
    ({"settings__steps": -3}, "steps=-3 must be at least 1"),
    ({"settings__accumulation": 0}, "accumulation=0 must be at least 1"),
    ({"settings__log_every": 0}, "log_every=0 must be at least 1"),
    ({"settings__eval_every": 0}, "eval_every=0 must be at least 1"),
    ({"settings__save_every": 0}, "save_every=0 must be at least 1"),
    ({"settings__lr": 0.0}, "lr=0 must be above 0"),
    ({"settings__lr": float("nan")}, "lr=nan must be above 0"),
    ({"settings__warmup": 150}, "warmup=150 must be at least 0 and shorter than the 150 steps"),
    ({"settings__warmup": -1}, "warmup=-1 must be at least 0"),
    ({"settings__weight_decay": -0.1}, "weight_decay=-0.1 must be at least 0"),
    ({"settings__clip": float("nan")}, "clip=nan must be at least 0"),
    ({"settings__betas": (0.9, 1.0)}, "betas=(0.9, 1.0) must each be at least 0 and below 1"),
    ({"settings__decay": "cosin"}, "unknown decay 'cosin': did you mean 'cosine'? Known: constant, cosine, linear"),
    ({"settings__precision": "float16"}, "unknown precision 'float16': did you mean 'bfloat16'? Known: "),
    ({"settings__skipped_gradient": "zeros"}, "unknown skipped gradient 'zeros': did you mean 'zero'? Known: "),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[str(change) for change, _ in REFUSED])
def test_what_cannot_be_trained_is_refused_at_once(changed, change, message):
    with pytest.raises(InputError) as caught:
        changed(BASE, **change)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 5}, "p_L=0.5 of 5 layers is 2.5 layers; use a multiple of 1/5 above 0, such as 2/5"),
        ({"num_heads": 3}, "p_H=0.5 of 3 heads is 1.5 heads; use a multiple of 1/3 above 0, such as 2/3"),
        ({"mlp_columns": 7}, "p_M=0.5 of 7 MLP columns is 3.5 MLP columns; use a multiple of 1/7 above 0, such as 4/7"),
    ],
)
def test_rates_that_do_not_fit_the_model(monkeypatch, sizes, message):
    config = {
        "num_layers": 4,
        "hidden": 12,
        "num_heads": 2,
        "mlp_columns": 8,
        "vocab_size": 1,
        "context_length": 256,
    } | sizes
    monkeypatch.setitem(FAMILIES["gpt2"].presets, "odd", GPT2Config(**config))
    with pytest.raises(InputError) as caught:
        TrainSpec(preset="odd", settings=Settings(steps=150))
    assert str(caught.value) == f"{message} (on est's own schedule, 'gpt2-est')"


def test_schedule_name(changed):
    assert BASE.schedule_name == "gpt2-est"
    assert changed(BASE, method="raptr").schedule_name == "bert-raptr-6-8-10-12"
    assert changed(BASE, schedule="table1").schedule_name == "table1"
