"""Flatness along training: EST's Hessian trace beside the full model's, dropout's and RaPTr's, at equal steps and loss.

EST (arXiv 2406.06962, section 5.2, Table 5) reports a smaller trace at almost the same loss. Two languages: `text`, on
which EST ends at a higher loss at this scale, so that the baseline is read where it passed that loss; and `hmm`, a
synthetic one of known entropy, the setting of Liu et al. 2023 (arXiv 2210.14199), on which losses end close together.

Learning rates are found by the rule of `rate_sweep` (scales `rates` and `report-rates`; on text they are the grid's, of
the same length). What changes one thing about EST keeps EST's rate: flatness depends on the rate, and another would
change two things. For the same reason the baseline runs at EST's rate too (`full/est-rate`), as in the paper, where
both have one; and at either rate in half the steps, so that equal losses can be compared with both rates decayed. The
pair `/constant-lr` is for the slope of the loss in stage 3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from est_analysis.downstream.proxies import SMOKE
from est_analysis.experiments.language_models import grid
from est_analysis.experiments.language_models.along_training import (
    FIFTEENTHS,
    CurvatureSettings,
    measure_best_loss,
    measure_curvature,
)
from est_analysis.experiments.language_models.downstream import DownstreamSettings, measure_downstream
from est_analysis.experiments.language_models.facts import training_facts
from est_analysis.experiments.runs.afterwards import Afterwards
from est_analysis.experiments.runs.rate_sweep import FIRST_SEED, RATES, try_rates
from est_analysis.experiments.runs.side_by_side import Entry, run_all
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.experiments.study import Request, Study
from est_analysis.methods import Option
from est_analysis.train.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A contender.

    Attributes:
        method: a key of `methods.METHODS`.
        rate_of: the contender whose best learning rate it has; empty for its own.
        options: of the method.
        settings: fields of `Settings` that it changes.
        share: of the steps that it runs.
        languages: on which it runs.
        at: fifteenths of its steps after which its curvature is measured, if not those of the scale.
    """

    method: str
    rate_of: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    languages: tuple[str, ...] = ("text", "hmm")
    at: tuple[int, ...] | None = None


VARIANTS: dict[str, Variant] = {
    "full": Variant(method="full"),
    "est": Variant(method="est"),
    "dropout": Variant(method="dropout"),
    "raptr": Variant(method="raptr"),
    "est/decayed-embeddings": Variant(method="est", rate_of="est", settings={"embedding_decay": 1.0}),
    "est/unscaled": Variant(method="est", rate_of="est", options={"normalise": False}),
    "full/est-rate": Variant(method="full", rate_of="est"),
    "full/half": Variant(method="full", rate_of="full", share=0.5, at=(FIFTEENTHS,)),
    "full/est-rate-half": Variant(method="full", rate_of="est", share=0.5, at=(FIFTEENTHS,)),
    "full/constant-lr": Variant(
        method="full", rate_of="est", settings={"decay": "constant"}, languages=("text",), at=()
    ),
    "est/constant-lr": Variant(method="est", rate_of="est", settings={"decay": "constant"}, languages=("text",), at=()),
}


@dataclass(frozen=True, kw_only=True)
class Language:
    """What is learned, by a model of which sizes, from how much text a step.

    Attributes:
        corpus: as `TrainSpec` has it; empty for the one asked for.
        preset: of GPT-2.
        batch_size, seq_len: of a step.
        rates: best learning rate of the variants that have one of their own.
    """

    corpus: str
    preset: str
    batch_size: int
    seq_len: int
    rates: Mapping[str, float]


SWEPT = ("corpus", "method")  # columns that tell apart what has a learning rate of its own

_TEXT = Language(
    corpus="",
    preset="grid",
    batch_size=16,
    seq_len=64,
    rates={**{label: grid.BEST_RATE["gpt2"][label] for label in ("full", "est", "raptr")}, "dropout": 8e-3},
)
# The filter forgets the state within about five symbols, so short windows cost little of what there is to learn.
_HMM = Language(
    corpus="hmm:8,32,0",
    preset="tiny",
    batch_size=64,
    seq_len=16,
    rates={"full": 4e-3, "est": 4e-3, "dropout": 8e-3, "raptr": 4e-3},  # paper_figures/data/flatness_rates.csv
)
_LONGER_HMM = replace(_HMM, rates={"full": 16e-3, "est": 4e-3})  # paper_figures/data/flatness_rates_report.csv
_LONGER_TEXT = replace(_TEXT, rates={label: grid.BEST_RATE_LONGER["gpt2"][label] for label in ("full", "est")})


@dataclass(frozen=True, kw_only=True)
class FlatnessScale:
    """How large the study is run.

    Attributes:
        steps: of every run of share 1.
        languages: by name.
        cost: what to expect, in words.
        seeds: of every contender.
        variants: labels of contenders.
        tried: learning rates to try for every contender with a rate of its own; empty for the best.
        validation_tokens: of every run.
        curvature: when and how well it is measured.
        downstream: how much of each downstream proxy; the later checkpoints whose curvature is measured have them too.
            None for nothing.
    """

    steps: int
    languages: Mapping[str, Language]
    cost: str
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[str, ...] = tuple(VARIANTS)
    tried: tuple[float, ...] = ()
    validation_tokens: int = 16_384
    curvature: CurvatureSettings = field(default_factory=CurvatureSettings)
    downstream: DownstreamSettings | None = field(default_factory=DownstreamSettings)


_SMALL = {"preset": "tiny", "batch_size": 2, "seq_len": 16}
SCALES: dict[str, FlatnessScale] = {
    "smoke": FlatnessScale(
        steps=60,
        languages={"text": replace(_TEXT, **_SMALL), "hmm": replace(_HMM, **_SMALL, corpus="hmm:4,16,0,20000")},
        seeds=(0,),
        validation_tokens=64,
        curvature=CurvatureSettings(fifteenths=(7, 15), max_pairs=2, micro_batches=1),
        downstream=DownstreamSettings(sizes=SMOKE),
        cost="about a minute; shows that the code runs, nothing else",
    ),
    "rates": FlatnessScale(
        steps=600,
        languages={"text": _TEXT, "hmm": _HMM},
        seeds=(FIRST_SEED,),
        tried=RATES,
        cost="the learning-rate sweep, about ten minutes on two cores; nothing is measured of its runs",
    ),
    "quick": FlatnessScale(steps=600, languages={"text": _TEXT, "hmm": _HMM}, cost="about an hour on one core"),
    "report-rates": FlatnessScale(
        steps=2400,
        languages={"hmm": _LONGER_HMM},
        seeds=(FIRST_SEED,),
        variants=("full", "est"),
        tried=RATES,
        cost="the learning-rate sweep of the synthetic language for `report`, a quarter of an hour on two cores",
    ),
    "report": FlatnessScale(
        steps=2400,
        languages={"text": _LONGER_TEXT, "hmm": _LONGER_HMM},
        seeds=(0, 1, 2, 3, 4),
        variants=("full", "est", "full/est-rate", "full/half", "full/est-rate-half"),
        downstream=None,
        cost="about three quarters of an hour on two cores: four times the steps, EST and the full model alone",
    ),
}


def entries(
    scale: FlatnessScale, *, corpus: str, variants: Iterable[str] = (), languages: Iterable[str] = ()
) -> list[Entry]:
    """Every run of `variants` at `scale`, each once: of two with the same spec the first one is kept.

    Args:
        scale: one of `SCALES`, or one of your own.
        corpus: the text.
        variants: labels in `VARIANTS`; all of the scale's unless given.
        languages: names; all of the scale's unless given.
    """
    found: dict[str, Entry] = {}
    for name in languages or scale.languages:
        for label in variants or scale.variants:
            variant, language = VARIANTS[label], scale.languages[name]
            if name not in variant.languages or (scale.tried and label not in language.rates):
                continue
            for lr in scale.tried or (language.rates[variant.rate_of or label],):
                for seed in scale.seeds:
                    spec = _spec(scale, language, variant, language.corpus or corpus, seed=seed, lr=lr)
                    after = () if scale.tried else _after(scale, variant, name, spec)
                    entry = Entry(spec=spec, labels={"method": label, "corpus": name}, after=after)
                    found.setdefault(repr(spec), entry)
    return list(found.values())


def _after(scale: FlatnessScale, variant: Variant, language: str, spec: TrainSpec) -> tuple[Afterwards, ...]:
    """What is measured of the finished run."""
    if variant.at == ():
        return ()
    curvature = scale.curvature if variant.at is None else replace(scale.curvature, fifteenths=variant.at)
    measured: list[Afterwards] = [partial(measure_curvature, curvature)]
    if (proxies := _downstream(scale, spec, curvature)) is not None:
        measured.append(partial(measure_downstream, proxies))
    if language == "hmm":
        measured.append(measure_best_loss)
    return tuple(measured)


def _downstream(scale: FlatnessScale, spec: TrainSpec, curvature: CurvatureSettings) -> DownstreamSettings | None:
    """The proxies are made of Python source: only a model of it has them, from where EST trains the full model.

    What is measured along training has them one checkpoint earlier too, since the baseline passes the loss that EST
    ends with by then, and untrained.
    """
    if scale.downstream is None or spec.corpus != "python":
        return None
    total = spec.settings.steps
    late = [step for step in curvature.steps(total) if step >= 7 * total // FIFTEENTHS]
    early = [0, 6 * total // FIFTEENTHS] if curvature == scale.curvature else []
    return replace(scale.downstream, steps=(*early, *late))


def _spec(
    scale: FlatnessScale, language: Language, variant: Variant, corpus: str, *, seed: int, lr: float
) -> TrainSpec:
    steps = round(variant.share * scale.steps)
    settings = Settings(
        steps=steps,
        lr=lr,
        warmup=steps // 10,
        log_every=max(1, steps // 20),
        eval_every=steps // FIFTEENTHS,
        save_every=steps,
        keep_every=steps // FIFTEENTHS,
    )
    return TrainSpec(
        preset=language.preset,
        method=variant.method,
        options=variant.options,
        corpus=corpus,
        batch_size=language.batch_size,
        seq_len=language.seq_len,
        validation_tokens=scale.validation_tokens,
        seed=seed,
        settings=replace(settings, **variant.settings),
    )


def measure(request: Request) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of every run, and what a report should know of how they were made."""
    scale = SCALES[request.scale]
    if request.seeds:
        first = FIRST_SEED if scale.tried else 0
        scale = replace(scale, seeds=tuple(range(first, first + request.seeds)))
    runs = entries(scale, corpus=request.corpus)
    request.say(f"flatness, {request.scale} scale: {len(runs)} runs of about {scale.steps} steps ({scale.cost})")
    run = partial(run_all, root=request.runs, workers=request.processes, diverging=bool(scale.tried))
    rows = try_rates(runs, run, say=request.say, by=SWEPT) if scale.tried else run(runs)
    corpora = ", ".join(dict.fromkeys(entry.spec.corpus for entry in runs))
    return rows, training_facts(runs[0].spec, corpus=corpora, seeds=rows["seed"])


STUDY = Study(
    name="flatness",
    description="Hessian and Fisher traces along training, group by group, at equal steps and at equal loss",
    version=2,  # rates of three seeds
    scales={name: scale.cost for name, scale in SCALES.items()},
    measure=measure,
)
