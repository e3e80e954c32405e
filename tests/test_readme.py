"""What the pages show can be typed, and is what the committed data give."""

import re
import shlex
from pathlib import Path
from runpy import run_path

import pytest
from typer.testing import CliRunner

from est_analysis.__main__ import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / name for name in ("README.md", "paper_figures/README.md", "paper_figures/claims.md", "benchmarks/README.md")
]
of_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@of_page
def test_every_command_and_option_exists(page):
    commands = re.findall(
        r"^(?:est|torchrun .* -m est_analysis) (.*?)(?:\s+#.*)?$", page.read_text(), flags=re.MULTILINE
    )
    assert len(commands) >= 5 or page != PAGES[0]
    for line in commands:
        name, *arguments = shlex.split(line)
        described = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [name, "--help"])
        assert described.exit_code == 0, line
        for option in (word for word in arguments if word.startswith("--")):
            assert option in described.output, f"{option} of: est {line}"


@of_page
def test_every_make_target_link_and_heading_exists(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) - {"and"} <= targets
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("https://"):
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not heading or heading in headings(target.read_text()), link


def headings(text):
    """The anchors that GitHub gives the headings of `text`."""
    lines = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_generated_parts_are_what_the_data_give():
    script = run_path(str(ROOT / "paper_figures" / "readme.py"))
    judged = script["judge_all"](ROOT / "paper_figures" / "data")
    parts = 0
    for page in script["PAGES"]:
        text = page.read_text()
        assert script["filled"](text, judged) == text, "run paper_figures/readme.py"
        parts += len(re.findall(r"<!-- (\w+\.md|scales [\w ]+|audit|claims:begin) -->", text))
        changed = re.sub(r"` \| -?\d\.\d+x? \[", "` | 9.999 [", text)
        assert script["filled"](changed, judged) == text
        assert changed != text or page.name in ("claims.md", "est_audit.md")
    assert parts >= 9
