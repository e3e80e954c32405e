"""EST's Figure 3 from measured data: training and validation loss against step, beside the full model's.

`python paper_figures/est_figure3.py` does what `est figures est-figure3` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-figure3", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
