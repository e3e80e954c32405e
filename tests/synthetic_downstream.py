"""Checkpoints along runs whose every downstream effect is known.

score = 60 - 10 loss - SLOPE (log trace - 8) + SHIFT of the method + a constant of the seed, in percent.
"""

import numpy as np
import pandas as pd

SLOPE = 2.0
SHIFTS = {"full": 0.0, "est": 3.0, "raptr": 0.0, "dropout": 0.0, "full/est-rate": 0.0}
LOSSES = {"full": 2.0, "est": 2.1, "raptr": 2.05, "dropout": 2.2, "full/est-rate": 2.15}
STEPS = (280, 360, 480, 600)
TASKS = ("last_word", "probe_kinds", "probe_library", "finetune_library")
ALONG = TASKS[:2]
CHANCE = 0.1


def downstream_frame(slope=SLOPE, shifts=SHIFTS, seeds=(0, 1, 2), steps=STEPS):
    """Rows on `text` and, with other numbers, on `hmm`; log traces are drawn anew for every checkpoint."""
    draw, rows = np.random.default_rng(0), []
    for corpus in ("text", "hmm"):
        for method, last in LOSSES.items():
            for seed in seeds:
                run = (f"{corpus}-{method}-{seed}", method, f"{method}-schedule", seed)
                for step in (80, *steps):
                    loss = last + 0.002 * (600 - step) + (1 if corpus == "hmm" else 0)
                    log_trace = 8 + draw.normal() * 0.5
                    score = (60 - 10 * loss - slope * (log_trace - 8) + shifts[method] + 0.2 * seed) / 100
                    values = {"validation_loss": loss, "hessian_trace": np.exp(log_trace)}
                    if step in steps:
                        for task in TASKS if step == 600 else ALONG:
                            values |= {f"downstream_{task}": score, f"downstream_{task}_stderr": 0.01}
                            values |= {f"downstream_{task}_chance": CHANCE} if step == 600 else {}
                    rows += [(*run, step, name, value, corpus, 2e-3) for name, value in values.items()]
    columns = ["run_id", "method", "schedule", "seed", "step", "metric", "value", "corpus", "lr"]
    return pd.DataFrame(rows, columns=columns)
