"""What the pages show can be typed, and is what the committed data give."""

import re
import shlex
from pathlib import Path
from runpy import run_path

import pytest
from typer.testing import CliRunner

from est_analysis.__main__ import app
from est_analysis.methods import METHODS, build_method
from est_analysis.methods.card import Card, method_card
from est_analysis.models.families import build_model, find_preset
from est_analysis.models.hf import save_folder
from est_analysis.subnet.cost import find_architecture

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
        parts += len(re.findall(r"<!-- (\w+\.md|scales [\w ]+|output of .+) -->", text))
        changed = re.sub(r"` \| -?\d\.\d+x? \[", "` | 9.999 [", text)
        if page.name == "README.md":
            assert changed != text
            assert script["filled"](changed, judged) == text
    assert parts >= 9


def blocks(word):
    """The Python of README that holds `word`."""
    return [code for code in re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), flags=re.DOTALL) if word in code]


def test_the_first_python_runs(tmp_path):
    save_folder(build_model(find_preset("tiny", vocab_size=256)), tmp_path)
    (code,) = blocks("load_folder")
    names = {}
    exec(code.replace("any/gpt2/folder", str(tmp_path)), names)
    assert names["logits"].shape == (2, 128, 256)


def test_the_method_has_a_card_and_draws():
    (code,) = blocks("class Window")
    known = dict(METHODS)
    try:
        exec(code, {"__name__": "mine"})
        assert method_card(METHODS["window"]) == Card(
            summary="One contiguous run of layers is bypassed.", source="mine"
        )
        shape = find_architecture("gpt2").stack
        method = build_method("window", shape=shape, schedule="1:1,1,0.25; 2:1,1,1", total_steps=10, seed=0)
        drawn = [method.mask(step) for step in range(1, 6)]
        assert {sum(layer is not None for layer in mask.layers) for mask in drawn} == {3}
        assert len({mask.layers for mask in drawn}) > 1
    finally:
        METHODS.clear()
        METHODS.update(known)
