"""Downstream proxies from measured data: scores by method, and score against Hessian trace at equal loss.

`python paper_figures/est_downstream.py` does what `est figures est-downstream` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-downstream", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
