"""EST's ablations from measured data: what each dimension costs, loss against saving, and Table 3 beside ours.

`python paper_figures/est_ablations.py` does what `est figures est-ablations` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-ablations", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
