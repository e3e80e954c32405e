"""Figures of flatness along training whose effects are known."""

import math
import shutil
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

from est_analysis import plots
from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.equal_loss import log_ratios, traces_by_part
from est_analysis.claims.est_flatness import CLAIMS as ON_FLATNESS

TESTS = Path(__file__).parents[1]
tidy_frame = run_path(str(TESTS / "synthetic.py"))["tidy_frame"]
PLANTED = run_path(str(TESTS / "synthetic_flatness.py"))
EFFECTS, ENDS, STEPS, flatness_frame = map(PLANTED.get, ("EFFECTS", "ENDS", "STEPS", "flatness_frame"))
SCRIPT = run_path(str(TESTS.parent / "paper_figures" / "est_flatness.py"))["main"]
DATA = TESTS.parent / "paper_figures" / "data"
THIN = run_path(str(TESTS.parent / "paper_figures" / "data" / "thin.py"))["thin"]
ALONG = ENDS.keys() - {"full/half", "full/est-rate-half"}


def test_every_checkpoint_with_its_loss_and_sums_of_groups():
    found = plots.summarise_flatness(flatness_frame())
    assert len(found) == 3 * 2 * 3 * len(ALONG) * len(STEPS)
    last = found[(found["step"] == 600) & (found["seed"] == 0) & (found["method"] == "est")]
    values = last[last["corpus"] == "text"].set_index("group")
    assert values["loss"].tolist() == pytest.approx([2.5] * 3)
    plain = math.exp(5 + 0.5 * 2.5)
    assert values.loc["attention and MLP", "value"] == pytest.approx(0.5 * plain * math.exp(-0.5))
    assert values.loc["embeddings", "value"] == pytest.approx(0.45 * plain * math.exp(-0.2))


@pytest.mark.parametrize(
    ("method", "what", "claim"),
    [
        ("est", "whole model", "smaller-trace"),
        ("dropout", "whole model", "dropout"),
        ("est/decayed-embeddings", "whole model", "decayed-embeddings"),
        ("est", "attention and MLP", "sampled-blocks"),
        ("est", "Fisher trace", "fisher"),
        ("est", "scale-invariant", "scale-invariant"),
        ("est", "one rate", "same-rate"),
    ],
)
@pytest.mark.parametrize("corpus", ["text", "hmm"])
def test_ratios_are_what_the_claims_judge(method, what, claim, corpus):
    frame = flatness_frame(ends={"est": 2.13})  # below the full model's end: both sides are interpolated
    ratios = log_ratios(frame)
    values = ratios.query("method == @method and what == @what and corpus == @corpus")["value"]
    assert len(values) == 3
    expected = judge([CLAIMS[f"est.flatness.{claim}.{corpus}"]], frame, "quick")[0].effect
    assert values.mean() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("what", "claim"), [("both decayed", "both-decayed"), ("one rate, both decayed", "same-decay")]
)
def test_decayed_ratios_are_what_the_claims_judge(what, claim):
    frame = flatness_frame(effects={"full/half": (0.1, 0.1, 0.1), "full/est-rate": (0.3, 0.3, 0.3)})
    ratios = log_ratios(frame)
    values = ratios.query("what == @what and corpus == 'text'")["value"]
    assert len(values) == 3
    assert values.mean() == pytest.approx(judge([CLAIMS[f"est.flatness.{claim}.text"]], frame, "quick")[0].effect)
    outside = log_ratios(flatness_frame(ends={"est": 2.9}))
    assert what not in set(outside["what"])


def test_a_trace_lost_in_noise_takes_its_row_out_and_no_other():
    frame = flatness_frame(effects={"full/half": (0.1, 0.1, 0.1)})
    lost = (frame["method"] == "full/half") & (frame["metric"] == "hessian_trace") & (frame["seed"] == 1)
    frame.loc[lost & (frame["corpus"] == "hmm"), "value"] = -20.0
    ratios = log_ratios(frame)
    of_both = ratios[ratios["what"] == "both decayed"]
    assert of_both["corpus"].tolist() == ["text"] * 3, "not the two seeds whose trace can be read"
    assert len(ratios[ratios["what"] == "one rate, both decayed"]) == 6
    assert judge([CLAIMS["est.flatness.both-decayed.hmm"]], frame, "quick")[0].verdict == "untested"


def test_what_cannot_be_read_is_left_out():
    ratios = log_ratios(flatness_frame(ends={"est": 4.5}))
    whole = ratios[ratios["what"] == "whole model"]
    assert "est" not in set(whole.loc[whole["corpus"] == "text", "method"])
    assert "dropout" in set(whole["method"])


def test_bars_sum_to_the_traces_at_equal_loss():
    table = traces_by_part(flatness_frame(seeds=(0,)))
    text = table[table["corpus"] == "text"]
    assert text["loss"].tolist() == pytest.approx([2.5] * len(text))
    sums = text.groupby("method")["value"].sum()
    # the full model is read in a straight line between its checkpoints at 2.6 and 2.2, EST at its end
    at = {loss: math.exp(5 + 0.5 * loss) for loss in (2.6, 2.2)}
    assert sums["full"] == pytest.approx(np.interp(2.5, [2.2, 2.6], [at[2.2], at[2.6]]))
    assert sums["est"] == pytest.approx(
        math.exp(5 + 0.5 * 2.5) * (0.5 * math.exp(-0.5) + 0.45 * math.exp(-0.2) + 0.05 * math.exp(-0.3))
    )


def test_figures_hold_every_method_and_the_printed_ratio():
    frame, published = flatness_frame(), {"full": 11763.0, "est": 2510.0}
    along, ratios = plots.flatness_along_training(frame), plots.flatness_ratios([log_ratios(frame)], published)
    assert len(along.axes) == 8
    for ax in along.axes:
        assert {line.get_gid() for line in ax.lines} == {f"mean:{method}" for method in ALONG}
    for ax in ratios.axes:
        (line,) = [line for line in ax.lines if line.get_gid() == "published"]
        assert line.get_xdata()[0] == pytest.approx(2510 / 11763)
    bars = plots.table_5(traces_by_part(frame), published)
    assert [bar.get_height() for bar in bars.axes[0].patches] == [11763.0, 2510.0]
    assert len(bars.axes) == 3


def test_the_script_draws_all_from_a_folder_of_data(tmp_path, capsys):
    for name in ("published.csv", "unreadable.csv"):
        shutil.copy(DATA / name, tmp_path)
    assert SCRIPT(arguments=["--out", str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "est run flatness" in capsys.readouterr().err
    flatness_frame().to_csv(tmp_path / "flatness_quick.csv", index=False)
    assert SCRIPT(arguments=["--out", str(tmp_path), "--data", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"est_flatness.png", "est_flatness_ratios.png", "est_flatness_table5.png"}
    flatness_frame().assign(step=lambda rows: rows["step"] * 4).to_csv(tmp_path / "flatness_report.csv", index=False)
    assert SCRIPT(arguments=["--out", str(tmp_path), "--data", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *names,
        "est_flatness_longer.png",
        "est_flatness_lengths.png",
    }


def test_a_frame_of_one_language_and_no_published_values():
    frame = flatness_frame(corpora=("hmm",))
    assert len(plots.flatness_along_training(frame).axes) == 4
    assert len(plots.flatness_ratios([log_ratios(frame)]).axes) == len(plots.table_5(traces_by_part(frame)).axes) == 1


def test_a_frame_of_another_recipe_is_refused():
    for draw in (plots.flatness_along_training, log_ratios, traces_by_part):
        with pytest.raises(ValueError, match="no column corpus"):
            draw(tidy_frame())


def test_lengths_stand_side_by_side_with_what_all_of_them_have():
    short = flatness_frame()
    longer = short[~short["method"].isin(["dropout", "raptr"])].assign(step=short["step"] * 4)
    figure = plots.flatness_ratios([log_ratios(short), log_ratios(longer)])
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        f"{name}, {steps} steps" for name in plots.flatness.CORPORA.values() for steps in ("600", "2,400")
    ]
    labels = {line.get_gid() for line in figure.axes[0].lines} - {None}
    assert "mean:EST" in labels
    assert "mean:dropout" not in labels
    assert all({line.get_gid() for line in ax.lines} - {None} == labels for ax in figure.axes)


def test_thinned_rows_give_the_same_verdicts_and_figures():
    frame = flatness_frame()
    thinned = THIN(frame)
    assert len(thinned) < len(frame)
    claims = ON_FLATNESS.values()
    for whole, part in zip(judge(claims, frame, "quick"), judge(claims, thinned, "quick"), strict=True):
        assert (part.verdict, part.effect) == (whole.verdict, pytest.approx(whole.effect, abs=1e-4))
    for summarise in (plots.summarise_flatness, log_ratios, traces_by_part):
        assert len(summarise(thinned)) == len(summarise(frame))
