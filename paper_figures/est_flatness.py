"""Flatness along training from measured data: traces by step and by loss, ratios at equal loss, and EST's Table 5.

`python paper_figures/est_flatness.py` does what `est figures est-flatness` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-flatness", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
