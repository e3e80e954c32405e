"""EST's Figure 2 from measured data: the training loss around stage transitions.

`python paper_figures/est_figure2.py` does what `est figures est-figure2` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-figure2", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
