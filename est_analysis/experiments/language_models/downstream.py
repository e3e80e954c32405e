"""The downstream proxies of the checkpoints that a run kept, beside the run's rows."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from est_analysis.curvature.checkpoint import load
from est_analysis.curvature.locate import locate
from est_analysis.downstream.proxies import PROXIES, USUAL, Sizes, measure_proxies
from est_analysis.downstream.subject import Subject
from est_analysis.errors import InputError
from est_analysis.experiments.runs.afterwards import Row, keep_rows
from est_analysis.experiments.runs.run import FinishedRun
from est_analysis.experiments.runs.spec import TrainSpec

METRICS = {
    "last-word": "downstream_last_word",
    "kinds": "downstream_probe_kinds",
    "library": "downstream_probe_library",
    "library-finetune": "downstream_finetune_library",
}


@dataclass(frozen=True, kw_only=True)
class DownstreamSettings:
    """What is measured when.

    Attributes:
        along: proxies measured at `steps`; step 0, if it is among them, and the last checkpoint have all of them.
        steps: of training, whose checkpoints the run must have kept.
        sizes: how much of each.
    """

    along: tuple[str, ...] = ("last-word", "kinds")
    steps: tuple[int, ...] = ()
    sizes: Sizes = USUAL


def measure_downstream(settings: DownstreamSettings, spec: TrainSpec, result: FinishedRun) -> None:
    """Measure the checkpoints of a finished run into `downstream.csv`, once.

    Rows: each of `METRICS`, an accuracy between 0 and 1, with `_stderr` over the tested items; at the end its
    `_chance` too. All runs are tested on the same items. The model reads windows as long as those it was trained on.
    """
    steps = sorted({*(step for step in settings.steps if step < result.steps), result.steps})
    folders = {step: result.checkpoint.parent / f"step{step:06d}" for step in steps}
    if missing := [step for step, folder in folders.items() if not folder.is_dir()]:
        raise InputError(f"run {result.run_id} kept no checkpoint of step {missing[0]}; give it another keep_every")

    def rows() -> Iterator[Row]:
        for step, folder in folders.items():
            loaded = load(locate(folder))
            subject = Subject(model=loaded.model, tokenizer=loaded.tokenizer, window=spec.seq_len)
            last = step == result.steps
            for score in measure_proxies(subject, PROXIES if last or step == 0 else settings.along, settings.sizes):
                name = METRICS[score.task]
                yield step, name, score.value
                yield step, f"{name}_stderr", score.stderr
                if last:
                    yield step, f"{name}_chance", score.chance

    keep_rows("downstream", spec, result, identity={"version": 2, "settings": asdict(settings)}, measure=rows)
