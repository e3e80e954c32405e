"""EST's Figure 4 from measured data: training and validation loss of a Llama, beside the full model's.

`python paper_figures/est_figure4.py` does what `est figures est-figure4` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-figure4", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
