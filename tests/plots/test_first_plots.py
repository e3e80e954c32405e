"""Figures of first experiments whose every effect is known."""

from pathlib import Path
from runpy import run_path

import pytest

from est_analysis import plots

TESTS = Path(__file__).parents[1]
tidy_frame = run_path(str(TESTS / "synthetic.py"))["tidy_frame"]
GAPS, CHANGES, first_frame = map(run_path(str(TESTS / "synthetic_first.py")).get, ("GAPS", "CHANGES", "first_frame"))


@pytest.fixture(scope="module")
def frame():
    return first_frame()


def marks(ax, start="mean:"):
    return {line.get_gid(): line for line in ax.lines if (line.get_gid() or "").startswith(start)}


def test_gaps_are_differences_of_the_same_task_net_and_seed(frame):
    gaps = plots.summarise_first_gaps(frame)
    assert len(gaps) == 2 * 3 * sum(len(net) - 1 for net in GAPS.values())
    for (net, method), mean in gaps.groupby(["net", "method"])["value"].mean().items():
        assert mean == pytest.approx(GAPS[net][method])


def test_the_gap_figure_has_a_panel_a_net_and_task(frame):
    figure = plots.first_gaps(frame)
    assert len(figure.axes) == 4
    assert marks(figure.axes[0])["mean:est"].get_xdata()[0] == pytest.approx(GAPS["mlp"]["est"])
    assert {gid.removeprefix("mean:") for gid in marks(figure.axes[3])} == GAPS["stack"].keys() - {"full"}


def test_the_figure_of_stacks_holds_changes_above_and_costs_below(frame):
    figure = plots.first_stacks(frame)
    above, below = marks(figure.axes[0]), marks(figure.axes[2])
    assert above["mean:stack/no-residual:raptr"].get_ydata()[0] == pytest.approx(CHANGES["stack/no-residual", "raptr"])
    assert below["mean:stack/no-norm:est"].get_ydata()[0] == pytest.approx(GAPS["stack/no-norm"]["est"])


def test_linear_nets_of_twins_are_balanced(frame):
    table = plots.summarise_linear(frame).groupby("method")["balance"].mean()
    assert table["est"] == pytest.approx(1.0)
    assert table["full"] == pytest.approx(4 * 2 * (1 + 0.04**2) / (2 * 1.04) ** 2)
    figure = plots.first_linear(frame)
    assert marks(figure.axes[0])["mean:balance"].get_ydata()[1] == pytest.approx(1.0)


@pytest.mark.parametrize("draw", [plots.first_gaps, plots.first_stacks, plots.first_linear])
def test_a_frame_of_other_runs_is_refused(draw):
    with pytest.raises(ValueError, match="no columns task and net"):
        draw(tidy_frame())


def test_thinning_loses_nothing_that_is_judged(frame):
    from est_analysis.claims import judge
    from est_analysis.claims.first_experiments import CLAIMS
    from est_analysis.committed.thin import thin

    small = thin(frame)
    assert len(small) < 0.6 * len(frame)
    for whole, thinned in zip(judge(CLAIMS.values(), frame, ""), judge(CLAIMS.values(), small, ""), strict=True):
        assert thinned.verdict == whole.verdict, whole.claim
        assert thinned.effect == pytest.approx(whole.effect, abs=1e-5), whole.claim
