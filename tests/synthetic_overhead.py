"""Times of steps whose extra is known."""

import pandas as pd

EXTRA = {"seconds_ready": 0.0, "seconds_inline": 1.5, "seconds_ahead": 0.1}  # percent over masks at hand
EXTRACTION = 3.0  # percent over a model of one mask's heads and columns


def overhead_frame(extra=EXTRA, extraction=EXTRACTION, seeds=5, rounds=42, spread=0.05):
    """Tidy rows; rounds get slower and slower, and one is an outlier, which a median of blocks must not see."""
    both = {"seconds_extracted": 0.0, "seconds_sampled": extraction}
    rows = [
        (f"est-{seed}", "est", "gpt2-est", seed, number, metric, base * slow * (1 + (percent + off) / 100))
        for seed in range(seeds)
        for number in range(rounds)
        for base, group in ((0.03, extra), (0.02, both))
        for metric, percent in group.items()
        for slow in [(1 + number / rounds) * (5 if number == 3 and metric == "seconds_inline" else 1)]
        for off in [spread * (seed - (seeds - 1) / 2) if percent else 0.0]
    ]
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "seed", "step", "metric", "value"])
