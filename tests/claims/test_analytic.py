"""Claims without runs: against the audit and by hand; commands of those that no machine here could test."""

import itertools
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from est_analysis.__main__ import app
from est_analysis.claims import CLAIMS, judge
from est_analysis.claims.analytic import CLAIMS as ANALYTIC
from est_analysis.claims.analytic import GROUPS
from est_analysis.claims.audit import Book, audit, read_book
from est_analysis.claims.claim import judge_one
from est_analysis.experiments.runs.spec import TrainSpec
from est_analysis.subnet.schedule import find_schedule
from est_analysis.train.settings import Settings

PUBLISHED = Path(__file__).parents[2] / "paper_figures" / "data" / "published.csv"
PRINTED = {name: claim for name, claim in CLAIMS.items() if name.startswith("est.printed-")}
ONE = {
    name: claim
    for name, claim in PRINTED.items()
    if "how" in claim.check.args[0].keywords or "unit" in claim.check.args[0].keywords
}
PAPER_SCALE = {name: claim for name, claim in CLAIMS.items() if claim.recipe == "paper-scale"}


@pytest.fixture(scope="module")
def book():
    return read_book(PUBLISHED)


@pytest.fixture(scope="module")
def findings(book):
    return audit(book)


def verdict(name, book):
    return judge_one(CLAIMS[name], book, "exact")


def places(claim):
    at = claim.check.args[0].keywords["at"]
    return {at} if isinstance(at[0], str) else set(at)


# By hand: shares of steps times shares of cost; hours and milliseconds of Tables 2, 4, 8, 9; 12 over the mean depth 9.
BY_HAND = {
    "est.printed-savings.gpt2": ("supported", 100 * (1 - (20 / 4 + 50 / 2 + 80) / 150)),
    "est.printed-savings.tinyllama": ("supported", 100 * (1 - (10 / 4 + 15 / 2 + 35) / 60)),
    "est.printed-savings.example": ("supported", 100 * (1 - 1.75 / 3)),
    "est.printed-savings.ablations": ("supported", 0),
    "est.printed-savings.msg": ("refuted", None),
    "est.printed-savings.staged": ("refuted", None),
    "est.printed-speed-ups.gpt2-hours": ("supported", 185.0 / 151.6),
    "est.printed-speed-ups.tinyllama-hours": ("supported", 192.8 / 158.2),
    "est.printed-speed-ups.gpt2-steps": ("refuted", 150 * 1065.23 / (20 * 525.55 + 50 * 721.37 + 80 * 1065.23)),
    "est.printed-speed-ups.tinyllama-steps": ("refuted", 60 * 915.4 / (10 * 501.61 + 15 * 659.46 + 35 * 915.4)),
    "est.printed-speed-ups.rivals": ("refuted", 2),
    "est.printed-numbers.means": ("supported", 0),
    "est.printed-numbers.table5": ("refuted", 2),
    "est.printed-numbers.gpt2-size": ("refuted", 124.439808),
    "est.printed-numbers.tinyllama-tokens": ("supported", 1.024 * 2.048 * 60),
    "raptr.schedule-costs.bert": ("supported", 12 / 9),
    "raptr.schedule-costs.stacking": ("supported", 12 / 9),
    "raptr.schedule-costs.ul2": ("inconclusive", 24 / (0.3 * 24 + 0.7 * 18)),
}


def test_all_of_them_are_worked_out():
    assert BY_HAND.keys() == ANALYTIC.keys()
    assert {name.rpartition(".")[0] for name in BY_HAND} == GROUPS.keys()


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name, book):
    expected, effect = BY_HAND[name]
    found = verdict(name, book)
    assert (found.verdict, found.scale, found.seeds) == (expected, "exact", 0)
    if effect is not None:
        assert found.effect == pytest.approx(effect, rel=1e-4)


@pytest.mark.parametrize("name", ONE)
def test_a_region_is_what_rounds_to_the_printed_number(name, findings):
    words = ONE[name].check.args[0].keywords
    printed = {one.printed for one in findings if (one.locus, one.row, one.column) == words["at"]}
    (rounded,) = (one.rounded for one in printed)
    size = words.get("size", 1.0)
    assert ONE[name].region == pytest.approx((rounded.low / size, rounded.high / size))


@pytest.mark.parametrize("name", PRINTED)
def test_the_verdict_is_the_audits(name, book, findings):
    claim = PRINTED[name]
    how = claim.check.args[0].keywords.get("how", "")
    agree = [one.agrees for one in findings if (one.locus, one.row, one.column) in places(claim) and how in one.how]
    assert verdict(name, book).verdict == ("supported" if all(agree) else "refuted")


def test_a_number_that_disagrees_anywhere_has_its_claim(findings):
    """Whatever the audit finds wrong is a refuted claim, the same number in other tables aside."""
    wrong = {(one.row, one.column, one.printed.text) for one in findings if not one.agrees}
    claimed = {
        (one.row, one.column, one.printed.text)
        for claim in PRINTED.values()
        for one in findings
        if (one.locus, one.row, one.column) in places(claim)
    }
    assert wrong <= claimed


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("est.printed-savings.ablations", ("3", "EST-TWO-STAGE-C", "saving FLOPs"), "30.2%"),
        ("est.printed-speed-ups.gpt2-hours", ("2", "EST", "wall clock time (hours)"), "153.0"),
        ("est.printed-speed-ups.tinyllama-hours", ("4", "Original", "wall clock time (hours)"), "191.0"),
        ("est.printed-numbers.means", ("6", "Original", "RTE"), "68.07"),
        ("est.printed-numbers.tinyllama-tokens", ("section 4.2", "TinyLlama", "training steps"), "65k"),
    ],
)
def test_a_changed_digit_refutes(name, place, value, book):
    """Planted in the book: another number for one from which a supported claim follows."""
    entries = [replace(e, value=value) if (e.table, e.row, e.column) == place else e for e in book.entries]
    assert sum(ours != theirs for ours, theirs in zip(entries, book.entries, strict=True)) == 1
    assert verdict(name, book).verdict == "supported"
    assert verdict(name, Book(entries=tuple(entries))).verdict == "refuted"


def test_runs_say_nothing_about_them(frame):
    found = judge([CLAIMS[name] for name in BY_HAND], frame, "quick")
    assert {one.verdict for one in found} == {"untested"}


def test_a_number_that_is_not_in_the_book_is_named():
    found = verdict("est.printed-savings.msg", Book(entries=()))
    assert (found.verdict, found.detail) == ("untested", "no printed saving FLOPs of MSG in Table 2 to recompute")


# Claims that need runs of the papers' size ----------------------------------------------------------------------------


def ours(command):
    """The arguments of every run of our own program in a shell command, its loops unrolled."""
    loops = {found[1]: found[2].split() for found in re.finditer(r"for (\w+) in ([^;]+);", command)}
    for values in itertools.product(*loops.values()):
        for part in re.findall(r"(?:-m est_analysis|\best) ((?:train|eval|trace|stability) [^;]+)", command):
            for name, value in zip(loops, values, strict=True):
                part = part.replace(f"${name}", value).replace(f"${{{name}}}", value)
            assert "$" not in part
            yield shlex.split(part)


def test_most_of_their_commands_are_ours():
    assert sum(bool(list(ours(claim.by_hand))) for claim in PAPER_SCALE.values()) >= 6


@pytest.mark.parametrize("name", PAPER_SCALE)
def test_their_commands_can_be_typed(name):
    for program, *arguments in ours(PAPER_SCALE[name].by_hand):
        command = typer.main.get_command(app).commands[program]
        given = command.make_context(program, arguments).params
        if program == "train":
            settings = Settings(
                **{name: given[name] for name in ("steps", "lr", "warmup", "decay", "accumulation", "precision")}
                | {"warmup": given["warmup"] or 0}
            )
            named = ("family", "preset", "method", "schedule", "objective", "corpus", "dataset_config", "tokenizer")
            spec = TrainSpec(
                **{name: given[name] for name in named}, batch_size=given["batch"], seq_len=given["seq_len"],
                settings=settings,
            )  # fmt: skip
            assert given["device"] == "cuda"
            assert find_schedule(spec.schedule_name).spans


@pytest.mark.parametrize("name", PAPER_SCALE)
def test_they_are_untested_and_say_what_they_need(name, frame):
    (found,) = judge([PAPER_SCALE[name]], frame, "quick")
    assert found.verdict == "untested"
    assert found.detail.startswith("needs ")
    assert PAPER_SCALE[name].command("quick") == PAPER_SCALE[name].by_hand
