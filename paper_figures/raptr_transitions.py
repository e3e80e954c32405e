"""What a stage transition does to the loss, with and without residual connections, layer norm and scaling.

`python paper_figures/raptr_transitions.py` does what `est figures raptr-transitions` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "raptr-transitions", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
