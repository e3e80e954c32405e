"""The parts of README.md that are generated: the table of claims, and tables that `est figures` wrote beside this file.

`python paper_figures/readme.py` fills them in; what is between `<!-- NAME.md -->` and `<!-- end -->` is
the table of the file of that name. A test keeps them equal.
"""

import re
from pathlib import Path

from est_analysis.claims.evidence import judge_all
from est_analysis.report.claims_table import BEGIN, END, markdown_table

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "README.md"


def filled(text: str) -> str:
    """`text` of a README with its generated parts as the committed data give them."""
    text = re.sub(rf"{BEGIN}.*{END}", lambda _: markdown_table(judge_all(FOLDER / "data")), text, flags=re.DOTALL)
    return re.sub(r"(<!-- (\w+\.md) -->\n).*?(<!-- end -->)", _table, text, flags=re.DOTALL)


def _table(found: re.Match) -> str:
    begin, name, end = found.groups()
    rows = [line for line in (FOLDER / name).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return begin + "".join(f"{row}\n" for row in rows) + end


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
