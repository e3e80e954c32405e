"""Claims on costs that follow from schedules and printed times, against sums by hand."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from est_analysis.claims.book import Book, read_book
from est_analysis.claims.checks import whole_run_speed_up
from est_analysis.claims.claim import NotMeasured, judge_one
from est_analysis.claims.costs import CLAIMS, growth_with_micro_batch, half_the_heads, total_saving

BOOK = read_book(Path(__file__).parents[2] / "paper_figures" / "data" / "published.csv")


def verdict(name, book=BOOK):
    return judge_one(CLAIMS[name], book, "exact")


def test_all_flops_of_gpt2_by_hand():
    # Forward FLOPs a token in millions, 12 layers and the head: 12 (8 + 16) 768^2 without scores, 2 * 768 * 50257.
    layers, head = 12 * 24 * 768**2 / 1e6, 2 * 768 * 50257 / 1e6
    scores = 12 * 4 * 1024 * 768 / 1e6
    low, high = (100 * (4 / 15) * part / (part + head) for part in (layers, layers + scores))
    found = total_saving(BOOK, schedule="gpt2-est", model="gpt2")
    assert found.interval == pytest.approx((low, high))
    assert verdict("est.costs.total-gpt2").verdict == "refuted"


def test_half_of_the_heads_by_hand():
    assert half_the_heads(BOOK, model="gpt2").interval == (0.5, 0.5)
    # Without scores: queries and outputs 2 * 2 d^2 each, keys and values an eighth of that each.
    query, shared = 4 * 2048**2, 4 * 2048 * 256
    low, high = half_the_heads(BOOK, model="tinyllama").interval
    assert low == pytest.approx(0.5)
    assert high == pytest.approx((query / 2 * 2 / 2 + shared) / (query + shared))


def test_a_time_that_breaks_the_growth_is_seen():
    growth = partial(growth_with_micro_batch, table="8", module="Transformer layer")
    assert growth(BOOK).interval[0] > 0
    row = "GPU time (ms) of EST Transformer layer"
    slow = {("8", row, "micro-batch size 32"): "8.34"}
    entries = (replace(e, value=slow.get((e.table, e.row, e.column), e.value)) for e in BOOK.entries)
    assert growth(Book(entries=tuple(entries))).interval[1] < 0


def test_the_slowest_step_is_tinyllamas_at_micro_batch_1():
    """By hand, of Table 9: stages of 10, 15 and 35 of 60 steps."""
    times = [
        BOOK.find("9", f"total time (ms) of {stage} training step", "micro-batch size 1").value
        for stage in ("stage 1", "stage 2", "stage 3 (original)")
    ]
    found = verdict("est.costs.every-micro-batch")
    assert found.effect == pytest.approx(60 * times[2] / (10 * times[0] + 15 * times[1] + 35 * times[2]), rel=1e-4)
    assert found.verdict == "refuted"
    assert "TinyLlama 1 0.909" in found.detail


def test_what_is_not_printed_is_untested():
    book = Book(entries=tuple(entry for entry in BOOK.entries if entry.table != "8" and entry.column != "speed-up"))
    for name in ("est.costs.micro-batch-gpt2", "est.costs.speed-up-possible-gpt2"):
        assert verdict(name, book).verdict == "untested"


def test_runs_are_not_their_evidence(make_frame):
    for claim in CLAIMS.values():
        if claim.recipe == "audit":
            with pytest.raises(NotMeasured, match="not from runs"):
                claim.check(make_frame())


def test_the_speed_up_of_raptr_is_the_ratio_of_times(make_frame):
    # Stages of equal length at 0.6, 0.75, 0.9 and all of the full model's step time.
    found = whole_run_speed_up(make_frame(), "raptr")
    assert (found.effect, found.seeds, found.unit) == (pytest.approx(4 / 3.25), 3, "x")
