"""The audit of EST's printed numbers: against what was worked out by hand, and able to fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from est_analysis.claims.audit import Book, Entry, Interval, Printed, audit, read_book
from est_analysis.errors import InputError

PUBLISHED = Path(__file__).parents[2] / "paper_figures" / "data" / "published.csv"


@pytest.fixture(scope="module")
def book():
    return read_book(PUBLISHED)


@pytest.fixture(scope="module")
def findings(book):
    return audit(book)


def _find(findings, locus, row, column):
    return [found for found in findings if (found.locus, found.row, found.column) == (locus, row, column)]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("26.7%", 26.65, 26.75),
        ("25%", 24.5, 25.5),
        ("1.22x", 1.215, 1.225),
        ("1x", 0.5, 1.5),
        ("0", -0.5, 0.5),
        ("117M", 116.5e6, 117.5e6),
        ("1.1B", 1.05e9, 1.15e9),
        ("130B", 125e9, 135e9),  # two digits or three
        ("60k", 55e3, 65e3),
        ("50.0%", 49.95, 50.05),
    ],
)
def test_what_a_printed_number_stands_for(text, low, high):
    found = Printed(text=text).rounded
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_text_that_is_no_number():
    with pytest.raises(InputError, match=r"'66\.74/77\.06' is not a published number"):
        Printed(text="66.74/77.06").value  # noqa: B018


def test_intervals_meet_at_their_ends_and_not_beyond():
    assert Interval(low=1, high=2).meets(Interval(low=2, high=3))
    assert Interval(low=1, high=4).meets(Interval(low=2, high=3))
    assert not Interval(low=1, high=2).meets(Interval(low=2.001, high=3))
    assert not Interval(low=2.001, high=3).meets(Interval(low=1, high=2))
    assert Interval(low=1, high=2) / Interval(low=4, high=8) == Interval(low=1 / 8, high=1 / 2)


# By hand. Savings: shares of the steps times shares of the cost. MSG: C_M / (C_H + C_M) is 2/3 by parameters, 16/(24 +
# 4 * 1024/768) with all scores; it saves (20 * 3/4 + 20/2 + 30 f/2) / 150. Staged: a third of the steps at c, 1/4 by
# parameters, (6 + 2 * 1024/768) / (24 + 4 * 1024/768) with all scores.
D = 1024 / 768
# Milliseconds a step of the stages, Tables 8 and 9, times thousands of steps.
GPT2_STEPS = 150 * 1065.23 / (20 * 525.55 + 50 * 721.37 + 80 * 1065.23)
TINYLLAMA_STEPS = 60 * 915.40 / (10 * 501.61 + 15 * 659.46 + 35 * 915.40)
BY_HAND = {
    ("Table 2", "MSG", "saving FLOPs"): [((25 + 15 * 16 / (24 + 4 * D)) / 1.5, (25 + 15 * 2 / 3) / 1.5, False)],
    ("Table 2", "Staged Training", "saving FLOPs"): [((1 - (6 + 2 * D) / (24 + 4 * D)) / 0.03, 25, False)],
    ("Table 2", "EST", "saving FLOPs"): [(80 / 3, 80 / 3, True)],
    ("Table 3", "EST-TWO-STAGE-C", "saving FLOPs"): [(30, 30, True)],
    ("Table 3", "EST-THREE-STAGE", "saving FLOPs"): [(80 / 3, 80 / 3, True)],
    ("Table 4", "EST", "saving FLOPs"): [(25, 25, True)],
    ("section 3.3", "EST", "saving FLOPs"): [(125 / 3, 125 / 3, True)],
    ("Table 1", "Total", "cost of EST (r N_L (C_H + C_M))"): [(1.75, 1.75, True)],
    ("Table 2", "Staged Training", "speed-up"): [(184.95 / 173.15, 185.05 / 173.05, False)],
    ("Table 2", "MSG", "speed-up"): [(184.95 / 160.85, 185.05 / 160.75, False)],
    ("Table 2", "EST", "speed-up"): [(184.95 / 151.65, 185.05 / 151.55, True), (*[GPT2_STEPS] * 2, False)],
    ("Table 4", "EST", "speed-up"): [(192.75 / 158.25, 192.85 / 158.15, True), (*[TINYLLAMA_STEPS] * 2, False)],
    ("Table 2", "Original", "average GLUE"): [(79.8354, 79.8454, True)],
    ("Table 3", "EST-TWO-STAGE-B", "average GLUE"): [(80.1631, 80.1731, True)],
    ("Table 4", "Original", "GPT4All"): [(42.3907, 42.4007, True)],
    ("Table 5", "EST", "GLUE"): [(80.655, 80.665, False)],
    ("section 4.2", "TinyLlama", "tokens"): [(1024 * 2048 * 60_000, 1024 * 2048 * 60_000, True)],
    ("section 4.1", "GPT2", "parameters"): [(124_439_808, 124_439_808, False)],
    ("section 4.2", "TinyLlama", "parameters"): [(1_100_048_384, 1_100_048_384, True)],
    ("section A.3", "stage 1", "speed-up by FLOPs"): [(4, 4, True)],
}


@pytest.mark.parametrize(("locus", "row", "column"), BY_HAND)
def test_recomputed_by_hand(findings, locus, row, column):
    found = _find(findings, locus, row, column)
    expected = BY_HAND[locus, row, column]
    assert [one.agrees for one in found] == [agrees for *_, agrees in expected]
    for one, (low, high, _) in zip(found, expected, strict=True):
        assert one.recomputed.low == pytest.approx(low, rel=1e-4)
        assert one.recomputed.high == pytest.approx(high, rel=1e-4)


def test_every_saving_but_the_originals_is_recomputed(book, findings):
    printed = [e for e in book.entries if e.column == "saving FLOPs" and e.row != "Original"]
    assert len([found for found in findings if found.column == "saving FLOPs"]) == len(printed) > 20


def test_the_disagreements_are_these(findings):
    found = {(one.locus, one.row, one.column) for one in findings if not one.agrees}
    assert found == {
        ("section 4.1", "GPT2", "parameters"),
        *((locus, "Staged Training", "saving FLOPs") for locus in ("section 4.1", "Table 2", "Table 6")),
        ("Table 2", "MSG", "saving FLOPs"),
        *(("Table 2", row, "speed-up") for row in ("Staged Training", "MSG", "EST")),
        ("Table 4", "EST", "speed-up"),
        ("Table 5", "Original", "GLUE"),
        ("Table 5", "EST", "GLUE"),
    }


def test_a_changed_digit_is_found(book):
    """Planted: every printed number that agrees is moved by three units of its last digit.

    One would not do for means, which are known no better than that.
    """
    for index, entry in enumerate(book.entries):
        agreed = [found for found in audit(book) if found.agrees and found.column == entry.column]
        agreed = [one for one in agreed if (one.locus, one.row) == (entry.locus, entry.row)]
        if not agreed or entry.column in {"tokens", "speed-up by FLOPs"}:
            continue
        moved = replace(entry, value=_moved(entry.value))
        changed = Book(entries=(*book.entries[:index], moved, *book.entries[index + 1 :]))
        found = _find(audit(changed), entry.locus, entry.row, entry.column)
        how = {one.how for one in agreed}
        assert not any(one.agrees for one in found if one.how in how), entry


def _moved(value):
    printed = Printed(text=value)
    number = float(value.rstrip("%xkMB")) + 3 * 10.0**-printed.decimals
    return f"{number:.{printed.decimals}f}{printed.unit}"


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"no published 'wall clock time \(hours\)' of 'Original' in '2'; add it"):
        audit(Book(entries=(Entry(table="2", row="EST", column="speed-up", value="1.22x"),)))


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"\xff\xfe", "is not text; restore it"), (b"EST,2,EST\n", "rows that are cut short; restore it")],
)
def test_a_damaged_file_is_one_line(tmp_path, text, message):
    whole = (Path(__file__).parents[2] / "paper_figures" / "data" / "published.csv").read_bytes()
    path = tmp_path / "published.csv"
    path.write_bytes(whole + text)
    with pytest.raises(InputError, match=message):
        read_book(path)


def test_step_times_that_are_missing_are_named(book):
    rest = tuple(entry for entry in book.entries if entry.table != "8")
    with pytest.raises(InputError, match="no step times in the published table '8'"):
        audit(Book(entries=rest))
