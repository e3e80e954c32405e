"""What claims read of the costs of sampling: effects that were planted, and theory's own formulas."""

import re

import numpy as np
import pytest

from est_analysis.claims import find_claim, judge
from est_analysis.claims.sampling_costs import Costs, side_by_side
from est_analysis.errors import InputError
from est_analysis.theory.sampling_penalty import KeepRates, QuadraticForms, fixed_size_penalty

# Of the rows that `synthetic.py` plants.
HEADS, COLUMNS, LAYERS, FIRST, SHRINKS = 0.1, 0.2, 0.35, 0.3, 0.8


def effect(name, frame):
    (verdict,) = judge([find_claim(name)], frame, "quick")
    return verdict.effect, verdict.detail


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("est.sampling-drop", 0.3),
        ("est.sampling-second-order", 1.0),
        ("est.sampling-fisher", 1.0),
        ("est.sampling-layers", FIRST / LAYERS),
        ("est.sampling-shrinks", np.log(SHRINKS)),
        ("est.sampling-fixed-size", 0.05 * (1 + SHRINKS) / 2),
    ],
)
def test_planted_effects_are_found(frame, name, expected):
    assert effect(name, frame)[0] == pytest.approx(expected)


def test_independent_draws_are_predicted_too(frame):
    assert "+0.0450 nats" in effect("est.sampling-fixed-size", frame)[1]


def test_orders_add_up_as_in_theory(frame):
    """Half the layers: heads and columns cost half; the forms of one module are the sums over modules."""
    costs = Costs(frame)
    for matrix in ("hessian", "fisher"):
        found = costs.orders(0, 80, 0, matrix)
        assert (found.heads, found.columns) == pytest.approx((HEADS / 2, COLUMNS / 2))
        assert found.layers_first_order == pytest.approx(FIRST)
    one = QuadraticForms(units=np.full(4, 0.3 / 4), total=0.6)
    assert costs.predicted(0, 80, KeepRates(heads=0.5)).heads == pytest.approx(fixed_size_penalty(one, 0.5))
    assert costs.orders(0, 280, 2, "hessian").total == 0.0


def test_side_by_side_is_every_part_found_every_way(frame):
    table = side_by_side(frame).query("seed == 0").set_index(["step", "part", "way"])["value"]
    widths = {way for step, part, way in table.index if (step, part) == (280, "width")}
    assert widths == {"masks", "hessian", "fisher"}
    assert {way for _, part, way in table.index if part == "drop"} == {"masks", "hessian", "fisher", "curve"}
    assert table[80, "width", "masks"] == pytest.approx(HEADS + COLUMNS)
    assert table[80, "layers", "hessian"] == pytest.approx(LAYERS)
    assert table[80, "layers", "masks"] == pytest.approx(LAYERS - 0.01 + FIRST)
    assert table[280, "drop", "hessian"] == pytest.approx(SHRINKS * (HEADS + COLUMNS))
    # Layers come back, and with them all of the noise of heads and columns.
    assert table[80, "drop", "hessian"] == pytest.approx(LAYERS - (HEADS + COLUMNS) / 2)
    assert table[80, "drop", "masks"] == pytest.approx(0.3)
    assert (280, "layers", "masks") not in table.index


@pytest.mark.parametrize(
    ("metric", "claim"),
    [
        ("stage0_all_cost", "est.sampling-drop"),
        ("stage1_columns_second_order", "est.sampling-second-order"),
        ("fisher_heads_total", "est.sampling-fisher"),
        ("slope_layers", "est.sampling-layers"),
        ("stage0_rate_heads", "est.sampling-shrinks"),
        ("stage1_heads_bernoulli_cost", "est.sampling-fixed-size"),
    ],
)
def test_what_is_missing_is_untested_and_not_drawn(frame, metric, claim):
    frame = frame[frame["metric"] != metric]
    (verdict,) = judge([find_claim(claim)], frame, "quick")
    assert verdict.verdict == "untested"
    assert metric in verdict.detail
    if "bernoulli" not in metric:
        with pytest.raises(InputError, match=re.escape(metric)):
            side_by_side(frame)


@pytest.mark.parametrize(
    ("claim", "metric", "value", "words"),
    [
        ("est.sampling-second-order", "stage0_columns_cost", -5.0, "not positive"),
        ("est.sampling-layers", "stage0_layers_cost", -0.1, "cost nothing"),
        ("est.sampling-curve", "stage0_all_cost", -5.0, "does not drop"),
        ("est.sampling-shrinks", "stage1_width_cost", -0.1, "no logarithm"),
        ("est.sampling-shrinks", "stage1_rate_heads", 0.75, "same rates"),
    ],
)
def test_what_cannot_be_compared_is_untested(frame, claim, metric, value, words):
    frame.loc[frame["metric"] == metric, "value"] = value
    (verdict,) = judge([find_claim(claim)], frame, "quick")
    assert verdict.verdict == "untested"
    assert words in verdict.detail
