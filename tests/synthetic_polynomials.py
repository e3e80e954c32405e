"""A tidy frame of polynomial runs without noise, whose every effect is known; all seeds of a method share a run_id."""

import pandas as pd

STEPS, TAIL, DEGREES, LAYERS = 120, 12, (1, 2, 3), 12
TRANSITIONS = (30, 60, 90)
DEPTHS = (6, 8, 10, 12)
# What is left at the end of each degree, before and after the tail.
LEFT = {"full": (0.0, 0.0, 0.1), "raptr": (0.0, 0.1, 0.2), "pld": (0.1, 0.3, 0.8)}
AFTER_TAIL = {"full": 0.1, "raptr": 0.15, "pld": 0.5}
# Relative change at each transition, and the relative loss there.
CHANGES = {
    "raptr": ((-0.1, -0.2, -0.3), 0.5),
    "raptr/no-norm": ((0.5, 0.2, -0.1), 0.5),
    "raptr/no-residual": ((0.01, 0.0, -0.01), 0.97),
    "raptr/sqrt_gap": ((-0.05, -0.1, -0.15), 0.5),
    "pld": ((0.02, 0.0, -0.02), 0.5),
    "gradual_stacking": ((2.0, 1.0, 3.0), 0.5),
}
VARIANCE = (4.0, 6.0, 8.0)  # of the target of each seed
SEED_SHIFT = 0.01  # what seed number 1 adds to every error and change


def _rows(label: str, seed: int, *, tail: bool) -> list[tuple[int, str, float]]:
    method = label.split("/")[0]
    staged, shift, variance = method != "full", SEED_SHIFT * seed, VARIANCE[seed]
    changes, learned = CHANGES.get(label, ((0.0, 0.0, 0.0), 0.5))
    found = []
    spent = 0.0
    for step in range(10, STEPS + 1, 10):
        stage = sum(step > end for end in TRANSITIONS) if staged else 0
        depth = DEPTHS[stage] if staged else LAYERS
        spent += 10.0 * depth
        found += [(step, "stage", float(stage)), (step, "active_layers", float(depth)), (step, "layer_flops", spent)]
        found += [(step, "train_loss", 2 * variance * (1 - step / 200))]
    for step in range(0, STEPS + 1, 30):
        done = step / STEPS
        for degree, left in zip(DEGREES, LEFT.get(method, LEFT["raptr"]), strict=True):
            found.append((step, f"error_{degree}", 1 - done * (1 - left) + shift))
        relative = learned if 0 < step < STEPS else 1.0 if step == 0 else 0.25
        found += [(step, "relative_loss", relative), (step, "validation_loss", relative * variance)]
    for step, change in zip(TRANSITIONS, changes, strict=True):
        if staged:
            before = 0.5 * variance
            found += [(step, "subnet_loss_before", before), (step, "subnet_loss_after", before * (1 + change + shift))]
    if tail:
        last = AFTER_TAIL.get(method, 0.2)
        found += [(STEPS + TAIL, f"tail_error_{degree}", last + shift) for degree in DEGREES]
        found += [(STEPS + TAIL, "tail_active_layers", float(LAYERS))]
    return found


def polynomial_frame(
    *, methods: tuple[str, ...] = ("full", "raptr", "pld"), seeds: tuple[int, ...] = (0, 1, 2), tail: bool = True
) -> pd.DataFrame:
    """Runs of `methods` (labels such as `raptr/no-norm`) with `seeds` in the data contract's columns."""
    rows = [
        (f"{label}-bank", label, "a schedule", seed, step, metric, value)
        for label in methods
        for seed in seeds
        for step, metric, value in _rows(label, seed, tail=tail)
    ]
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "seed", "step", "metric", "value"])
