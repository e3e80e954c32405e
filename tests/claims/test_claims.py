import numpy as np
import pandas as pd
import pytest

from est_analysis.claims import CLAIMS, Claim, Measured, NotMeasured, decide, find_claim, judge, run_seconds, t_interval
from est_analysis.claims.est import last_stage_slope
from est_analysis.claims.statistics import transitions
from est_analysis.errors import InputError

ON_TEXT = {name: claim for name, claim in CLAIMS.items() if claim.recipe == "reproduce"}
COLUMNS = ["run_id", "method", "schedule", "seed", "step", "metric", "value"]


def picked(frame, method, metric, steps=slice(None)):
    """The index of some rows, `steps` being labels of a range, ends included."""
    rows = frame[(frame["method"] == method) & (frame["metric"] == metric)]
    first, last = steps.start or 0, steps.stop or np.inf
    return rows.index[rows["step"].between(first, last)]


def add(method, metric, by_seed, steps=slice(None)):
    """An edit that adds one number a seed to some values."""

    def edit(frame):
        rows = picked(frame, method, metric, steps)
        frame.loc[rows, "value"] += frame.loc[rows, "seed"].map(dict(enumerate(by_seed)))

    return edit


def times(method, metric, by_seed):
    """An edit that multiplies some values by one number a seed."""

    def edit(frame):
        rows = picked(frame, method, metric)
        frame.loc[rows, "value"] *= frame.loc[rows, "seed"].map(dict(enumerate(by_seed)))

    return edit


def stretch(by_seed):
    """An edit that makes EST's validation loss fall more or less steeply towards the same end."""

    def edit(frame):
        rows = picked(frame, "est", "validation_loss")
        value, seed = frame.loc[rows, "value"], frame.loc[rows, "seed"]
        end = value.groupby(seed).transform("last")
        frame.loc[rows, "value"] = end + seed.map(dict(enumerate(by_seed))) * (value - end)

    return edit


def nothing(frame):
    pass


CASES = [
    ("est.layer-flops", "supported", nothing),
    ("est.layer-flops", "refuted", times("est", "layer_flops", (1.1, 1.1, 1.1))),
    ("est.layer-flops", "inconclusive", times("est", "layer_flops", (1.0, 1.0, 1.1))),
    ("est.loss", "supported", nothing),
    ("est.loss", "refuted", add("est", "validation_loss", (0.05, 0.051, 0.049))),
    ("est.loss", "inconclusive", add("est", "validation_loss", (-0.1, 0.0, 0.1))),
    ("est.loss-at-equal-flops", "supported", nothing),
    ("est.loss-at-equal-flops", "refuted", add("est", "validation_loss", (1.0, 1.1, 1.0))),
    ("est.loss-at-equal-flops", "inconclusive", add("est", "validation_loss", (-1.0, 0.0, 1.0))),
    ("est.speed-up", "supported", nothing),
    ("est.speed-up", "refuted", times("est", "step_seconds", (2.0, 2.1, 2.0))),
    ("est.speed-up", "inconclusive", times("est", "step_seconds", (0.5, 1.0, 2.0))),
    ("est.transition-drop", "supported", nothing),
    ("est.transition-drop", "refuted", add("est", "train_loss", (-2.0, -2.1, -2.0), slice(0, 280))),
    ("est.transition-drop", "inconclusive", add("est", "train_loss", (0.0, -0.9, -2.0), slice(0, 280))),
    ("est.transition-drop-beside-full", "supported", nothing),
    ("est.transition-drop-beside-full", "refuted", add("est", "train_loss", (-2.0, -2.1, -2.0), slice(0, 280))),
    ("est.transition-drop-beside-full", "inconclusive", add("est", "train_loss", (0.0, -0.9, -2.0), slice(0, 280))),
    ("est.stage3-slope", "supported", nothing),
    ("est.stage3-slope", "refuted", stretch((0.3, 0.3, 0.31))),
    ("est.stage3-slope", "inconclusive", stretch((0.3, 1.0, 1.5))),
    ("est.flatness", "supported", nothing),
    ("est.flatness", "refuted", times("est", "hessian_trace", (3.0, 3.1, 3.0))),
    ("est.flatness", "inconclusive", times("est", "hessian_trace", (1.0, 2.0, 4.0))),
    ("est.sampling-drop", "supported", nothing),
    ("est.sampling-drop", "refuted", add("est", "stage1_all_cost", (1.0, 1.1, 1.0))),
    ("est.sampling-drop", "inconclusive", add("est", "stage1_all_cost", (0.0, 0.3, 0.9))),
    ("est.sampling-curve", "supported", nothing),
    ("est.sampling-curve", "refuted", times("est", "stage0_all_cost", (5.0, 5.1, 5.0))),
    ("est.sampling-curve", "inconclusive", times("est", "stage0_all_cost", (0.9, 2.0, 5.0))),
    ("est.sampling-second-order", "supported", nothing),
    ("est.sampling-second-order", "refuted", times("est", "stage0_heads_second_order", (5.0, 5.1, 5.0))),
    ("est.sampling-second-order", "inconclusive", times("est", "stage0_heads_second_order", (1.0, 1.0, 5.0))),
    ("est.sampling-fisher", "supported", nothing),
    ("est.sampling-fisher", "refuted", times("est", "fisher_columns_units", (3.0, 3.1, 3.0))),
    ("est.sampling-fisher", "inconclusive", times("est", "fisher_columns_units", (1.0, 1.0, 3.0))),
    ("est.sampling-layers", "supported", nothing),
    ("est.sampling-layers", "refuted", times("est", "slope_layers", (0.1, 0.1, 0.11))),
    ("est.sampling-layers", "inconclusive", times("est", "slope_layers", (0.1, 1.0, 1.5))),
    ("est.sampling-shrinks", "supported", nothing),
    ("est.sampling-shrinks", "refuted", add("est", "stage1_width_cost", (0.3, 0.31, 0.3), slice(280, 280))),
    ("est.sampling-shrinks", "inconclusive", add("est", "stage1_width_cost", (0.0, 0.1, 0.3), slice(280, 280))),
    ("est.sampling-fixed-size", "supported", nothing),
    ("est.sampling-fixed-size", "refuted", add("est", "stage0_heads_bernoulli_cost", (-0.3, -0.31, -0.3))),
    ("est.sampling-fixed-size", "inconclusive", add("est", "stage0_heads_bernoulli_cost", (-0.3, 0.0, 0.1))),
    ("est.full-loss-smooth", "supported", nothing),
    ("est.full-loss-smooth", "refuted", add("est", "validation_loss", (0.4, 0.41, 0.4), slice(300, 300))),
    ("est.full-loss-smooth", "inconclusive", add("est", "validation_loss", (0.0, 0.2, 0.6), slice(300, 300))),
    ("raptr.layer-flops", "supported", nothing),
    ("raptr.layer-flops", "refuted", times("raptr", "layer_flops", (1.1, 1.11, 1.1))),
    ("raptr.layer-flops", "inconclusive", times("raptr", "layer_flops", (0.97, 1.0, 1.03))),
    ("raptr.loss", "supported", nothing),
    ("raptr.loss", "refuted", add("raptr", "validation_loss", (0.05, 0.051, 0.049))),
    ("raptr.loss", "inconclusive", add("raptr", "validation_loss", (-0.1, 0.0, 0.1))),
    ("raptr.speed-up", "supported", nothing),
    ("raptr.speed-up", "refuted", times("raptr", "step_seconds", (2.0, 2.1, 2.0))),
    ("raptr.speed-up", "inconclusive", times("raptr", "step_seconds", (0.5, 1.0, 2.0))),
    ("raptr.transition-drop", "supported", nothing),
    ("raptr.transition-drop", "refuted", add("raptr", "train_loss", (-2.0, -2.1, -2.0), slice(0, 450))),
    ("raptr.transition-drop", "inconclusive", add("raptr", "train_loss", (0.5, -0.5, -2.0), slice(0, 450))),
    ("raptr.transition-drop-beside-full", "supported", nothing),
    ("raptr.transition-drop-beside-full", "refuted", add("raptr", "train_loss", (-2.0, -2.1, -2.0), slice(0, 450))),
    ("raptr.transition-drop-beside-full", "inconclusive", add("raptr", "train_loss", (0.5, -0.5, -2.0), slice(0, 450))),
    ("raptr.full-loss-smooth", "supported", nothing),
    ("raptr.full-loss-smooth", "refuted", add("raptr", "validation_loss", (0.4, 0.41, 0.4), slice(500, 500))),
    ("raptr.full-loss-smooth", "inconclusive", add("raptr", "validation_loss", (0.0, 0.2, 0.6), slice(500, 500))),
]


@pytest.mark.parametrize(("name", "expected", "edit"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_verdict_follows_the_effect(frame, name, expected, edit):
    edit(frame)
    (verdict,) = judge([find_claim(name)], frame, "quick")
    assert verdict.verdict == expected, verdict
    assert (verdict.claim, verdict.seeds, verdict.scale) == (name, 3, "quick")
    assert verdict.interval[0] <= verdict.effect <= verdict.interval[1]


def test_every_claim_has_all_three_cases():
    assert {(name, outcome) for name, outcome, _ in CASES} == {
        (name, outcome) for name in ON_TEXT for outcome in ("supported", "refuted", "inconclusive")
    }


def test_known_effects_are_recovered(frame):
    effects = {verdict.claim: verdict.effect for verdict in judge(ON_TEXT.values(), frame, "quick")}
    assert effects["est.layer-flops"] == pytest.approx(100 * (1 - (20 / 4 + 50 / 2 + 80) / 150))
    assert effects["est.loss"] == pytest.approx(-0.02)
    assert effects["est.speed-up"] == pytest.approx(150 / (20 * 0.5 + 50 * 0.7 + 80))
    assert effects["est.flatness"] == pytest.approx(np.log(0.5))
    assert effects["raptr.layer-flops"] == pytest.approx(25.0)
    assert effects["raptr.loss"] == pytest.approx(0.005)


def test_one_seed_is_at_best_inconclusive_but_exact_counts_need_none(make_frame):
    verdicts = {verdict.claim: verdict for verdict in judge(ON_TEXT.values(), make_frame(seeds=(0,)), "smoke")}
    assert verdicts.pop("est.layer-flops").verdict == "supported"
    assert {verdict.verdict for verdict in verdicts.values()} == {"inconclusive"}
    assert {verdict.interval for verdict in verdicts.values()} == {None}


NEEDS = {
    "est.layer-flops": ["layer_flops"],
    "est.loss": ["validation_loss"],
    "est.loss-at-equal-flops": ["validation_loss", "total_flops"],
    "est.speed-up": ["step_seconds"],
    "est.transition-drop": ["train_loss", "stage"],
    "est.stage3-slope": ["validation_loss", "stage"],
    "est.flatness": ["hessian_trace"],
    "raptr.layer-flops": ["layer_flops"],
    "raptr.loss": ["validation_loss"],
    "raptr.speed-up": ["step_seconds"],
    "raptr.transition-drop": ["train_loss", "stage"],
    "raptr.full-loss-smooth": ["validation_loss", "stage"],
}


@pytest.mark.parametrize(("name", "metric"), [(name, metric) for name, metrics in NEEDS.items() for metric in metrics])
def test_missing_metric_is_untested_and_named(frame, name, metric):
    (verdict,) = judge([CLAIMS[name]], frame[frame["metric"] != metric], "quick")
    assert (verdict.verdict, verdict.effect, verdict.interval, verdict.seeds) == ("untested", None, None, 0)
    assert metric in verdict.detail


@pytest.mark.parametrize("name", ON_TEXT)
def test_missing_method_is_untested_and_named(frame, name):
    method = name.split(".")[0]
    (verdict,) = judge([CLAIMS[name]], frame[frame["method"] != method], "quick")
    assert verdict.verdict == "untested"
    assert f"'{method}'" in verdict.detail


def test_two_schedules_of_one_method_are_untested(frame):
    frame.loc[(frame["method"] == "est") & (frame["seed"] == 1), "schedule"] = "another"
    (verdict,) = judge([CLAIMS["est.loss"]], frame, "quick")
    assert verdict.verdict == "untested"
    assert "2 schedules" in verdict.detail


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        ("est.stage3-slope", add("est", "validation_loss", (10, 10, 10)), "no range of losses in common"),
        ("est.flatness", times("est", "hessian_trace", (-1, 1, 1)), "not positive"),
        ("est.loss", times("est", "validation_loss", (np.nan, 1, 1)), "not finite"),
    ],
)
def test_what_cannot_be_computed_is_untested(frame, name, edit, reason):
    edit(frame)
    (verdict,) = judge([CLAIMS[name]], frame, "quick")
    assert verdict.verdict == "untested"
    assert reason in verdict.detail


@pytest.mark.parametrize("name", ["est.loss", "raptr.loss"])
def test_runs_of_different_length_are_no_pair(frame, name):
    """Losing the end of the full model's rows would raise its loss."""
    late = (frame["method"] == "full") & (frame["step"] > frame["step"].max() / 2)
    (found,) = judge([CLAIMS[name]], frame[~late], "quick")
    assert found.verdict == "untested"
    assert f"ends at step {frame['step'].max()}, that of 'full' at " in found.detail


def test_disjoint_seeds_are_untested(frame):
    kept = frame[
        ((frame["method"] == "est") & (frame["seed"] == 0)) | ((frame["method"] == "full") & (frame["seed"] == 1))
    ]
    (verdict,) = judge([CLAIMS["est.loss"]], kept, "quick")
    assert (verdict.verdict, verdict.detail) == ("untested", "the two methods share no seed")


def test_transitions_are_the_last_steps_of_stages(frame):
    assert transitions(frame, "est") == {seed: [80, 280] for seed in range(3)}
    with pytest.raises(NotMeasured, match="no stage transition"):
        transitions(frame, "full")


def test_slope_by_hand():
    # EST falls 4 nats in 1000 steps from step 500 on, the full model 2: between 4 and 3 nats, -4 against -2.
    def rows(method, metric, values):
        return [(method, method, "s", 0, step, metric, value) for step, value in values.items()]

    frame = pd.DataFrame(
        rows("est", "stage", {500: 0.0, 1000: 1.0})
        + rows("est", "validation_loss", {250: 5.0, 500: 4.0, 1000: 2.0})
        + rows("full", "validation_loss", {0: 5.0, 1000: 3.0}),
        columns=COLUMNS,
    )
    found = last_stage_slope(frame)
    assert found.effect == pytest.approx(-4 - -2)
    assert "from 4.000 down to 3.000" in found.detail
    assert "over steps 500-750 and 500-1000" in found.detail


def test_run_time_weighs_windows_by_their_length():
    frame = pd.DataFrame(
        [("a", "full", "s", 0, step, "step_seconds", value) for step, value in {10: 1.0, 15: 2.0}.items()],
        columns=COLUMNS,
    )
    assert run_seconds(frame, "full")[0] == 10 * 1.0 + 5 * 2.0


def test_t_interval_by_hand():
    # mean 2, standard error 1/sqrt(3), t(0.975, 2 degrees of freedom) = 4.30265
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-5)
    assert t_interval([5.0, 5.0]) == (5.0, 5.0)
    assert t_interval([1.0]) is None


def test_t_interval_covers_as_often_as_it_says():
    # 2000 samples of 4: the share of intervals that hold the mean is 0.95 with standard error 0.005.
    samples = np.random.default_rng(0).normal(1.0, 2.0, (2000, 4))
    held = np.mean([low < 1.0 < high for low, high in map(t_interval, samples)])
    assert abs(held - 0.95) < 4 * 0.005


def test_touching_the_threshold_from_outside_is_refuted():
    assert decide((0.0, 0.0), (-np.inf, 0.0)) == "refuted"
    assert decide((-1.0, 0.0), (-np.inf, 0.0)) == "inconclusive"


def test_unknown_claim_suggests_the_nearest():
    with pytest.raises(InputError, match=r"unknown claim 'est.flat': did you mean 'est.flatness'\?"):
        find_claim("est.flat")


def test_untidy_frames_are_refused(frame):
    with pytest.raises(InputError, match="no column seed"):
        judge([], frame.drop(columns="seed"), "quick")
    with pytest.raises(InputError, match="run 'full-0000' has two values of train_loss at step 10"):
        judge([], pd.concat([frame, frame.head(1)]), "quick")


def test_claims_are_complete_and_named_by_paper():
    for name, claim in CLAIMS.items():
        assert name == claim.id
        assert claim.statement.endswith(".")
        assert claim.region[0] < claim.region[1]
        assert all([claim.paper, claim.locus, claim.threshold, claim.recipe])


def test_a_new_claim_is_one_value():
    claim = Claim(
        id="x", paper="p", locus="l", statement="s.", threshold="t", region=(0, 2), recipe="r",
        check=lambda frame: Measured(effect=1.0, interval=(0.5, 1.5), unit="", seeds=3),
    )  # fmt: skip
    assert judge([claim], pd.DataFrame(columns=COLUMNS), "smoke")[0].verdict == "supported"


def test_a_steady_trend_is_no_drop(frame):
    """A loss that falls just as fast across a transition as before it must not count as dropping there."""
    rows = picked(frame, "est", "train_loss")
    ends = frame.loc[rows, "step"]
    centres = (ends + ends.groupby(frame.loc[rows, "seed"]).shift(fill_value=0)) / 2  # the mean of a window sits there
    frame.loc[rows, "value"] = 5 - 0.01 * centres
    (verdict,) = judge([CLAIMS["est.transition-drop"]], frame, "quick")
    assert verdict.verdict != "supported"
    assert verdict.effect == pytest.approx(0.0, abs=1e-9)


def test_traces_at_different_losses_are_not_compared(frame):
    add("est", "validation_loss", (0.2, 0.2, 0.2))(frame)
    (verdict,) = judge([CLAIMS["est.flatness"]], frame, "quick")
    assert verdict.verdict == "untested"
    assert "differ by +0.18" in verdict.detail
