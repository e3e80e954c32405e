"""The first experiments from measured data: distances from the full net, stacks without parts, linear nets.

`python paper_figures/first_experiments.py` does what `est figures first-experiments` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "first-experiments", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
