"""How much faster than the full model every contender of the grid trains by the clock, beside what its FLOPs allow.

    python benchmarks/grid_clock.py --out paper_figures/data/grid_clock.csv

The grid's own runs with fewer steps, whose stages are as long a share of them: every family and contender once a round,
one after the other on one thread, in an order that is drawn anew, after one run of the family that does not count.
Seconds are those of training steps; evaluation is not in them. Ratios are of one round, means over rounds with 95 % t
intervals of the logarithm. The machine has to have nothing else to do.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from est_analysis.claims.grid import FAMILIES
from est_analysis.claims.statistics import final, geometric_mean, run_seconds
from est_analysis.experiments.language_models.grid import SCALES, entries
from est_analysis.experiments.runs.side_by_side import run_all
from est_analysis.plots import in_order, method_style


def timed_round(number: int, *, families: tuple[str, ...], steps: int, corpus: str = "python") -> pd.DataFrame:
    """Seconds and FLOPs of every contender, one row each; the round is the seed."""
    scale = replace(
        SCALES["quick"], families=families, steps=steps, budgets=(), seeds=(number,), validation_tokens=1024
    )
    found = []
    for family in families:
        runs = [entry for entry in entries(scale, corpus=corpus) if entry.labels["family"] == family]
        cold = replace(runs[0], spec=replace(runs[0].spec, seed=1_000 + number))
        drawn = np.random.default_rng(number).permutation(len(runs))
        with tempfile.TemporaryDirectory() as root:
            rows = run_all([cold, *(runs[place] for place in drawn)], root=Path(root), workers=0)
        for method, run in rows[rows["seed"] == number].groupby("method"):
            seconds, flops = run_seconds(run, method)[number], final(run, method, "total_flops")[number]
            found.append(
                {"family": family, "method": method, "round": number, "seconds": seconds, "total_flops": flops}
            )
    return pd.DataFrame(found)


def table(rows: pd.DataFrame) -> str:
    """As Markdown: one row a contender, one column a family, `measured [95 %] of allowed`."""
    families = [family for family in FAMILIES if family in set(rows["family"])]
    lines = [
        f"| contender | {' | '.join(FAMILIES[family] for family in families)} |",
        "|---" * (1 + len(families)) + "|",
    ]
    for method in in_order(rows.loc[rows["method"] != "full", "method"]):
        cells = [_cell(rows[rows["family"] == family].set_index("round"), method) for family in families]
        lines.append(f"| {method_style(method).label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: pd.DataFrame, method: str) -> str:
    full, ours = (rows[rows["method"] == name] for name in ("full", method))
    found = geometric_mean(np.log(full["seconds"] / ours["seconds"]), unit="x", detail="")
    low, high = found.interval or (found.effect, found.effect)
    allowed = float((full["total_flops"] / ours["total_flops"]).mean())
    return f"{found.effect:.2f}x [{low:.2f}, {high:.2f}] of {allowed:.2f}x"


def main() -> int:
    """Time, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV for the rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of every run")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="one of the four; all unless given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    families = tuple(options.family or FAMILIES)
    rows = pd.concat([timed_round(one, families=families, steps=options.steps) for one in range(options.rounds)])
    if options.out:
        rows.assign(seconds=rows["seconds"].round(5)).to_csv(options.out, index=False)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
