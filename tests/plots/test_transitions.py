import numpy as np
import pandas as pd
import pytest

from est_analysis import plots
from est_analysis.claims import NotMeasured
from est_analysis.claims.transition_losses import means, subnet_changes
from est_analysis.plots.style import in_order


@pytest.fixture(scope="module")
def labels(planted):
    return tuple(planted.CHANGES)


@pytest.fixture(scope="module")
def transitions(make_polynomials, labels):
    return make_polynomials(methods=labels, tail=False)


@pytest.fixture(scope="module")
def figure(transitions):
    return plots.transition_changes(transitions)


def lines(figure, gid):
    return [line for ax in figure.axes for line in ax.lines if line.get_gid() == gid]


def test_summary_finds_the_planted_changes(transitions, planted):
    table = plots.summarise_transitions(transitions)
    for label, (changes, relative) in planted.CHANGES.items():
        for seed in range(3):
            rows = table[(table["method"] == label) & (table["seed"] == seed)]
            assert rows["change"].tolist() == pytest.approx([change + 0.01 * seed for change in changes])
            assert rows["number"].tolist() == [0, 1, 2]
            assert rows["step"].tolist() == list(planted.TRANSITIONS)
            assert (rows["relative_loss"] == relative).all()
            assert (rows["learned"] == (relative < 0.9)).all()
    named = table.set_index("method").loc["raptr/no-norm"].iloc[0]
    assert (named["base"], named["variant"]) == ("raptr", "no-norm")


def test_means_and_what_was_learned_agree_with_the_claims(transitions, labels):
    table = plots.summarise_transition_changes(transitions).set_index("method")
    for label in labels:
        try:
            runs = means(subnet_changes(transitions, label, whole="relative_loss", nothing=1.0))
        except NotMeasured:
            assert not table.loc[label, "learned"]
            continue
        assert table.loc[label, "learned"]
        assert table.loc[label, "mean"] == pytest.approx(runs.mean())
        assert table.loc[label, "high"] - table.loc[label, "mean"] == pytest.approx(4.302653 * runs.sem(), rel=1e-6)


def test_one_run_that_learned_nothing_makes_the_mean_pale(transitions):
    frame = transitions.copy()
    frame.loc[(frame["method"] == "raptr") & (frame["seed"] == 1) & (frame["metric"] == "relative_loss"), "value"] = (
        0.95
    )
    frame.loc[(frame["method"] == "pld") & (frame["step"] == 30) & (frame["metric"] == "relative_loss"), "value"] = 0.95
    learned = plots.summarise_transition_changes(frame).set_index("method")["learned"]
    assert not learned["raptr"]
    assert learned["pld"]  # at its later transitions it had
    figure = plots.transition_changes(frame)
    assert lines(figure, "mean:raptr")[0].get_alpha() < lines(figure, "mean:pld")[0].get_alpha()
    assert len(lines(figure, "pale:pld")[0].get_ydata()) == 3
    assert len(lines(figure, "change:pld")[0].get_ydata()) == 6


def test_marks_are_the_changes_and_pale_where_nothing_was_learned(figure, transitions, labels):
    table = plots.summarise_transitions(transitions)
    for label in labels:
        pale = label == "raptr/no-residual"
        found = lines(figure, f"{'pale' if pale else 'change'}:{label}")
        assert not lines(figure, f"{'change' if pale else 'pale'}:{label}")
        np.testing.assert_array_equal(found[0].get_ydata(), table[table["method"] == label]["change"])
        assert found[0].get_color() == plots.METHOD_STYLES[label.split("/")[0]].colour
        mean = table[table["method"] == label].groupby("seed")["change"].mean().mean()
        assert lines(figure, f"mean:{label}")[0].get_ydata() == pytest.approx([mean, mean])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["RaPTr", "PLD", "gradual stacking", "pale: nothing learned by then"]


def test_panels_group_by_what_was_changed(figure):
    architecture, scaling = figure.axes
    names = [[label.get_text() for label in ax.get_xticklabels()] for ax in (architecture, scaling)]
    assert names == [["residual\n+ layer norm", "no\nlayer norm", "no\nresidual"], ["none", "√gap"]]
    assert len(lines(figure, "change:raptr")) == 2  # plain RaPTr stands in both
    assert len(lines(figure, "change:pld")) == 1
    (marks,) = lines(figure, "change:raptr/no-norm")
    assert ((marks.get_xdata() > 0.5) & (marks.get_xdata() < 1.5)).all()
    # A seed's transitions stand from left to right.
    assert (np.diff(marks.get_xdata()[:3]) > 0).all()


def test_axis_is_logarithmic_only_where_changes_are_large(figure, make_polynomials):
    assert figure.axes[0].get_yscale() == "symlog"
    small = plots.transition_changes(make_polynomials(methods=("pld",), tail=False))
    assert small.axes[0].get_yscale() == "linear"
    assert len(small.axes) == 1
    tick = figure.axes[0].yaxis.get_major_formatter()
    assert [tick(value) for value in (-0.05, 0.0, 10.0)] == ["−5 %", "0", "+1,000 %"]  # noqa: RUF001


def test_an_unknown_variant_is_drawn_under_its_own_name(transitions):
    frame = transitions.assign(method=transitions["method"].replace("raptr/sqrt_gap", "raptr/novel"))
    (ax,) = plots.transition_changes(frame).axes
    assert ax.get_xticklabels()[-1].get_text() == "novel"


def test_losses_are_in_units_of_each_seeds_variance(transitions, planted):
    table = plots.summarise_transition_losses(transitions).set_index(["method", "metric", "step"])
    # The targets' variances differ by a factor of two, and nothing is left of it.
    assert table.loc[("raptr", "train_loss", 50)].tolist() == pytest.approx([1.5, 1.5, 1.5, 3])
    assert table.loc[("raptr", "validation_loss", 120), "mean"] == pytest.approx(0.25)
    assert table.loc[("raptr", "subnet_loss_before", 30), "mean"] == pytest.approx(0.5)


def test_losses_draw_the_summary(transitions, planted):
    figure = plots.transition_losses(transitions)
    table = plots.summarise_transition_losses(transitions)
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == ["RaPTr", "PLD", "gradual stacking"]
    for metric in ("train_loss", "validation_loss"):
        (line,) = lines(figure, f"{metric}:pld")
        mean = table[(table["method"] == "pld") & (table["metric"] == metric)]
        np.testing.assert_array_equal(line.get_ydata(), mean["mean"])
    assert [line.get_xdata()[0] for line in lines(figure, "transition:pld")] == list(planted.TRANSITIONS)
    pairs = [line.get_ydata() for line in lines(figure, "sides:gradual_stacking")]
    np.testing.assert_allclose(pairs, [(0.5, 0.5 * (1 + change + 0.01)) for change in (2.0, 1.0, 3.0)])


def test_what_cannot_be_drawn_says_why(transitions, make_polynomials):
    with pytest.raises(ValueError, match="no rows of metric 'subnet_loss_before' to draw"):
        plots.transition_changes(make_polynomials(methods=("full",)).query("not metric.str.startswith('subnet')"))
    with pytest.raises(ValueError, match="no rows of metric 'validation_loss' to draw"):
        plots.transition_losses(transitions, methods=("msg",))


def test_a_label_takes_its_methods_style_and_place():
    look = plots.method_style("raptr/no-residual/no-norm")
    assert look.label == "RaPTr, no residual, no layer norm"
    assert (look.colour, look.marker) == (plots.METHOD_STYLES["raptr"].colour, plots.METHOD_STYLES["raptr"].marker)
    assert plots.method_style("novel/no-norm").label == "novel/no-norm"
    labels = ["pld", "novel", "raptr/inv_p", "raptr/no-residual", "raptr/sqrt_gap", "raptr", "raptr/no-norm", "full"]
    expected = ["full", "raptr", "raptr/no-norm", "raptr/no-residual", "raptr/sqrt_gap", "raptr/inv_p", "pld", "novel"]
    assert in_order(pd.Series(labels)) == expected
