"""Final loss against learning rate for every method: the sweep behind the quick recipe.

`python paper_figures/learning_rates.py` does what `est figures learning-rates` does; it loads no torch.
"""

import sys
from functools import partial
from pathlib import Path

from est_analysis.exhibits.script import run_script

main = partial(run_script, "learning-rates", folder=Path(__file__).resolve().parent)

if __name__ == "__main__":
    sys.exit(main())
