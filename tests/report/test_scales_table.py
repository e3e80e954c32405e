"""Tables of claims at several scales: typed words, filled numbers."""

import pytest

from est_analysis.claims import Verdict
from est_analysis.claims.evidence import Judged, Outcome
from est_analysis.claims.registry import CLAIMS
from est_analysis.errors import InputError
from est_analysis.report.scales_table import effect_words, filled_rows


def verdict(scale="quick", called="refuted", effect=0.25, interval=(0.125, 0.375), unit="nats"):
    return Verdict(
        claim="est.loss", verdict=called, effect=effect, interval=interval, unit=unit, seeds=3, scale=scale, detail=""
    )


@pytest.fixture
def judged():
    outcomes = (
        Outcome(verdict=verdict("report"), p=0.001, adjusted_p=0.01),
        Outcome(verdict=verdict("quick", "inconclusive", 0.0005, (-0.001, 0.002)), p=0.4, adjusted_p=1.0),
        Outcome(verdict=verdict("gpu", "untested", None, None)),
    )
    return {"est.loss": Judged(claim=CLAIMS["est.loss"], outcomes=outcomes)}


def test_words_stay_and_numbers_are_filled_in(judged):
    lines = ["| claim | short | long | there |", "|---|---|---|---|", "| no worse (Table 2) `est.loss` | old | | |"]
    *head, row = filled_rows(lines, ["quick", "report", "gpu"], judged)
    assert head == lines[:2]
    assert row.split(" | ") == [
        "| no worse (Table 2) `est.loss`",
        "0.0005 [-0.0010, 0.0020], inconclusive",
        "0.250 [0.125, 0.375], **refuted**†",
        "- |",
    ]


def test_a_row_without_a_claim_is_left_alone(judged):
    rows = ["| words alone | 1 | 2 |", "| word | in a later cell `est.loss` | 3 |", "no table `est.loss`"]
    assert filled_rows(rows, ["quick"], judged) == rows


def test_an_unknown_claim_is_refused(judged):
    with pytest.raises(InputError, match=r"unknown claim 'est.los': did you mean 'est.loss'"):
        filled_rows(["| no worse `est.los` | |"], ["quick"], judged)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"effect": 26.664, "interval": (26.66, 26.668), "unit": "%"}, "26.6640 % [26.6600, 26.6680]"),
        ({"effect": 26.664, "interval": (26.664, 26.664), "unit": "%"}, "26.66 % [26.66, 26.66]"),
        ({"effect": 1.3234, "interval": (1.27, 1.38), "unit": "x"}, "1.323x [1.270, 1.380]"),
        ({"effect": -0.00001, "interval": (-0.00002, 0.00003)}, "0.0000 [0.0000, 0.0000]"),
        ({"effect": 3.5, "interval": None}, "3.500"),
        ({"effect": None, "interval": None}, "-"),
    ],
)
def test_digits_are_those_that_the_interval_bears(given, text):
    assert effect_words(verdict(**given)) == text
