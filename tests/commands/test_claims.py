"""`est claims`: what it prints, the page in a real browser, and the Markdown table."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scipy import stats

from est_analysis.claims import CLAIMS
from est_analysis.claims.grid import FAMILIES

ROOT = Path(__file__).parents[2]
HALF = 4.302653 * 0.001 / 3**0.5  # t(0.975) with 2 degrees of freedom times the standard error of `data`
KEYS = ["id", "paper", "locus", "statement", "verdict", "effect", "interval", "scale", "run_ids"]


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_frame):
    """A folder like `paper_figures`: runs whose effects are known, the printed numbers, one figure."""
    folder = tmp_path_factory.mktemp("paper_figures") / "data"
    folder.mkdir()
    frame = make_frame()
    losses = (frame["method"] == "est") & (frame["metric"] == "validation_loss")
    frame.loc[losses, "value"] += 0.001 * (frame.loc[losses, "seed"] - 1)  # a standard deviation of 0.001
    frame.to_csv(folder / "reproduce_quick.csv", index=False)
    shutil.copy(ROOT / "paper_figures" / "data" / "published.csv", folder)
    (folder.parent / "est_figure3.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><title>known</title></svg>')
    return folder


def shown(result):
    return json.loads(result.out)


def test_json_has_the_promised_keys_first(est, data):
    records = shown(est("claims", "--json", "--data", data))
    assert [record["id"] for record in records] == list(CLAIMS)
    assert {tuple(record)[:9] for record in records} == {tuple(KEYS)}
    loss = next(record for record in records if record["id"] == "est.loss")
    assert loss["effect"] == pytest.approx(-0.02)
    assert loss["interval"] == pytest.approx([-0.02 - HALF, -0.02 + HALF])
    assert loss["p"] == pytest.approx(2 * stats.t.sf(0.03 / (0.001 / 3**0.5), df=2))
    assert (loss["verdict"], loss["scale"], loss["seeds"], loss["command"]) == (
        "supported",
        "quick",
        3,
        "est run reproduce --scale quick",
    )
    assert loss["run_ids"] == [f"{method}-{seed:04d}" for method in ("est", "full") for seed in range(3)]
    untested = next(record for record in records if record["id"] == "grid.est-full.gpt2")
    assert [untested[name] for name in ("verdict", "effect", "interval", "scale", "run_ids")] == [
        "untested",
        None,
        None,
        None,
        [],
    ]


@pytest.mark.parametrize(
    ("arguments", "keep"),
    [
        (("--paper", "raptr"), lambda one: one["paper"].startswith("RaPTr")),
        (("--verdict", "refuted"), lambda one: one["verdict"] == "refuted"),
        (("--origin", "asked"), lambda one: one["origin"] == "asked"),
        (("--paper", "est", "--verdict", "supported"), lambda one: one["id"].startswith(("est.", "grid.est"))),
        (("est.loss",), lambda one: one["id"] == "est.loss"),
        (("est.printed-savings",), lambda one: one["id"].startswith("est.printed-savings.")),
    ],
)
def test_filters(est, data, arguments, keep):
    everything = shown(est("claims", "--json", "--data", data))
    found = shown(est("claims", "--json", "--data", data, *arguments))
    expected = [one for one in everything if keep(one)]
    if "supported" in arguments:
        expected = [one for one in expected if one["verdict"] == "supported"]
    assert found == expected != everything
    assert found


def test_a_table_for_a_person(est, data):
    found = est("claims", "--data", data, "--verdict", "supported")
    assert "est.printed-savings.gpt2" in found.out
    assert "grid.est-full.gpt2" not in found.out
    text = " ".join(found.err.split())
    assert re.search(r"\d+ claims: (\d+) supported, 0 refuted, 0 inconclusive, 0 untested", text)
    assert "intervals of 95 % over seeds were judged" in text
    assert "Holm's correction" in text


def test_one_whole(est, data):
    out = " ".join(est("claims", "est.loss", "--data", data).out.split())
    claim = CLAIMS["est.loss"]
    for part in (claim.statement, claim.locus, claim.threshold, "full-0002", "est run reproduce --scale quick"):
        assert part in out
    assert "after Holm's correction over" in out
    assert "paper_figures/est_figure3.svg" in out


def test_one_that_is_not_in_the_filter_is_no_error(est, data):
    found = est("claims", "est.loss", "--verdict", "refuted", "--data", data)
    assert (found.code, found.out) == (0, "")
    assert "0 claims" in found.err


def test_a_line_a_claim_for_other_programs(est, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = est("claims", "--data", data).out.splitlines()
    assert [line.split("\t")[0] for line in lines] == list(CLAIMS)
    assert {line.count("\t") for line in lines} == {4}
    by_id = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert by_id["est.loss"] == [
        "supported",
        f"-0.02 [{-0.02 - HALF:.4g}, {-0.02 + HALF:.4g}] nats",
        "quick",
        CLAIMS["est.loss"].statement,
    ]
    assert by_id["est.paper-scale.squad"][:3] == ["untested", "-", "-"]


@pytest.fixture
def terminal(monkeypatch):
    """Commands print as on a terminal of so many columns."""

    def of(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("FORCE_COLOR", "1")

    return of


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", [66, 80, 200])
def test_a_terminal_never_breaks_an_id(est, data, terminal, columns):
    terminal(columns)
    found = est("claims", "--data", data)
    text = plain(found.out)
    assert max(map(len, text.splitlines())) <= columns
    assert re.findall(r"^│ ((?:est|raptr|grid)\.[^ ]+) +│", text, flags=re.MULTILINE) == list(CLAIMS)
    assert f"{len(CLAIMS)} claims: " in text
    assert found.err == ""


# A claim and, beside it, claims whose ids begin with its own and a dot.
GROUP = [name for name in CLAIMS if name.startswith("est.flatness.")]


def test_one_points_to_those_under_it(est, data, terminal):
    out = est("claims", "est.flatness", "--data", data).out
    assert out.splitlines()[-1] == f"see also: {', '.join(GROUP)} ('est claims est.flatness.' lists them)"
    assert "see also" not in est("claims", "est.loss", "--data", data).out
    terminal(80)
    shown_there = plain(est("claims", "est.flatness", "--data", data).out)
    assert all(re.search(rf"(?<!\S){re.escape(name)}(?![^\s,])", shown_there) for name in GROUP)


@pytest.mark.parametrize("group", ["est.flatness.", "est.flatness.*"])
def test_a_group_is_listed_without_the_claim_of_its_name(est, data, group):
    lines = est("claims", group, "--data", data).out.splitlines()
    assert [line.split("\t")[0] for line in lines] == GROUP
    assert [one["id"] for one in shown(est("claims", group, "--json", "--data", data))] == GROUP


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("est.los",), "unknown claim 'est.los': did you mean 'est.loss'? 'est claims' lists them all"),
        (("est.loss.",), "unknown claim 'est.loss.': did you mean 'est.loss'? 'est claims' lists them all"),
        (("est.flatnes.*",), "unknown claim 'est.flatnes.*': did you mean 'est.flatness'? 'est claims' lists them all"),
        (("--origin", "us"), "unknown origin 'us': did you mean 'ours'? Known: asked, ours, paper"),
        (("--paper", "rapt"), "unknown paper 'rapt': did you mean 'raptr'? Known: est, raptr"),
        (
            ("--verdict", "refute"),
            "unknown verdict 'refute': did you mean 'refuted'? Known: inconclusive, refuted, supported, untested",
        ),
        (("--json", "--markdown"), "--html, --markdown and --json exclude each other: give one"),
        (("--data", "nowhere"), "no folder 'nowhere'; give --data the repository's paper_figures/data"),
        (("--html", "."), "cannot write '.': Is a directory; give --html another file"),
    ],
)
def test_errors_are_one_line(est, data, arguments, error):
    place = () if "--data" in arguments else ("--data", data)
    assert est("claims", *arguments, *place).error == error


def test_an_empty_folder_leaves_all_untested(est, tmp_path):
    records = shown(est("claims", "--json", "--data", tmp_path))
    assert {record["verdict"] for record in records} == {"untested"}


# The page -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(est, data, tmp_path):
    assert "claims.html" in est("claims", "--data", data, "--html", tmp_path / "new" / "claims.html").out
    return tmp_path / "new" / "claims.html"


def test_the_page_holds_everything_and_loads_nothing(page, est, data):
    text = page.read_text()
    assert re.findall(r'<details id="([^"]*)"', text) == list(CLAIMS)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", text)
    assert not re.findall(r"https?://", text)
    assert text.count("data:image/svg+xml") == 1  # once, however many claims it belongs to
    with_figure = [
        one["id"] for one in shown(est("claims", "--json", "--data", data)) if one["figure"] == "est_figure3"
    ]
    assert "est.loss" in with_figure
    assert text.count('data-figure="est_figure3"') == len(with_figure)
    for words in ("est-0000", "est run reproduce --scale quick", "intervals of 95 % over seeds were judged"):
        assert words in text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page with")


def opened(page, hash="", *options):
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", *options,
         f"{page.as_uri()}{hash}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


ON_STEP_TIMES = ("est.printed-speed-ups.tinyllama-steps", "est.costs.micro-batch-tinyllama")


@browser
@pytest.mark.parametrize(
    ("hash", "keep"),
    [
        ("", lambda one: True),
        ("#origin=ours", lambda one: one["origin"] == "ours"),
        ("#paper=EST&verdict=refuted", lambda one: one["paper"].startswith("EST") and one["verdict"] == "refuted"),
        ("#search=step+times%20tinyllama's", lambda one: one["id"] in ON_STEP_TIMES),
    ],
)
def test_the_filters_filter(page, est, data, hash, keep):
    dom = opened(page, hash, "--dump-dom")
    tags = re.findall(r"<details ([^>]*)>", dom)
    found = [re.search('id="([^"]*)"', tag)[1] for tag in tags if "hidden" not in tag]
    assert found == [one["id"] for one in shown(est("claims", "--json", "--data", data)) if keep(one)]
    assert f"{len(found)} of {len(CLAIMS)} claims" in dom


@browser
def test_an_address_opens_a_claim_with_its_figure(page):
    dom = opened(page, "#est.loss", "--dump-dom")
    opens = re.findall(r'<details id="([^"]*)"[^>]* open=""', dom)
    assert opens == ["est.loss"]
    assert dom.count("<img") == 2


@browser
@pytest.mark.parametrize("width", [1200, 390])
def test_the_filters_do_not_hide_a_claim_that_was_opened(page, width):
    at = "getBoundingClientRect()"
    probe = f"document.querySelector('form').{at}.bottom + '/' + document.getElementById('est.loss').{at}.top"
    placed = page.with_name("placed.html")
    placed.write_text(page.read_text().replace("</body>", f"<script>document.title = {probe};</script></body>"))
    dom = opened(placed, "#est.loss", "--dump-dom", f"--window-size={width},800")
    filters, claim = map(float, re.search(r"<title>(.+)/(.+)</title>", dom).groups())
    assert 0 < filters < claim < 200


@browser
def test_nothing_is_wider_than_a_phone(page):
    """Every claim open, in a window of a phone's width: the page does not scroll sideways."""
    probe = "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth;</script></body>"
    wide = page.with_name("open.html")
    wide.write_text(page.read_text().replace("<details ", "<details open ").replace("</body>", probe))
    dom = opened(wide, "", "--dump-dom", "--window-size=390,800")
    scroll, window = map(int, re.search(r"<title>(\d+)/(\d+)</title>", dom).groups())
    assert scroll <= window <= 500


# The Markdown table ---------------------------------------------------------------------------------------------------


def test_the_markdown_table_has_a_row_a_group(est, data):
    out = est("claims", "--markdown", "--data", data).out
    lines = out.splitlines()
    assert lines[0] == "| claim | statement | measured [95 %] | verdict |"
    assert lines[-1].startswith("✓ supported; ")
    rows = [line for line in lines if line.startswith("| `")]
    groups = [re.match(r"\| `([^`]*)`", row)[1] for row in rows]
    by_name = [name.rpartition(".")[0] if name.count(".") > 1 else name for name in CLAIMS]
    alone = {group: name for group, name in zip(by_name, CLAIMS, strict=True) if by_name.count(group) == 1}
    assert groups == [alone.get(group, group) for group in dict.fromkeys(by_name)]
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    (row,) = (row for row in rows if "`grid.est-full`" in row)
    assert row == (
        "| `grid.est-full` | EST ends no worse than the full model after equally many steps. *(paper, ours)* | "
        f"{', '.join(f'{family} ·' for family in FAMILIES)} | {len(FAMILIES)} untested |"
    )
    (row,) = (row for row in rows if "`est.printed-savings`" in row)
    assert "msg 22.73 % ✗" in row
    assert row.endswith("| 4 supported, 2 refuted (exact) |")
