"""First experiments without noise whose every effect is known: all that the claims assert holds in them."""

from itertools import combinations, product

import numpy as np
import pandas as pd

STEPS, EVERY = 720, 48
TRANSITIONS = (240, 480)
FULL_FLOPS = {"digits": 1e9, "polynomial": 1e8}
# Final loss minus the full net's, by net and method.
GAPS = {
    "mlp": {
        "full": 0.0, "short": 0.05, "est": 0.002, "est/unscaled": 0.1, "dropout": 0.004, "est/one-stage": 0.2,
        "est/linear": 0.01, "est/exponential": 0.02, "est/step": 0.04, "est/flat": 0.03,
    },
    "stack": {
        "full": 0.0, "short": 0.02, "est": 0.001, "raptr": 0.005, "raptr/sqrt_gap": 0.004, "raptr/linear_gap": 0.02,
        "raptr/linear": 0.02, "raptr/exponential": 0.03, "raptr/step": 0.05, "raptr/warm-up": 0.003,
    },
    "stack/no-norm": {"full": 0.0, "est": 0.05, "raptr": 0.06},
    "stack/no-residual": {"full": 0.0, "est": 0.15, "raptr": 0.16},
}  # fmt: skip
# Relative change of the subnetwork's loss at every transition.
CHANGES = {
    ("stack", "raptr/sqrt_gap"): -0.05,
    ("stack", "raptr/linear_gap"): 0.4,
    **{("stack/no-norm", method): 0.3 for method in ("est", "raptr")},
    **{("stack/no-residual", method): 1.5 for method in ("est", "raptr")},
}
USUAL_CHANGE = -0.1
FULL_LOSS = 0.2


def _net_rows(task, net, method, seed):
    """(step, metric, value) of one run; seeds differ by a constant that pairs cancel."""
    end = FULL_LOSS + GAPS[net][method] + 0.01 * seed
    for step in range(0, STEPS + 1, EVERY):
        yield step, "validation_loss", end + 0.1 * (1 - step / STEPS)
    yield STEPS, "layer_flops", FULL_FLOPS[task] * (1.0 if method == "full" else 0.75)
    if task == "digits":
        yield STEPS, "accuracy", 97.0 - GAPS[net][method] - 0.1 * seed
    if method.startswith(("est", "raptr")):
        for step in TRANSITIONS:
            before = end + 0.2
            change = CHANGES.get((net, method), USUAL_CHANGE)
            yield step, "subnet_loss_before", before
            yield step, "subnet_loss_after", before * (1 + change)


def enumerated(target, left, right, law):
    """Mean of |Y - U diag(gates) V'|^2 over all masks at rate 1/2, by brute force."""
    n = left.shape[1]
    if law == "bernoulli":
        masks = [np.array(one) for one in product((0.0, 2.0), repeat=n)]
    else:
        masks = [2.0 * np.isin(np.arange(n), one) for one in combinations(range(n), n // 2)]
    return float(np.mean([np.square(target - (left * mask) @ right.T).sum() for mask in masks]))


def _linear_rows(method, seed):
    """Sampled nets have four units alike, up to what makes the product of rank 2; the full net's are not."""
    draw = np.random.default_rng(seed)
    left = np.kron(np.eye(2), np.ones((1, 2)))  # units 1, 2 and 3, 4 are twins: balanced
    right = left.copy()
    if method == "full":
        left, right = 1.5 * left * [1.0, 0.2, 1.0, 0.2], 1.5 * right * [1.0, 0.2, 1.0, 0.2]
    target = left @ right.T + 0.1 * draw.normal(size=(2, 2))
    yield "full_loss", float(np.square(target - left @ right.T).sum())
    for law in ("fixed_size", "bernoulli"):
        yield f"masked_loss_{law}", enumerated(target, left, right, law)
    yield "nuclear_norm", float(np.linalg.svd(left @ right.T, compute_uv=False).sum())
    for name, matrix in (("left", left), ("right", right)):
        yield from ((f"{name}_{row}_{unit}", float(matrix[row, unit])) for row, unit in np.ndindex(matrix.shape))


def first_frame(*, seeds=(0, 1, 2)):
    """All trainings on both tasks, and the linear nets; all seeds of a training share a run_id."""
    columns = ["run_id", "method", "schedule", "seed", "step", "metric", "value", "task", "net", "lr"]
    rows = [
        (f"{task}-{net}-{method}", method, "a schedule", seed, *row, task, net, 1e-2)
        for task, net, seed in product(FULL_FLOPS, GAPS, seeds)
        for method in GAPS[net]
        for row in _net_rows(task, net, method, seed)
    ]
    rows += [
        (f"linear-{method}", method, "", seed, STEPS, metric, value, "linear", "linear", 4e-3)
        for method, seed in product(("full", "est", "est/bernoulli"), seeds)
        for metric, value in _linear_rows(method, seed)
    ]
    return pd.DataFrame(rows, columns=columns)
