"""The grid from measured data: every method's distance from the full model, and the loss against FLOPs.

`python paper_figures/grid.py` does what `est figures grid` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "grid", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
