import html
import re
import subprocess
import sys

import pandas as pd
import pytest

from est_analysis.claims import CLAIMS, judge
from est_analysis.errors import InputError
from est_analysis.report import build, build_report
from est_analysis.report.layouts import TEXT
from est_analysis.report.reproduce import methods_table
from est_analysis.report.tables import effect_text

TEXT_CLAIMS = [claim for claim in CLAIMS.values() if claim.recipe == "reproduce"]
CONTEXT = {
    "scale": "quick",
    "recipe": "reproduce",
    "recipe_version": 3,
    "corpus": "Python source & notes",
    "num_parameters": 1_234_567,
    "tokens_per_run": 2_457_600,
    "tokens_per_parameter": 1.99,
    "seeds": [0, 1, 2],
    "contenders": {"est": "the one & only"},
    "environment": {"python": "3.12.1", "processor": "<two cores>"},
    "wall_seconds": 512.3,
    "command": "make reproduce",
}
FILES = {
    "report.html",
    "report.md",
    "rows.csv",
    "claims.csv",
    *(f"figures/{one.name}{ending}" for one in TEXT.illustrations for ending in (".png", ".svg")),
}


def written(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def report(make_frame, tmp_path_factory):
    return build_report(make_frame(), CONTEXT, tmp_path_factory.mktemp("report")).parent


def test_writes_every_file_and_nothing_else(report):
    assert set(written(report)) == FILES
    assert sorted(path.name for path in report.iterdir() if path.is_dir()) == ["figures"]


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_holds_every_number(report, make_frame, name):
    text = html.unescape((report / name).read_text())
    cells = methods_table(make_frame()).to_numpy().ravel().tolist()
    assert all(cell in text for cell in cells)
    for claim, verdict in zip(TEXT_CLAIMS, judge(TEXT_CLAIMS, make_frame(), "quick"), strict=True):
        for part in (claim.id, claim.statement, claim.locus, claim.threshold, effect_text(verdict), verdict.detail):
            assert part in text
    for fact in (
        "make reproduce",
        "1,234,567",
        "2,457,600",
        "512 s",
        "3.12.1",
        "<two cores>",
        "est-0002",
        "1.99",
        "EST: the one & only",
    ):
        assert fact in text
    assert "about 632 (78.6B tokens for 124M parameters)" in text


def test_methods_table_by_hand(make_frame):
    table = methods_table(make_frame()).set_index("method")
    assert table.loc["EST", "final validation loss"] == "3.0633 ± 0.0100"
    assert table.loc["EST", "layer FLOPs saved"] == "26.67 %"
    assert table.loc["EST", "total FLOPs saved"] == "20.00 %"
    assert table.loc["EST", "speed-up FLOPs allow"] == "1.250x"
    assert table.loc["EST", "speed-up measured"] == "1.200x"
    assert table.loc["full model", "speed-up measured"] == "1.000x"
    # traces 1000, 1020, 1040: standard deviation 20, over the root of 3
    assert table.loc["EST", "Hessian trace"] == "1020 ± 12"
    alone = methods_table(make_frame(seeds=(0,))).set_index("method")
    assert alone.loc["EST", "Hessian trace"] == "1000 ± 40"
    assert alone.loc["EST", "final validation loss"] == "3.0533"


def test_page_needs_nothing_from_outside(report):
    page = (report / "report.html").read_text()
    sources = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)", page)
    assert len(sources) == len(TEXT.illustrations)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<two cores>" not in page  # escaped


def test_markdown_links_figures_that_are_there(report):
    linked = re.findall(r"!\[.*?\]\((.*?)\)", (report / "report.md").read_text())
    assert len(linked) == len(TEXT.illustrations)
    assert all((report / path).is_file() for path in linked)


def test_markdown_tables_are_whole(report):
    blocks = re.findall(r"(?:^\|.*\|\n)+", (report / "report.md").read_text(), flags=re.MULTILINE)
    rows = [[line.count("|") for line in block.splitlines()] for block in blocks]
    assert [len(block) for block in rows] == [2 + 3, 2 + len(TEXT_CLAIMS), 2 + 9]
    assert all(len(set(block)) == 1 for block in rows)


def test_tables_read_back(report, make_frame):
    frame = make_frame()
    back = pd.read_csv(report / "rows.csv")
    keys = ["run_id", "metric", "step"]
    pd.testing.assert_frame_equal(
        back.sort_values(keys, ignore_index=True), frame.sort_values(keys, ignore_index=True), check_dtype=False
    )
    claims = pd.read_csv(report / "claims.csv")
    assert claims["id"].tolist() == [claim.id for claim in TEXT_CLAIMS]
    assert claims["verdict"].isin(["supported", "refuted", "inconclusive", "untested"]).all()


def test_same_rows_in_any_order_give_the_same_bytes(report, make_frame, tmp_path):
    shuffled = make_frame().sample(frac=1.0, random_state=0)
    build_report(shuffled, CONTEXT, tmp_path)
    assert written(tmp_path) == written(report)


@pytest.mark.parametrize("methods", [("full",), ("est",)])
def test_fewer_methods_degrade(make_frame, tmp_path, methods):
    page = build_report(make_frame(methods=methods, seeds=(0,)), {"scale": "smoke"}, tmp_path).read_text()
    assert page.count('data-label="verdict"') == len(CLAIMS)
    assert "an unrecorded number of tokens a parameter" in page


@pytest.mark.parametrize("metric", ["step_seconds", "validation_loss", "stage"])
def test_missing_metric_degrades(make_frame, tmp_path, metric):
    frame = make_frame(seeds=(0,))
    page = build_report(frame[frame["metric"] != metric], CONTEXT, tmp_path).read_text()
    assert "untested" in page


def test_figure_without_rows_says_why(make_frame, tmp_path):
    frame = make_frame(seeds=(0,))
    page = build_report(frame[~frame["metric"].str.startswith("hessian")], CONTEXT, tmp_path)
    assert "Not drawn: no rows of metric 'hessian_trace' to draw" in html.unescape(page.read_text())
    assert not (tmp_path / "figures" / "final_traces.png").exists()


def test_a_crash_leaves_the_previous_report(make_frame, tmp_path, monkeypatch):
    frame = make_frame(seeds=(0,))
    build_report(frame, CONTEXT, tmp_path)
    before = written(tmp_path)
    monkeypatch.setattr(build, "caveat", lambda context: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_report(frame, CONTEXT, tmp_path)
    assert written(tmp_path) == before


def test_bad_input_is_refused(make_frame, tmp_path):
    frame = make_frame(seeds=(0,))
    with pytest.raises(InputError, match="0 rows"):
        build_report(frame.head(0), CONTEXT, tmp_path)
    with pytest.raises(InputError, match="no 'scale'"):
        build_report(frame, {}, tmp_path)
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="give another folder"):
        build_report(frame, CONTEXT, tmp_path / "taken")
    assert not (tmp_path / "report.html").exists()


def test_plots_claims_and_report_load_no_torch():
    code = "import sys, est_analysis.plots, est_analysis.claims, est_analysis.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
