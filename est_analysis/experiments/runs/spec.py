"""What a run is: a frozen spec whose hash names it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from est_analysis.added import unsaid
from est_analysis.data.objectives import find_objective
from est_analysis.errors import InputError
from est_analysis.experiments.runs.identity import name_of_training
from est_analysis.methods import Option, build_method, find_method, method_options
from est_analysis.models.config import ModelConfig
from est_analysis.models.families import find_family, find_preset
from est_analysis.subnet.cost import Architecture
from est_analysis.subnet.schedule import find_schedule
from est_analysis.train.settings import Settings

NUMERICS_VERSION = 1  # raise it when the same spec shall give other numbers


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that decides the numbers of one training run.

    Attributes:
        family, preset: which model (`models.families`).
        method: a key of `methods.METHODS`.
        schedule: a published schedule's name, stretched to the run's steps; empty for the method's own.
        options: of the method (`methods.method_options`), by name; its defaults unless given.
        objective: what it is trained on, a key of `data.objectives.OBJECTIVES`; empty for the family's usual one.
        corpus: `python`, a path, `hf:NAME`, or `hmm:STATES,VOCAB,SEED` (`data.synthetic`).
        dataset_config, text_column: which part of a Hugging Face dataset; for other corpora as they are.
        max_bytes: stop after this much text; 0 takes all of it.
        tokenizer: `bytes`, `bpe:SIZE`, or a tokenizer's name or folder.
        batch_size: sequences a step, over all ranks and micro-batches.
        seq_len: tokens a sequence.
        validation_tokens: how much held-out text the full model is evaluated on.
        seed: of initialisation, data order and masks.
        settings: optimisation and measurement.
    """

    family: str = "gpt2"
    preset: str = "tiny"
    method: str = "est"
    schedule: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    objective: str = ""
    corpus: str = "python"
    dataset_config: str = ""
    text_column: str = "text"
    max_bytes: int = 0
    tokenizer: str = "bytes"
    batch_size: int = 32
    seq_len: int = 128
    validation_tokens: int = 131_072
    seed: int = 0
    settings: Settings

    def __post_init__(self) -> None:
        find_family(self.family)
        for name in ("batch_size", "seq_len", "validation_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batch_size % self.settings.accumulation:
            raise InputError(
                f"a batch of {self.batch_size} does not divide into {self.settings.accumulation} micro-batches"
            )
        config = self.model_config(vocab_size=1)
        if self.seq_len > config.context_length:
            raise InputError(
                f"seq_len={self.seq_len} is longer than the context of '{self.preset}' ({config.context_length} tokens)"
            )
        find_method(self.method)
        usable = config.objectives
        if find_objective(self.objective_name).name not in usable:
            raise InputError(f"family {self.family} cannot be trained on '{self.objective}'; use {' or '.join(usable)}")
        if self.schedule:
            find_schedule(self.schedule)
        self.build_method(config)

    def model_config(self, *, vocab_size: int) -> ModelConfig:
        """The sizes of the model for a tokenizer of `vocab_size` entries."""
        return find_preset(self.preset, family=self.family, vocab_size=vocab_size)

    def build_method(self, config: ModelConfig):
        """The method, on the shape of `config`."""
        return build_method(
            self.method,
            shape=config.architecture(self.seq_len).stack,
            total_steps=self.settings.steps,
            seed=self.seed,
            schedule=self.schedule or None,
            options=self.options,
        )

    @property
    def objective_name(self) -> str:
        """The objective: the one given, or the family's usual one."""
        return self.objective or find_family(self.family).objectives[0]

    def architecture(self, config: ModelConfig) -> Architecture:
        """What decides the cost of training `config`: its sizes on what the objective makes of a window."""
        return config.architecture_on(find_objective(self.objective_name).lengths(self.seq_len))

    def run_settings(self, config: ModelConfig) -> Settings:
        """The settings of the run: as given, or with fewer steps if the method stops earlier."""
        steps = self.build_method(config).steps_to_train(self.architecture(config))
        if steps == self.settings.steps:
            return self.settings
        warmup = self.settings.warmup * steps // self.settings.steps
        return replace(self.settings, steps=steps, warmup=warmup)

    @property
    def schedule_name(self) -> str:
        """The schedule it trains with: the one given, or the method's own."""
        return self.schedule or find_method(self.method).default_schedule

    def fields(self) -> dict[str, Any]:
        """All fields, defaults included, those of the method's options too, as plain JSON values."""
        settled = {"options": method_options(self.method) | dict(self.options), "objective": self.objective_name}
        return json.loads(json.dumps(asdict(self) | settled))


def run_id(spec: TrainSpec, *, data_hash: str) -> str:
    """`<method>-<12 hex digits>`: a hash of every field, the content of the tokens and the version of the numerics.

    A field that was added later counts where it is not at its default, so that the names of earlier runs stay.
    """
    return name_of_training(said(spec.fields()), data_hash=data_hash, numerics=NUMERICS_VERSION)


def said(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec, as plain values, without those added later that are at their defaults (`added`)."""
    parts = {"settings": Settings} | ({"options": find_method(found["method"])} if "options" in found else {})
    kept = {}
    for part, kind in parts.items():
        added = {one.name: one for one in fields(kind)}
        values = found[part].items()
        kept[part] = {name: value for name, value in values if name not in added or not unsaid(added[name], value)}
    return {**found, **kept}


def differing_fields(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """`name: a -> b` for every field in which two specs differ, nested ones with a dot.

    >>> differing_fields({"seed": 0, "s": {"lr": 1}}, {"seed": 1, "s": {"lr": 1}})
    ['seed: 0 -> 1']
    """
    found = []
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name, "(absent)"), other.get(name, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing_fields(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a} -> {b}")
    return found
