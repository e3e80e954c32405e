"""RaPTr's schedules beside stacking's, its scaling and its axis, from measured data.

`python paper_figures/raptr_ablations.py` does what `est figures raptr-ablations` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "raptr-ablations", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
