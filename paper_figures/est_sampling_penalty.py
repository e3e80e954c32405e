"""What EST's sampling costs at its transitions, from measured data: drawn masks, second order, the training curve.

`python paper_figures/est_sampling_penalty.py` does what `est figures est-sampling-penalty` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "est-sampling-penalty", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
