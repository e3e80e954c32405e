"""The grid: its costs match, its runs are labelled, and a method of one's own goes through it."""

from dataclasses import dataclass, replace

import pytest

from est_analysis.experiments.language_models import grid
from est_analysis.experiments.language_models.contenders import CONTENDERS, Contender
from est_analysis.experiments.runs.rate_sweep import MORE_SEEDS, RATES
from est_analysis.experiments.runs.side_by_side import run_all
from est_analysis.experiments.study import Request
from est_analysis.methods import METHODS
from est_analysis.methods.cost import method_cost
from est_analysis.methods.method import StagedMethod
from est_analysis.subnet.mask import LayerMask, SubnetMask

QUICK = grid.SCALES["quick"]


def _saving(entry, architecture):
    method = entry.spec.build_method(entry.spec.model_config(vocab_size=256))
    return method_cost(method, architecture).paper_saving


@pytest.mark.parametrize("family", QUICK.families)
def test_contenders_save_about_a_quarter_of_the_layer_flops(family):
    """MSG saves 22 to 23 %, as its published stages do; everything else 25 to 27 %."""
    scale = replace(QUICK, families=(family,), seeds=(0,), budgets=())
    for entry in grid.entries(scale, corpus="python"):
        architecture = entry.spec.architecture(entry.spec.model_config(vocab_size=256))
        saving = _saving(entry, architecture)
        least, most = {"full": (0, 0), "msg": (0.21, 0.24)}.get(entry.labels["method"], (0.245, 0.275))
        assert least <= saving <= most, entry.labels


def test_the_grid_is_every_contender_on_every_family_and_the_frontier():
    runs = grid.entries(QUICK, corpus="python")
    main = {(*e.labels.values(), e.spec.seed) for e in runs if e.labels["budget"] == 1}
    assert len(main) == len(QUICK.families) * len(CONTENDERS) * 3
    beside = [e for e in runs if e.labels["budget"] != 1]
    assert {e.labels["method"] for e in beside} == set(grid.FRONTIER)
    assert {e.spec.settings.steps for e in beside} == {round(b * QUICK.steps) for b in QUICK.budgets}
    assert len({repr(e.spec) for e in runs}) == len(runs), "no run twice"
    assert all(100 not in scale.seeds or scale.rates for scale in grid.SCALES.values()), "the sweep's seed is its own"


@dataclass(frozen=True, kw_only=True)
class _Halves(StagedMethod):
    """Source: this test. Cost: half the layers."""

    default_schedule = "bert-raptr-6-8-10-12"

    def draw(self, rates, step):
        """Every other layer."""
        layers = range(self.shape.num_layers)
        return SubnetMask(layers=tuple(LayerMask() if (i + step) % 2 else None for i in layers))


def test_a_method_of_ones_own_runs_in_this_process(shared, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "halves", _Halves)
    contenders = {"full": CONTENDERS["full"], "halves": Contender(method="halves", note="mine")}
    scale = replace(grid.SCALES["smoke"], families=("gpt2",), steps=12, budgets=())
    runs = grid.entries(scale, corpus=str(shared / "text.txt"), contenders=contenders)
    frame = run_all(runs, root=tmp_path, workers=0)
    assert set(frame["method"]) == {"full", "halves"}
    assert set(frame["family"]) == {"gpt2"}
    assert set(frame["budget"]) == {1.0}
    last = frame[frame["metric"] == "layer_flops"].groupby("method")["value"].max()
    assert last["halves"] < last["full"]
    assert {entry.spec.settings.lr for entry in runs} == {grid.BEST_RATE["gpt2"]["full"]}, "not swept: the baseline's"


def test_a_sweep_goes_on_beside_its_best(shared, tmp_path):
    """After one step the loss falls with the rate; the two best, and the usual ones of a control, run on more seeds."""
    scale = replace(grid.SCALES["smoke"], families=("gpt2",), steps=1, budgets=(), seeds=(100,), rates=RATES)
    chosen = {"full": CONTENDERS["full"]}
    runs = grid.entries(scale, corpus=str(shared / "text.txt"), contenders=chosen)
    request = Request(
        scale="rates", corpus=str(shared / "text.txt"), seeds=None, runs=tmp_path, workers=1, say=lambda line: None
    )
    once, _ = grid.measure_entries(runs, request, name="grid", sweep=False)
    assert set(once["lr"]) == set(RATES)
    frame, _ = grid.measure_entries(runs, request, name="grid", sweep=True)
    assert set(frame["lr"]) == {*RATES, 16e-3, 32e-3}, "the more, the lower the loss after one step"
    again = frame[frame["seed"] != 100]
    assert (set(again["lr"]), set(again["seed"])) == ({*RATES, 16e-3, 32e-3}, set(MORE_SEEDS))


def test_seeds_that_are_asked_for_are_never_those_of_a_sweep():
    assert grid.seeded(QUICK, 2).seeds == (0, 1)
    assert grid.seeded(grid.SCALES["rates"], 2).seeds == (100, 101)
    assert grid.seeded(QUICK, None).seeds == QUICK.seeds
