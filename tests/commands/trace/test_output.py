"""`est trace`: what it says to a person and to a program."""

import json
import math
from pathlib import Path

import pytest

from est_analysis.any_checkpoint import spectrum
from est_analysis.curvature.taylor import jet

KEYS = {"trace", "stderr", "pairs", "engine", "loss", "num_parameters", "seconds", "peak_rss_bytes"}


def test_for_a_person(trace, run):
    result = trace(run, "--rel-se 5 --max-pairs 200")
    assert result.code == 0
    assert result.out.startswith("Hessian trace  ")
    assert "95 % interval" in result.out
    assert "96 pairs over 48 batches" in result.out
    assert "memory: peak " in result.out
    assert "predicted peak" in result.err
    assert "warning" not in result.err


def test_for_a_program(record, run):
    found = record(run)
    assert found.keys() >= KEYS
    assert found["engine"] == "taylor"
    assert found["quantity"] == "Hessian trace"
    assert (found["pairs"], found["batches"], found["targets"]) == (8, 4, 128)
    assert found["peak_bytes"] == pytest.approx(found["peak_rss_bytes"], rel=0.1)  # on a CPU
    assert found["peak_rss_bytes"] > 0
    assert found["stderr"] > 0
    assert found["stderr"] == pytest.approx(math.hypot(found["stderr_data"], found["stderr_probes"]))
    assert found["interval"][0] < found["trace"] < found["interval"][1]
    assert 0 < found["loss"] < 6


def test_engines_agree(record, run):
    taylor, hvp = (record(run, f"--engine {engine}") for engine in ("taylor", "hvp"))
    # Float32 sums of 200,000 products in another order, against traces of order 100: 1e-4 is ample.
    assert taylor["trace"] == pytest.approx(hvp["trace"], rel=1e-3)
    assert taylor["loss"] == pytest.approx(hvp["loss"], rel=1e-5)
    assert "Fisher" in record(run, "--engine fisher")["quantity"]


def test_the_same_command_again_measures_nothing(record, run):
    first = record(run)
    again = record(run)
    same = first.keys() - {"peak_rss_bytes", "peak_bytes", "predicted_peak_bytes"}
    assert {name: first[name] for name in same} == {name: again[name] for name in same}
    more = record(run, "--max-pairs 12")
    assert more["file"] == first["file"]
    assert more["pairs"] == 12
    assert more["seconds"] > first["seconds"], "it began anew"


def test_a_budget_that_is_not_enough_is_a_warning(trace, run):
    result = trace(run, "--rel-se 0.001")
    assert result.code == 0
    assert "est: warning: relative standard error " in result.err
    assert "after 8 pairs, not 0.1 %; raise --max-pairs to go on" in result.err
    assert json.loads(trace(run, "--rel-se 0.001 --json").out)["reached"] is False


def test_too_few_measurements_are_never_enough(trace, run):
    """Whatever the spread of a few says: batches that were not looked at are in no spread."""
    asked = "--rel-se 0.9 --max-pairs 4 --probes 2 --micro-batch 1"
    for over in ("distribution", "batches"):
        result = trace(run, f"{asked} --over {over}")
        assert "pairs over 2 batches are too few to trust their error of" in result.err, result
        found = json.loads(trace(run, f"{asked} --over {over} --json").out)
        assert found["reached"] is False
        assert (found["stderr_data"] is None) == (over == "batches")


def test_a_text_of_few_batches_says_what_would_help(trace, run):
    result = trace(run, "--rel-se 0.9 --max-pairs 200 --probes 2 --micro-batch 20")
    assert "are too few to trust their error of" in result.err
    assert "the text has no more: give a longer one, a smaller --micro-batch, or --over batches" in result.err


def test_by_layer(trace, record, run):
    found = record(run, "--by-layer")
    assert found["engine"] == "hvp"
    assert sum(block["parameters"] for block in found["blocks"]) == found["num_parameters"]
    # The blocks of each measurement sum to its value, up to float64.
    assert sum(block["trace"] for block in found["blocks"]) == pytest.approx(found["trace"], rel=1e-9)
    assert sum(kind["trace"] for kind in found["kinds"]) == pytest.approx(found["trace"], rel=1e-9)
    shown = trace(run, "--by-layer").out
    assert "by layer" in shown
    assert "by kind of module" in shown


def test_spectrum(trace, record, run):
    found = record(run, "--spectrum")["spectrum"]
    assert len(found["top_eigenvalues"]) == 5
    assert len(found["density"]["grid"]) == len(found["density"]["density"])
    assert "largest eigenvalues of the Hessian" in trace(run, "--spectrum").out


def test_a_spectrum_that_cannot_be_is_refused_before_anything_is_measured(trace, run, monkeypatch):
    assert "--spectrum computes in the weights' precision" in trace(run, "--spectrum --dtype bfloat16").error
    monkeypatch.setattr(spectrum, "available_bytes", lambda device: 1000)
    assert "--spectrum holds 20 vectors of" in trace(run, "--spectrum").error


def test_exactly_one_batch_by_layer(record, run, tmp_path):
    """Its traces have no spread over batches to tell an error of, and the whole has that of its probes."""
    (tmp_path / "a.txt").write_text("alpha " * 12 + "\n")
    found = record(run, "--over batches --by-layer --micro-batch 2 --max-pairs 8", text=("--text", "a.txt"))
    assert found["batches"] == 1
    assert found["stderr"] > 0
    assert {row["stderr"] for row in (*found["blocks"], *found["kinds"])} == {None}


def test_several_texts_are_read_one_after_the_other(record, run, tmp_path):
    for name, word in (("a", "alpha "), ("b", "beta ")):
        (tmp_path / f"{name}.txt").write_text((word * 12 + "\n") * 20)
    line = "--over batches --max-pairs 400 --rel-se 9"
    both = record(run, line, text=("--text", "a.txt", "--text", "b.txt"))
    one = record(run, line, text=("--text", "a.txt"))
    size = {name: (tmp_path / f"{name}.txt").stat().st_size for name in "ab"}
    assert both["targets"] == 32 * ((size["a"] + 1 + size["b"] + 1 + 1) // 32)
    assert one["targets"] < both["targets"]
    assert one["text"] != both["text"]
    assert both["stderr_data"] == 0


def test_an_error_that_cannot_be_told_is_null(est, record, trace, run):
    """One probe of each of four batches out of more: of exactly these batches nothing shows the probes' error."""
    line = "--over batches --probes 1 --max-pairs 4 --out four.jsonl"
    found = record(run, line)
    assert (found["stderr"], found["interval"], found["reached"]) == (None, [None, None], False)
    result = trace(run, line)
    assert "no standard error" in result.out
    assert "relative standard error unknown after 4 pairs" in result.err
    kept = Path("four.jsonl").read_text().splitlines(keepends=True)[:2]
    Path("four.jsonl").write_text("".join(kept))
    merged = est("merge", "four.jsonl", "--json").out
    assert "NaN" not in merged
    assert json.loads(merged)["interval"] == [None, None]


@pytest.mark.parametrize("line", ["trace {0}", "trace {0} --revisions step*", "compare {0} {1}"])
def test_every_command_says_that_it_falls_back_to_hvp(line, est, run, shared, monkeypatch):
    for rule in [rule for rule in jet.RULES if "layer_norm" in str(rule)]:
        monkeypatch.delitem(jet.RULES, rule)
    monkeypatch.setattr(jet, "decomposition_table", {})
    steps = sorted((run / "checkpoints").iterdir())
    places = (run, run) if "revisions" in line else (steps[-1], steps[0])
    small = f"--corpus {shared / 'text.txt'} --seq-len 32 --micro-batch 1 --probes 2 --max-pairs 4 --threads 1"
    result = est(*line.format(*places).split(), *small.split())
    assert result.code == 0, result.err
    assert "engine hvp instead of taylor: no Taylor rule for the operator 'aten." in result.err
