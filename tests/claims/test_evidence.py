"""Claims on what is committed: which files, which scale is shown, which runs were read, and what chance does."""

import json
import math
import re
import shutil
from html import unescape
from itertools import combinations
from pathlib import Path
from runpy import run_path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from est_analysis.claims import CLAIMS, decide, judge, t_interval
from est_analysis.claims.evidence import SCALES, SOURCES, Source, judge_all, read_evidence
from est_analysis.claims.statistics import holm, p_value, runs_of, runs_read
from est_analysis.errors import InputError
from est_analysis.experiments.studies import find_study

TESTS = Path(__file__).parents[1]
DATA = TESTS.parent / "paper_figures" / "data"
grid_frame = run_path(str(TESTS / "synthetic_grid.py"))["grid_frame"]


@pytest.fixture
def folder(tmp_path, make_frame):
    """Rows of `reproduce` at two scales: the larger one with EST worse by a nat."""
    make_frame().to_csv(tmp_path / "reproduce_quick.csv", index=False)
    worse = make_frame()
    worse.loc[(worse["method"] == "est") & (worse["metric"] == "validation_loss"), "value"] += 1
    worse.to_csv(tmp_path / "reproduce_report.csv", index=False)
    return tmp_path


def of(judged, name):
    return next(one for one in judged if one.claim.id == name)


# What chance does -----------------------------------------------------------------------------------------------------


def closed_testing(p_values):
    """By definition: p of i is the largest Bonferroni p of any set of hypotheses that holds i."""
    places = range(len(p_values))
    sets = [part for size in range(1, len(p_values) + 1) for part in combinations(places, size)]
    return [min(1.0, max(len(part) * min(p_values[j] for j in part) for part in sets if i in part)) for i in places]


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_closed_testing_with_bonferroni(seed):
    draw = np.random.default_rng(seed)
    p_values = (draw.uniform(size=draw.integers(1, 8)) ** 3).round(2).tolist()  # rounded: there are ties
    assert holm(p_values) == pytest.approx(closed_testing(p_values))


def test_neither_no_correction_nor_bonferronis_is_closed_testing():
    """Planted: the test above can tell."""
    p_values = [0.01, 0.02, 0.03]
    assert closed_testing(p_values) == pytest.approx([0.03, 0.04, 0.04]) == holm(p_values)
    assert closed_testing(p_values) != pytest.approx(p_values)
    assert closed_testing(p_values) != pytest.approx([3 * p for p in p_values])


def test_holm_of_nothing():
    assert holm([]) == []


@pytest.mark.parametrize(("ratio", "bound"), [(False, -0.3), (False, 2.5), (True, 1.0)])
def test_p_is_that_of_students_test_on_the_seeds(ratio, bound):
    sample = np.random.default_rng(0).normal(0.4, 1.0, size=5)
    interval, effect = t_interval(sample), sample.mean()
    expected = stats.ttest_1samp(sample, math.log(bound) if ratio else bound).pvalue
    if ratio:
        interval, effect = (math.exp(interval[0]), math.exp(interval[1])), math.exp(effect)
    assert p_value(effect, interval, (bound, math.inf), 5, ratio=ratio) == pytest.approx(expected)


def test_p_is_below_5_percent_where_a_claim_is_called():
    draw = np.random.default_rng(1)
    called = []
    for _ in range(300):
        sample, region = draw.normal(size=4), tuple(sorted(draw.normal(scale=2.0, size=2)))
        interval = t_interval(sample)
        called.append(decide(interval, region) != "inconclusive")
        assert called[-1] == (p_value(sample.mean(), interval, region, 4) < 0.05)
    assert 30 < sum(called) < 270


@pytest.mark.parametrize(
    ("interval", "region", "seeds"),
    [((0.1, 0.3), (0.0, math.inf), 1), ((0.2, 0.2), (0.0, math.inf), 3), ((0.1, 0.3), (-math.inf, math.inf), 3)],
)
def test_there_is_no_p_without_seeds_width_or_bound(interval, region, seeds):
    assert p_value(0.2, interval, region, seeds) is None


# Which runs were read -------------------------------------------------------------------------------------------------


def test_runs_are_those_read_while_it_is_open(frame):
    with runs_read() as outer:
        runs_of(frame, "full", "validation_loss")
        with runs_read() as inner:
            runs_of(frame, "est", "stage")
    runs_of(frame, "raptr", "stage")
    assert (outer, inner) == ({f"full-{seed:04d}" for seed in range(3)}, {f"est-{seed:04d}" for seed in range(3)})


@pytest.mark.parametrize("recipe", ["reproduce", "grid"])
def test_the_runs_named_are_enough_and_each_is_needed(recipe, make_frame, tmp_path):
    """The same verdict follows from the runs named alone, and another one where some of them are missing."""
    frame = {"reproduce": make_frame, "grid": grid_frame}[recipe]()
    frame.to_csv(tmp_path / f"{recipe}_quick.csv", index=False)
    judged = judge_all(tmp_path, [claim for claim in CLAIMS.values() if claim.recipe == recipe])
    tested = [one for one in judged if one.shown.tested]
    assert len(tested) > 8
    for one in tested:
        used = frame["run_id"].isin(one.shown.run_ids)
        assert judge([one.claim], frame[used], "quick")[0] == judge([one.claim], frame, "quick")[0]
        for method in frame.loc[used, "method"].unique():
            less = frame[~used | (frame["method"] != method)]
            assert judge([one.claim], less, "quick")[0].verdict == "untested", (one.claim.id, method)


# Which file, which scale ----------------------------------------------------------------------------------------------


def test_the_largest_scale_comes_first_and_all_are_there(folder):
    one = of(judge_all(folder), "est.loss")
    assert [(found.verdict.scale, found.verdict.verdict) for found in one.outcomes] == [
        ("report", "refuted"),
        ("quick", "supported"),
    ]
    assert one.command == "est run reproduce --scale report"


def test_a_scale_that_did_not_test_the_claim_does_not_come_first(folder):
    one = of(judge_all(folder), "est.flatness")  # a nat apart, the report's traces are not compared
    assert [(found.verdict.scale, found.verdict.verdict) for found in one.outcomes] == [
        ("quick", "supported"),
        ("report", "untested"),
    ]


def test_the_correction_is_over_a_recipe_at_a_scale(folder):
    for path in folder.iterdir():
        frame = pd.read_csv(path)  # seeds differ, so that there is something for chance to do
        frame["value"] *= frame["run_id"].map(
            {name: 1 + 0.01 * i**2 for i, name in enumerate(frame["run_id"].unique())}
        )
        frame.to_csv(path, index=False)
    found = [one.outcomes for one in judge_all(folder) if one.claim.recipe == "reproduce"]
    for scale in ("quick", "report"):
        tested = [o for outcomes in found for o in outcomes if o.verdict.scale == scale and o.p is not None]
        assert len(tested) > 8
        assert [o.adjusted_p for o in tested] == pytest.approx(holm([o.p for o in tested]))
        assert {o.compared for o in tested} == {len(tested)}


def test_what_is_not_there_is_untested_with_the_command_that_measures_it(folder):
    one = of(judge_all(folder), "grid.est-full.gpt2")
    assert (one.shown.verdict.verdict, one.shown.run_ids, one.shown.survives) == ("untested", (), None)
    assert "no grid_quick.csv or grid_report.csv in" in one.shown.verdict.detail
    assert one.shown.verdict.detail.endswith("est run grid --scale quick measures it")
    assert one.command == "est run grid --scale quick"
    assert of(judge_all(folder), "raptr.stability-norm").command == "est run stability-vs-depth --scale quick"
    assert of(judge_all(folder), "est.printed-savings.msg").shown.verdict.verdict == "untested"


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no folder '.*none'; give --data"):
        judge_all(tmp_path / "none")


def _repeat(text):
    return text + text.splitlines(keepends=True)[-1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "", "No columns"),
        (lambda text: text.replace("seed", "sed", 1), "no column seed"),
        (_repeat, "two values of"),
        (lambda text: text + "run,est,s,0,5,loss,none\n", "Unable to parse string"),
        (lambda text: text + "run,est,s,0,5,loss\n", "cut short"),
        (lambda text: "".join(text.splitlines(keepends=True)[:-2]), "rows are lost: seed "),
        (lambda text: "".join(text.splitlines(keepends=True)[:-60]), "rows are lost: seed "),
        (lambda text: text + "run,est,s,0,5,loss,1,2,3\n", "Expected 7 fields"),
        (lambda text: b"\xff\xfe\x00" + text.encode(), "utf-8"),
    ],
)
def test_a_damaged_file_is_one_line_with_the_fix(folder, damage, words):
    path = folder / "reproduce_quick.csv"
    damaged = damage(path.read_text())
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.raises(InputError, match="cannot be used") as found:
        judge_all(folder)
    message = str(found.value)
    assert message.startswith(f"'{path}'")
    assert words in message
    assert message.endswith("restore it with git, or 'est run reproduce --scale quick' and copy its rows.csv there")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "paper,table,page,row,column,value\nEST,2,,EST\n"])
def test_a_damaged_book_too(tmp_path, text):
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"cannot be used: .*; restore it with git$"):
        judge_all(tmp_path)


def test_every_source_is_of_a_recipe_and_scale_and_every_claim_of_a_source():
    for source in SOURCES:
        assert source.scale in SCALES
        if source.recipe != "audit":
            assert source.scale in find_study(source.recipe).scales
    assert {claim.recipe for claim in CLAIMS.values()} == {source.recipe for source in SOURCES} | {"paper-scale"}


# What is committed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed():
    return judge_all(DATA)


def test_every_committed_file_is_read_and_its_claims_tested(committed):
    there = {source.recipe for source in SOURCES if (DATA / source.file).is_file()}
    assert there >= {"audit", "reproduce", "poly-raptr-vs-pld", "transition-smoothness", "stability-vs-depth"}
    for recipe in there:
        mine = [one for one in committed if one.claim.recipe == recipe]
        assert sum(one.shown.tested for one in mine) >= 0.8 * len(mine), recipe
        if recipe != "audit":
            assert all(one.shown.run_ids for one in mine if one.shown.tested)


def test_fewer_than_a_quarter_are_untested(committed):
    if not (DATA / "grid_quick.csv").is_file():
        pytest.skip("the grid has not been measured: paper_figures/data/grid_quick.csv is not there")
    assert 4 * sum(not one.shown.tested for one in committed) < len(committed)


def test_every_figure_named_is_there(committed):
    named = {one.figure for one in committed if one.shown.run_ids and one.claim.recipe != "grid"} - {None}
    reproduced = {"est_figure3", "est_sampling_penalty", "raptr_losses"}
    first = {"first_gaps", "first_linear", "first_stacks"}
    ablations = {"est_components", "est_schedules", "est_schedules_longer", "raptr_ablations"}
    ablations |= {"raptr_ablations_longer"}
    flatness = {f"est_flatness{which}" for which in ("_longer", "_lengths", "_ratios")}
    flatness |= {"est_downstream", "est_downstream_trace"}
    polynomials = {"raptr_polynomials", "raptr_transitions", "raptr_stability"}
    assert named == reproduced | first | ablations | flatness | polynomials
    assert named <= {path.stem for path in DATA.parent.glob("*.svg")}


def shown_in(notebook):
    """The outputs of a committed notebook, as text."""
    cells = json.loads((TESTS.parent / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    outputs = [out.get("data", {}) | {"text": out.get("text", "")} for cell in cells for out in cell.get("outputs", ())]
    return unescape(
        "".join("".join(out.get(kind, "")) for out in outputs for kind in ("text", "text/plain", "text/html"))
    )


def test_the_notebook_that_a_claim_names_shows_it(committed):
    """By its id, or its statement without the family; theory is derived there in words of its own."""
    named = [one for one in committed if one.notebook and not one.claim.id.startswith("raptr.theory")]
    shown = {notebook: shown_in(notebook) for notebook in {one.notebook for one in named}}
    for one in named:
        words = (one.claim.id, one.claim.statement.split(", on a small")[0])
        assert any(each in shown[one.notebook] for each in words), (one.notebook, one.claim.id)


def test_a_claim_judged_on_longer_runs_names_their_figure(committed):
    figures = {(one.claim.id, one.shown.verdict.scale): one.figure for one in committed if one.claim.recipe == "grid"}
    assert figures["grid.est-full.gpt2", "report"] == "grid_lengths"
    assert figures["grid.raptr-pld.t5", "quick"] == "grid_gaps"
    assert figures["grid.frontier-est", "report"] is None, "the figure of several budgets is of the shorter runs"
    assert {f"{name}.svg" for name in figures.values() if name} <= {path.name for path in DATA.parent.glob("*.svg")}


@pytest.mark.parametrize("recipe", ["grid", "est-ablations", "raptr-ablations"])
def test_the_figure_of_a_claim_draws_what_the_claim_compares(committed, recipe):
    figures = {one.claim.id: one.figure for one in committed if one.claim.recipe == recipe}
    compared = {
        one.claim.id: {value for key, value in one.claim.check.keywords.items() if key in ("ours", "theirs", "method")}
        for one in committed
        if one.claim.id in figures and hasattr(one.claim.check, "keywords")
    }
    assert sum(figures[name] is not None for name in compared) >= 8
    for name, methods in compared.items():
        if figures[name]:
            svg = (DATA.parent / f"{figures[name]}.svg").read_text()
            drawn = set(re.findall(r'id="(?:mean|name):([^"]+)"', svg)) | {"full"}  # from which distances are
            assert methods <= drawn, (name, figures[name])


def test_what_no_figure_shows_names_none(committed):
    figures = {one.claim.id: one.figure for one in committed if one.claim.recipe == "est-ablations"}
    assert {name for name, figure in figures.items() if figure is None} == {
        "est.ablation.layers",  # of the longer runs all figures are of schedules
        "est.ablation.layers-dearest",
        "est.law.normalise-before",  # all figures are of the end of training
    }


def test_reading_does_not_depend_on_the_order_of_rows(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("shuffled")
    for path in folder.iterdir():
        shutil.copy(path, other)
    path = other / "reproduce_quick.csv"
    frame = read_evidence(Source(recipe="reproduce", scale="quick", file=path.name), path)
    frame.sample(frac=1.0, random_state=0).to_csv(path, index=False)
    ours, theirs = (of(judge_all(place), "est.loss").outcomes[1] for place in (folder, other))
    assert ours.verdict.effect == pytest.approx(theirs.verdict.effect)
    assert ours.run_ids == theirs.run_ids
