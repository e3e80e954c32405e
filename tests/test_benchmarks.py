"""The benchmark of the grid's clock: planted seconds, and that it runs. (EST's tables of times: `exhibits`.)"""

from pathlib import Path
from runpy import run_path

import pandas as pd

from est_analysis.experiments.language_models.contenders import CONTENDERS

CLOCK = run_path(str(Path(__file__).parents[1] / "benchmarks" / "grid_clock.py"))


def test_ratios_are_of_one_round_and_beside_what_flops_allow():
    """Planted: a machine that is half as fast in the second round; EST takes 0.8 of the time and 0.75 of the FLOPs."""
    rows = pd.DataFrame(
        {"family": family, "method": method, "round": number, "seconds": share * (1 + number), "total_flops": flops}
        for family in ("gpt2", "t5")
        for method, share, flops in (("full", 10.0, 4e9), ("est", 8.0, 3e9))
        for number in (0, 1)
    )
    assert CLOCK["table"](rows).splitlines() == [
        "| contender | GPT-2 | T5 |",
        "|---|---|---|",
        "| EST | 1.25x [1.25, 1.25] of 1.33x | 1.25x [1.25, 1.25] of 1.33x |",
    ]


def test_it_runs(monkeypatch, shared):
    monkeypatch.setenv("EST_ANALYSIS_CACHE", str(shared / "cache"))
    rows = CLOCK["timed_round"](3, families=("gpt2",), steps=12, corpus=str(shared / "text.txt"))
    assert set(rows["method"]) == set(CONTENDERS)
    assert (rows["round"] == 3).all()
    flops = rows.set_index("method")["total_flops"]
    assert flops["est"] < 0.8 * flops["full"]
    assert (rows["seconds"] > 0).all()
