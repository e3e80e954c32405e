"""Adds how runs were made to runs.jsonl, for every run_id in the CSV files here (`est_analysis.committed.collect`).

    python paper_figures/data/runs.py runs reports

Give the folders that hold the runs' own folders. What runs.jsonl knows already stays as it is. Exit status 1 if runs
are left that no folder knows. 'est claims --run RUN_ID' shows one.
"""

import sys
from pathlib import Path

from est_analysis.committed.collect import collect_runs
from est_analysis.errors import InputError

if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]]
    if not folders or any(name in ("-h", "--help") for name in sys.argv[1:]):
        sys.exit(__doc__)
    try:
        found = collect_runs(folders, Path(__file__).parent)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{len(found.added)} runs added; of {len(found.not_kept)} in the file the environment was not kept")
    if found.missing:
        sys.exit(
            f"no folder knows {len(found.missing)} committed runs: {', '.join(found.missing[:5])}, ...; give theirs"
        )
