"""Figures of ablations whose every effect is known, and that committing loses nothing."""

from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.path import Path as Path2D
from matplotlib.text import Text

from est_analysis import plots
from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.est_ablations import TABLE_3
from est_analysis.committed.thin import thin
from est_analysis.exhibits.data import DataFolder
from est_analysis.exhibits.registry import EXHIBITS

TESTS = Path(__file__).parents[1]
GAPS, SAVED, ablation_frame, raptr_frame = map(
    run_path(str(TESTS / "synthetic_ablations.py")).get, ("GAPS", "SAVED", "ablation_frame", "raptr_ablation_frame")
)
SCRIPT = TESTS.parent / "paper_figures" / "est_ablations.py"
DATA = TESTS.parent / "paper_figures" / "data"


def marks(figure, kind):
    """Horizontal places of all marks of one kind, by method."""
    found = {}
    for ax in figure.axes:
        for line in ax.lines:
            if (line.get_gid() or "").startswith(f"{kind}:"):
                found.setdefault(line.get_gid().split(":")[1], []).append(line.get_xdata()[0])
    return found


def test_every_run_is_paired_with_the_full_models_of_its_seed():
    points = plots.summarise_ablations(ablation_frame())
    assert len(points) == 3 * len(GAPS)
    assert points.groupby("method")["gap"].mean().to_dict() == pytest.approx(GAPS)
    assert points.groupby("method")["saved"].mean().to_dict() == pytest.approx(SAVED, abs=1e-9)


def test_a_run_without_its_baseline_is_left_out():
    frame = ablation_frame()
    points = plots.summarise_ablations(frame[~((frame["method"] == "full") & (frame["seed"] == 1))])
    assert set(points["seed"]) == {0, 2}


def test_components_and_their_sums():
    frame = ablation_frame()
    figure = plots.ablation_components(frame)
    means = marks(figure, "mean")
    assert means["est/only-mlp"] == pytest.approx([0.002, 10 * 0.002 / SAVED["est/only-mlp"]])
    sums = plots.sums_of_single(plots.summarise_ablations(frame))
    assert sums == pytest.approx(
        {"est/two-stage-b": 0.002, "est/heads-layers": 0.005, "est/mlp-layers": 0.007, "est": 0.007}
    )
    assert {name: places[0] for name, places in marks(figure, "sum").items()} == pytest.approx(sums)
    (entry,) = figure.axes[0].get_legend().get_texts()
    assert entry.get_text() == "sum of the costs\nof one at a time"


def test_a_sum_needs_all_of_its_parts():
    frame = ablation_frame()
    points = plots.summarise_ablations(frame[frame["method"] != "est/only-layers"])
    assert plots.sums_of_single(points).keys() == {"est/two-stage-b"}
    alone = frame[frame["method"].isin(["full", "est/only-heads"])]
    assert plots.ablation_components(alone).axes[0].get_legend() is None, "nothing is summed"


def test_schedules_stand_at_their_savings():
    left, right = plots.ablation_schedules(ablation_frame()).axes
    places = {text.get_gid(): text.xy for text in left.texts if (text.get_gid() or "").startswith("name:")}
    assert places["name:est/one-stage"] == pytest.approx((50.0, 0.3))
    assert len(places) == 9
    (line,) = (line for line in left.lines if line.get_gid() == "shorter")
    assert line.get_xdata() == pytest.approx([0.0, 26.7, 50.0])
    drawn = {line.get_gid().removeprefix("mean:") for line in right.lines if (line.get_gid() or "").startswith("mean:")}
    assert drawn >= {"short", "est", "est/bernoulli", "est/unscaled", "est/linear"}


def test_the_title_says_what_is_saved_by_those_that_are_shown():
    frame = ablation_frame()
    assert plots.ablation_schedules(frame).axes[1].get_title() == "at EST's saving, 25 to 26.7 %"
    frame = frame[frame["method"] != "est/constant"]
    assert plots.ablation_schedules(frame).axes[1].get_title() == "at EST's saving, 26.7 %"
    frame = frame[frame["method"].isin(["full", "est/mild"])]
    assert plots.ablation_schedules(frame).axes[1].get_title() == "at EST's saving"


@pytest.mark.parametrize("scale", ["quick", "report"])
def test_no_name_lies_on_an_interval_or_on_another_name(scale):
    """Of the committed runs: names were placed in sight of these."""
    figure = plots.ablation_schedules(pd.read_csv(DATA / f"est_ablations_{scale}.csv", keep_default_na=False))
    ax = figure.axes[0]
    FigureCanvasAgg(figure).draw()
    names = {text.get_gid(): text for text in ax.texts}
    boxes = {name: Text.get_window_extent(text) for name, text in names.items()}  # without the line that leads there
    bars = [bar for bar in ax.collections if isinstance(bar, LineCollection)]
    ends = [ax.transData.transform(line) for bar in bars for line in bar.get_segments()]
    (shorter,) = [ax.transData.transform(line.get_xydata()) for line in ax.lines if line.get_gid() == "shorter"]
    for name, text in names.items():
        box = boxes[name]
        for line in (*ends, shorter):
            assert not Path2D(line).intersects_bbox(box, filled=False), name
        assert text.get_zorder() < min(bar.get_zorder() for bar in bars)
        assert not any(box.overlaps(other) for other in boxes.values() if other is not box), name


def test_every_contender_is_drawn_somewhere():
    frame = ablation_frame()
    texts = [text.get_gid() for text in plots.ablation_schedules(frame).axes[0].texts]
    drawn = {gid.removeprefix("name:") for gid in texts}
    for figure in (plots.ablation_schedules(frame), plots.ablation_components(frame)):
        drawn |= marks(figure, "mean").keys()
    assert drawn | {"full", "short/half"} == GAPS.keys()


def test_table_3_has_both_on_one_scale():
    figure = plots.table_3([ablation_frame()], TABLE_3)
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert marks(figure, "published")["est/one-stage"] == pytest.approx([0.3])
    assert marks(figure, "published")["est"] == pytest.approx([-0.01])
    assert marks(figure, "mean")["est/one-stage"] == pytest.approx([0.3])


@pytest.mark.parametrize(
    "draw", [plots.ablation_components, plots.ablation_schedules, lambda frame: plots.table_3([frame], {"full": 3.0})]
)
def test_other_frames_are_refused(draw):
    frame = ablation_frame()
    with pytest.raises(ValueError, match="to draw"):
        draw(frame[frame["method"] == "full"])
    with pytest.raises(ValueError, match="no run of 'full'"):
        draw(frame[frame["method"] != "full"])


def test_the_script_draws_three_figures(tmp_path):
    ablation_frame().to_csv(tmp_path / "est_ablations_quick.csv", index=False)
    assert run_path(str(SCRIPT))["main"](arguments=["--data", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.glob("*.png")} == {"est_components", "est_schedules", "est_ablations_table3"}


def test_longer_training_has_a_panel_a_figure_and_a_table_of_its_own(tmp_path):
    frame = ablation_frame()
    frame.to_csv(tmp_path / "est_ablations_quick.csv", index=False)
    longer = frame[frame["method"].isin({*TABLE_3, "short"})].assign(step=lambda rows: 4 * rows["step"])
    longer.to_csv(tmp_path / "est_ablations_report.csv", index=False)
    drawn = EXHIBITS["est-ablations"].draw(DataFolder(tmp_path))
    assert drawn.keys() > {"est_schedules_longer", "est_ablations_losses_longer"}
    _, short, long = drawn["est_ablations_table3"].axes
    assert [ax.get_title().split(", ")[0] for ax in (short, long)] == [
        f"here: {rows['step'].max():,} steps" for rows in (frame, longer)
    ]
    assert "est/only-heads" in marks(drawn["est_components"], "mean"), "the shorter training has all"


def test_nothing_that_counts_is_lost_in_committing():
    frame = ablation_frame()
    thinned = thin(frame)
    assert set(thinned["metric"]) == {"validation_loss", "stage", "layer_flops", "total_flops"}
    assert len(thinned) < len(frame)
    claims = [claim for claim in CLAIMS.values() if claim.recipe == "est-ablations"]
    for whole, part in zip(judge(claims, frame, "quick"), judge(claims, thinned, "quick"), strict=True):
        assert part.verdict == whole.verdict
        assert part.effect == pytest.approx(whole.effect, abs=1e-4)
    assert len(plots.summarise_ablations(thinned)) == len(plots.summarise_ablations(frame))


def test_raptrs_contenders_are_drawn_where_their_means_are():
    figure = plots.raptr_ablations(raptr_frame())
    drawn = {line.get_gid(): line for ax in figure.axes for line in ax.lines}
    assert drawn["mean:gradual_stacking/exponential"].get_xdata()[0] == pytest.approx(0.2)
    assert drawn["mean:raptr/width"].get_xdata()[0] == pytest.approx(0.0)
    assert [ax.get_title() for ax in figure.axes] == ["schedules", "scaling, axis, law"]
    with pytest.raises(ValueError, match="no ablation of RaPTr"):
        plots.raptr_ablations(ablation_frame())


def test_raptrs_longer_training_has_a_figure_and_a_table_of_its_own(tmp_path):
    frame = raptr_frame()
    frame.to_csv(tmp_path / "raptr_ablations_quick.csv", index=False)
    names = {"raptr_ablations", "raptr_ablations_losses"}
    assert EXHIBITS["raptr-ablations"].draw(DataFolder(tmp_path)).keys() == names
    longer = frame[~frame["method"].isin({"raptr/width", "stochastic_depth"})].assign(
        step=lambda rows: 4 * rows["step"]
    )
    longer.to_csv(tmp_path / "raptr_ablations_report.csv", index=False)
    drawn = EXHIBITS["raptr-ablations"].draw(DataFolder(tmp_path))
    assert drawn.keys() == names | {f"{name}_longer" for name in names}
    assert "raptr/width" in marks(drawn["raptr_ablations"], "mean"), "the shorter training has all"
    assert marks(drawn["raptr_ablations_longer"], "mean").keys() == {*longer["method"]} - {"full"}
    assert drawn["raptr_ablations_longer"].axes[1].get_title() == "scaling", "no axis and no law at that length"
    steps = {name: f"{rows['step'].max():,} steps" for name, rows in (("", frame), ("_longer", longer))}
    assert all(words in drawn[f"raptr_ablations_losses{ending}"].markdown() for ending, words in steps.items())


def test_nothing_of_raptrs_that_counts_is_lost_in_committing():
    thinned = thin(raptr_frame())
    claims = [claim for claim in CLAIMS.values() if claim.recipe == "raptr-ablations"]
    whole, part = (judge(claims, frame, "quick") for frame in (raptr_frame(), thinned))
    assert [one.verdict for one in part] == [one.verdict for one in whole]
    assert set(thinned["metric"]) == {"validation_loss", "stage", "layer_flops", "total_flops"}
