"""RaPTr's polynomial experiment from measured data: what each method learns of each degree, and what is left.

`python paper_figures/raptr_polynomials.py` does what `est figures raptr-polynomials` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "raptr-polynomials", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
