"""A tidy frame without noise, whose every effect is known: the oracle of the tests beside it."""

import numpy as np
import pandas as pd

STEPS, WINDOW = 600, 10
# A stage's end as a part of the run, and its layer FLOPs and its step time as parts of the full model's.
STAGES = {
    "full": [(1.0, 1.0, 1.0)],
    "est": [(2 / 15, 0.25, 0.5), (7 / 15, 0.5, 0.7), (1.0, 1.0, 1.0)],
    "raptr": [(0.25, 0.5, 0.6), (0.5, 2 / 3, 0.75), (0.75, 5 / 6, 0.9), (1.0, 1.0, 1.0)],
}
SUBNETWORK_GAP = {"full": [0.0], "est": [0.6, 0.3, 0.0], "raptr": [0.4, 0.25, 0.1, 0.0]}
FINAL_GAP = {"full": 0.0, "est": -0.02, "raptr": 0.005}
TRACE = {"full": 2000.0, "est": 1000.0, "raptr": 1500.0}
LAYER, HEAD = 6e9, 2e9  # FLOPs of one full step
# What EST's sampling costs at half rates: of 4 heads, drawn as a fixed number or each by itself, 192 columns, 6 layers.
COSTS = {"heads": 0.1, "heads_bernoulli": 0.15, "columns": 0.2, "width": 0.3, "layers": 0.35}
LAYERS_FIRST_ORDER = 0.3
SHRINKS = 0.8  # at the second transition, what heads and columns cost


def _sampling() -> dict[str, dict[int, float]]:
    """Costs of drawn masks and the forms that predict just these, at EST's two transitions."""
    found: dict[str, dict[int, float]] = {}
    first, second = (round(end * STEPS) for end, _, _ in STAGES["est"][:2])
    for step, stages, size in ((first, (0, 1), 1.0), (second, (1, 2), SHRINKS)):
        values = {
            "slope_layers": -2 * LAYERS_FIRST_ORDER,
            # 1/2 4/3 (units - total / 4) = 0.1 and 1/2 units = 0.15
            "fisher_heads_units": 0.3 * size,
            "fisher_heads_total": 0.6 * size,
            "fisher_columns_units": 0.4 * 191 / 192 * size,
            "fisher_columns_total": 0.0,
            "fisher_layers_units": 0.2,
            "fisher_layers_total": 0.1,
            "count_heads": 4.0,
            "count_columns": 192.0,
            "count_layers": 6.0,
        }
        for stage in stages:
            rates = ((0.5, 0.5, 0.5), (0.5, 0.5, 1.0), (1.0, 1.0, 1.0))[stage]
            values |= {f"stage{stage}_rate_{k}": p for k, p in zip(("heads", "columns", "layers"), rates, strict=True)}
            if stage < 2:
                values[f"stage{stage}_all_cost"] = SUBNETWORK_GAP["est"][stage]
                for part, cost in COSTS.items():
                    if part != "layers" or stage == 0:
                        scale = 1.0 if part == "layers" else size
                        values[f"stage{stage}_{part}_first_order"] = 0.01  # of the masks that were drawn
                        values[f"stage{stage}_{part}_cost"] = scale * cost + 0.01 * (part != "layers")
                        values[f"stage{stage}_{part}_second_order"] = scale * cost - (part == "layers") * 0.3
        for name, value in values.items():
            found.setdefault(name, {})[step] = value
    return found


def _run(method: str, seed: int) -> dict[str, dict[int, float]]:
    ends = [round(end * STEPS) for end, _, _ in STAGES[method]]
    steps = np.arange(WINDOW, STEPS + 1, WINDOW)
    stage = np.searchsorted(ends, steps)
    parts = np.array([part for _, part, _ in STAGES[method]])[stage]
    times = np.array([time for _, _, time in STAGES[method]])[stage]
    # EST starts behind and ends ahead, so that its last stage is the steeper one.
    behind = 0.3 * (1 - steps / STEPS) if method != "full" else 0.0
    loss = 3.0 + 4.0 * np.exp(-steps / 150) + behind + FINAL_GAP[method] + 0.01 * seed
    layer = np.cumsum(parts * LAYER * WINDOW)
    series = {
        "train_loss": loss + np.array(SUBNETWORK_GAP[method])[stage],
        "learning_rate": 1e-3 * (1 - steps / STEPS),
        "stage": stage.astype(float),
        "step_seconds": 0.1 * times,
        "layer_flops": layer,
        "total_flops": layer + HEAD * steps,
    }
    found = {name: dict(zip(steps.tolist(), values.tolist(), strict=True)) for name, values in series.items()}
    at = sorted({*range(50, STEPS + 1, 50), *ends})
    found["validation_loss"] = {step: float(np.interp(step, steps, loss)) for step in at}
    found["hessian_trace"] = {STEPS: TRACE[method] * (1 + 0.02 * seed)}
    found["hessian_trace_stderr"] = {STEPS: 40.0}
    return found | (_sampling() if method == "est" else {})


def tidy_frame(
    *, methods: tuple[str, ...] = ("full", "est", "raptr"), seeds: tuple[int, ...] = (0, 1, 2)
) -> pd.DataFrame:
    """Runs of `methods` with `seeds` in the data contract's columns."""
    rows = [
        (f"{method}-{seed:04d}", method, f"{method}-schedule", seed, step, metric, value)
        for method in methods
        for seed in seeds
        for metric, values in _run(method, seed).items()
        for step, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["run_id", "method", "schedule", "seed", "step", "metric", "value"])
