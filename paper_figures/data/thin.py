"""Thins the rows of a report to what figures and claims need, for committing (`est_analysis.committed.thin`).

    est run poly-raptr-vs-pld --scale report
    python paper_figures/data/thin.py reports/poly-raptr-vs-pld-report/rows.csv paper_figures/data/poly_raptr_vs_pld.csv

What it does not know it keeps whole.
"""

import sys
from pathlib import Path

import pandas as pd

from est_analysis.committed.thin import thin

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    thin(pd.read_csv(sys.argv[1], keep_default_na=False)).to_csv(Path(sys.argv[2]), index=False)
