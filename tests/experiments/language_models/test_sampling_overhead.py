"""What is timed computes the same; rows, cache and names of the runs."""

from dataclasses import replace

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.experiments.language_models import sampling_overhead as module
from est_analysis.experiments.language_models.sampling_overhead import SCALES, STUDY, extract, run_overhead
from est_analysis.experiments.runs.store import collect
from est_analysis.experiments.study import Request

SPEC = replace(SCALES["smoke"].spec, rounds=2)
METRICS = {f"seconds_{name}" for name in ("ready", "inline", "ahead", "sampled", "extracted")}


def test_the_extracted_model_has_the_sampled_ones_loss_and_gradients():
    contest = module._Contest(SPEC)
    mask = contest.method.mask(contest.first)
    assert all(len(layer.heads) == 2 and len(layer.columns) == 96 for layer in mask.layers), "a half of each"
    small, kept = extract(contest.model.double(), mask)
    losses = [model.loss(*contest.batch, mask=how) for model, how in ((contest.model, mask), (small, kept))]
    # sums over fewer rows are taken in another order
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    for loss in losses:
        loss.backward()
    for block, less, layer in zip(contest.model.blocks, small.blocks, mask.layers, strict=True):
        for name, rows in (("attention.qkv_weight", layer.heads), ("mlp.down_weight", layer.columns)):
            whole, part = (one.get_parameter(name) for one in (block, less))
            assert len(part) == len(rows) < len(whole)
            torch.testing.assert_close(whole.grad[rows], part.grad, rtol=1e-9, atol=1e-14)
            assert whole.grad.count_nonzero() == part.grad.count_nonzero()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in contest.model.parameters())


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_every_contestant_has_every_round_once_and_is_not_timed_again(tmp_path, rounds):
    spec, threads = replace(SPEC, rounds=rounds), torch.get_num_threads()
    rows = collect([run_overhead(spec, tmp_path)])
    assert torch.get_num_threads() == threads
    assert set(rows["metric"]) == METRICS
    assert (rows.groupby("metric")["step"].agg(list).map(sorted) == [list(range(rounds))] * 5).all()
    assert (rows["value"] > 0).all()
    assert collect([run_overhead(spec, tmp_path)]).equals(rows)


def test_each_contestant_takes_its_masks_from_where_it_says(monkeypatch):
    """Of a step: drawn in it, handed over by the generator, or neither."""
    contest = module._Contest(SPEC)
    drawn, handed, used = [], [], []
    mask = contest.method.mask(contest.first)
    monkeypatch.setattr(contest, "draw", lambda step: drawn.append(step) or mask)
    monkeypatch.setattr(contest, "both_ways", lambda model, how: used.append(model))
    found = {}
    for metric, contestant in contest.contestants(lambda: handed.append(1) or mask).items():
        contestant(4)
        found[metric] = (list(drawn), len(handed))
        drawn.clear(), handed.clear()
    nothing = ([], 0)
    assert found == dict.fromkeys(METRICS, nothing) | {
        "seconds_inline": ([contest.first + 4], 0),
        "seconds_ahead": ([], 1),
    }
    assert [model is contest.extracted for model in used] == [False] * 4 + [True]


def test_runs_are_named_by_all_that_decides_them():
    others = [replace(SPEC, **change) for change in ({"threads": 2}, {"rounds": 3}, {"seed": 1}, {"preset": "mini"})]
    assert len({spec.run_id for spec in (SPEC, *others)}) == 5
    assert SPEC.run_id.startswith("est-")


def test_several_processes_would_time_one_another(tmp_path):
    request = Request(scale="smoke", corpus="python", seeds=1, runs=tmp_path, workers=2, say=lambda line: None)
    with pytest.raises(InputError, match="recipe sampling-overhead runs in one process; leave '--workers 2' away"):
        STUDY.run(request)
    frame, facts = STUDY.run(replace(request, workers=0))
    assert (frame["run_id"].nunique(), facts["seeds"]) == (1, [0])
