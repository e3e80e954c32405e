"""RaPTr's lemma from measured data: how much a net at initialisation moves when one layer is bypassed.

`python paper_figures/raptr_stability.py` does what `est figures raptr-stability` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "raptr-stability", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
