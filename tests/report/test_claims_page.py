"""The page of claims: its figures have words for those who cannot see them."""

import re

from est_analysis.claims.evidence import _FIGURES, judge_all
from est_analysis.committed import DATA
from est_analysis.report.claims_page import FIGURE_TITLES, build_claims_page


def test_every_figure_of_a_claim_has_a_title_of_its_own():
    assert FIGURE_TITLES.keys() == {name for *_, name in _FIGURES if name}
    assert len(set(FIGURE_TITLES.values())) == len(FIGURE_TITLES)


def test_images_say_what_they_show(tmp_path):
    judged = [one for one in judge_all(DATA) if one.figure == "est_figure3"]
    page = build_claims_page(judged, tmp_path / "claims.html", figures=DATA.parent).read_text()
    assert re.findall(r'<img src="[^"]*" alt="([^"]*)"', page) == ["loss curves of GPT-2"]
