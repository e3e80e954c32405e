"""What the README shows can be typed, and is what the committed data give."""

import re
import shlex
from pathlib import Path
from runpy import run_path

from typer.testing import CliRunner

from est_analysis.__main__ import app

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_every_command_and_option_exists():
    commands = re.findall(r"^(?:est|torchrun .* -m est_analysis) (.*?)(?:\s+#.*)?$", TEXT, flags=re.MULTILINE)
    assert len(commands) >= 5
    for line in commands:
        name, *arguments = shlex.split(line)
        described = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [name, "--help"])
        assert described.exit_code == 0, line
        for option in (word for word in arguments if word.startswith("--")):
            assert option in described.output, f"{option} of: est {line}"


def test_every_make_target_and_link_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", TEXT)) - {"and"} <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_generated_parts_are_what_the_data_give():
    filled = run_path(str(ROOT / "paper_figures" / "readme.py"))["filled"]
    assert len(re.findall(r"<!-- (\w+\.md|claims:begin) -->", TEXT)) >= 4
    assert filled(TEXT) == TEXT, "run paper_figures/readme.py"
    head, _, tail = TEXT.partition("| EST | +0.")
    assert filled(head + "| EST | +9." + tail) == TEXT
