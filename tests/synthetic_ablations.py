"""Ablations without noise whose every effect is known; a shorter full model pays exactly 0.3 nats times -ln(share)."""

import numpy as np
import pandas as pd

FULL_FLOPS, STEPS, PRICE = 1e12, 600, 0.3


def _shorter(saved):
    return -PRICE * np.log(1 - saved / 100)


SAVED = {
    "full": 0.0,
    "short": 26.7,
    "short/half": 50.0,
    "est": 26.7,
    "est/two-stage": 26.7,
    "est/constant": 25.0,
    "est/only-heads": 7.0,
    "est/only-mlp": 16.0,
    "est/only-layers": 6.7,
    "est/heads-layers": 12.0,
    "est/mlp-layers": 20.0,
    "est/one-stage": 50.0,
    "est/two-stage-a": 16.7,
    "est/two-stage-b": 23.3,
    "est/two-stage-c": 30.0,
    "est/three-stage": 26.7,
    "est/half-as-long": 13.3,
    "est/twice-as-long": 53.3,
    "est/mild": 14.2,
    "est/harsh": 37.5,
    "est/linear": 26.7,
    "est/exponential": 26.7,
    "est/bernoulli": 26.7,
    "est/unscaled": 26.7,
}
# As the paper has it: sampling is free, but where the last stage is short or missing, or 1/p is left out.
GAPS = {
    **dict.fromkeys(SAVED, 0.0),
    "short": _shorter(26.7),
    "short/half": _shorter(50.0),
    "est": -0.01,
    "est/two-stage": 0.02,
    "est/only-layers": 0.005,
    "est/only-mlp": 0.002,
    "est/one-stage": 0.3,
    "est/two-stage-a": -0.02,
    "est/two-stage-c": 0.03,
    "est/three-stage": 0.01,
    "est/half-as-long": -0.02,
    "est/twice-as-long": 0.2,
    "est/harsh": 0.1,
    "est/linear": 0.01,
    "est/exponential": 0.0,
    "est/unscaled": 0.2,
}


RAPTR_SAVED = {
    **{name: SAVED[name] for name in ("full", "short")},
    "raptr": 25.0,
    "raptr/two-stage": 25.0,
    "raptr/exponential": 25.0,
    "raptr/late": 25.0,
    "raptr/warm-up": 17.5,
    "gradual_stacking": 25.0,
    "gradual_stacking/two-stage": 25.0,
    "gradual_stacking/exponential": 25.0,
    "raptr/width": 25.0,
    "raptr/sqrt_gap": 25.0,
    "raptr/linear_gap": 25.0,
    "raptr/inv_p": 25.0,
    "stochastic_depth": 25.0,
}
# As the paper has it: RaPTr pays nothing whatever its schedule, stacking does, and square-root scaling helps a little.
RAPTR_GAPS = {
    **dict.fromkeys(RAPTR_SAVED, 0.0),
    "short": _shorter(26.7),
    "raptr/warm-up": -0.05,
    "gradual_stacking/two-stage": 0.1,
    "gradual_stacking/exponential": 0.2,
    "raptr/sqrt_gap": -0.01,
    "raptr/linear_gap": 0.05,
}


def raptr_ablation_frame(gaps=None, seeds=(0, 1, 2)):
    """The same of RaPTr's ablations."""
    return _frame(RAPTR_GAPS | (gaps or {}), RAPTR_SAVED, seeds)


def ablation_frame(gaps=None, seeds=(0, 1, 2)):
    """Rows at the transition, half-way, and at the end; seeds differ by a constant that pairs cancel.

    Before its last stage a run without 1/p is a nat worse than others.
    """
    return _frame(GAPS | (gaps or {}), SAVED, seeds)


def _frame(gaps, saved, seeds):
    rows = []
    for method, gap in gaps.items():
        for seed in seeds:
            run = (f"{method}-{seed}", method, f"{method}-schedule", seed)
            for part in (0.5, 1.0):
                share = 1 - saved[method] / 100
                values = {
                    "validation_loss": 2 + gap + 0.1 * seed + (1 - part) * (3 if method == "est/unscaled" else 1),
                    "layer_flops": FULL_FLOPS * share * part,
                    "total_flops": FULL_FLOPS * (share + 0.2) * part,
                    "stage": float(part == 1 and method not in ("full", "short", "short/half")),
                    "train_loss": 3.0,
                }
                rows += [(*run, int(part * STEPS), name, value, 4e-3) for name, value in values.items()]
    columns = ["run_id", "method", "schedule", "seed", "step", "metric", "value", "lr"]
    return pd.DataFrame(rows, columns=columns)
