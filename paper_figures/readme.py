"""Fills in what is generated of the pages: README.md, and README.md, claims.md and est_audit.md beside this file.

`python paper_figures/readme.py` does so, from the committed data:

- between `<!-- NAME.md -->` and `<!-- end -->` the table of the file of that name, which `est figures` wrote here;
- between `<!-- scales A B -->` and `<!-- end -->` what came of claims at the scales A and B, a row a claim, whose words
  and id are typed;
- between `<!-- output of est ... -->` and `<!-- end -->` what that command prints.

A test keeps pages and data equal.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from typer.testing import CliRunner

from est_analysis.__main__ import app
from est_analysis.claims.evidence import Judged, judge_all
from est_analysis.report.scales_table import filled_rows

FOLDER = Path(__file__).resolve().parent
PAGES = (FOLDER.parent / "README.md", *(FOLDER / name for name in ("README.md", "claims.md", "est_audit.md")))


def filled(text: str, judged: Sequence[Judged]) -> str:
    """`text` of a page with its generated parts as `judged` and the tables of this folder have them."""
    by_id = {one.claim.id: one for one in judged}

    def scales(found: re.Match) -> str:
        begin, names, rows, end = found.groups()
        return begin + "".join(f"{row}\n" for row in filled_rows(rows.splitlines(), names.split(), by_id)) + end

    text = re.sub(r"(<!-- scales ([\w ]+) -->\n)(.*?)(<!-- end -->)", scales, text, flags=re.DOTALL)
    text = re.sub(r"(<!-- output of est (.+?) -->\n).*?(<!-- end -->)", _output, text, flags=re.DOTALL)
    return re.sub(r"(<!-- (\w+\.md) -->\n).*?(<!-- end -->)", _table, text, flags=re.DOTALL)


def _output(found: re.Match) -> str:
    begin, arguments, end = found.groups()
    terminal = CliRunner(env={"COLUMNS": "110", "TERM": "dumb"})
    printed = terminal.invoke(app, shlex.split(arguments), catch_exceptions=False).output
    lines = [line.rstrip() for line in printed.splitlines()]
    if "--markdown" not in arguments:
        lines = ["```text", f"$ est {arguments}", *lines, "```"]
    return begin + "".join(f"{line}\n" for line in lines) + end


def _table(found: re.Match) -> str:
    begin, name, end = found.groups()
    rows = [line for line in (FOLDER / name).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return begin + "".join(f"{row}\n" for row in rows) + end


if __name__ == "__main__":
    judged = judge_all(FOLDER / "data")
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), judged), encoding="utf-8")
