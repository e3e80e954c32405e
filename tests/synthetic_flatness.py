"""Flatness along training without noise: every run's trace is a known function of its loss, so every effect is known.

ln(trace) = 5 + slope * loss + effect, with the loss falling from 4 to the run's end in the steps measured; a line is
read exactly by interpolation, so at equal loss two methods of one slope differ by their effects.
"""

import numpy as np
import pandas as pd

STEPS = (80, 280, 360, 480, 600)
ENDS = {  # final validation loss of text; hmm has 1.5 less
    "full": 2.2,
    "est": 2.5,
    "dropout": 2.6,
    "raptr": 2.4,
    "est/decayed-embeddings": 2.45,
    "est/unscaled": 2.7,
    "full/est-rate": 2.3,
    "full/half": 2.55,
    "full/est-rate-half": 2.6,
}
# Of ln(trace of sampled blocks), ln(trace of embeddings) and ln(the rest, norms).
EFFECTS = {
    **dict.fromkeys(ENDS, (0.0, 0.0, 0.0)),
    "est": (-0.5, -0.2, -0.3),
    "dropout": (-0.3, -0.3, -0.3),
    "raptr": (0.1, 0.1, 0.1),
    "est/decayed-embeddings": (-0.5, -0.6, -0.5),
    "est/unscaled": (-0.2, -0.4, -0.2),
}
SHARES = {"attention": 0.3, "mlp": 0.2, "tokens": 0.35, "positions": 0.1, "norms": 0.05}
PART_OF = {"attention": 0, "mlp": 0, "tokens": 1, "positions": 1, "norms": 2}
SLOPE, FISHER, BEST = 0.5, 0.95, 0.68
CORPORA = ("text", "hmm")


def _losses(end, steps):
    """From 4, in equal steps of at most 0.45, to `end`."""
    return np.linspace(end + 0.4 * (len(steps) - 1), end, len(steps))


def _curvature(method, loss, effects):
    """Traces of one checkpoint, by metric."""
    parts = {}
    for part, share in SHARES.items():
        parts[part] = share * np.exp(5 + SLOPE * loss + effects[PART_OF[part]])
    values = {f"hessian_trace_{part}": value for part, value in parts.items()}
    values["hessian_trace"] = sum(parts.values())
    values["hessian_trace_stderr"] = 0.04 * values["hessian_trace"]
    values["fisher_trace"] = FISHER * values["hessian_trace"]
    values["scale_invariant"] = 0.01 * values["hessian_trace"]
    return values


def flatness_frame(effects=None, ends=None, seeds=(0, 1, 2), corpora=CORPORA):
    """Rows of every contender; seeds differ by a factor that pairs cancel."""
    effects, ends = EFFECTS | (effects or {}), ENDS | (ends or {})
    rows = []
    for corpus in corpora:
        for method, end in ends.items():
            steps = (300,) if method.endswith("half") else STEPS
            for seed in seeds:
                shift = -1.5 if corpus == "hmm" else 0.0
                run = (f"{corpus}-{method}-{seed}", method, "s", seed, corpus, 2e-3)
                for step, loss in zip(steps, _losses(end + shift, steps), strict=True):
                    values = _curvature(method, loss, np.array(effects[method]) + 0.2 * seed)
                    values |= {"validation_loss": loss, "stage": float(np.digitize(step, (81, 281)))}
                    rows += [(*run, step, name, value) for name, value in values.items()]
                rows.append((*run, steps[-1], "top_eigenvalue", 20.0))
                if corpus == "hmm":
                    rows.append((*run, steps[-1], "best_loss", BEST))
        rows += _constant_pair(corpus, seeds)
    columns = ["run_id", "method", "schedule", "seed", "corpus", "lr", "step", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def _constant_pair(corpus, seeds):
    """Losses that fall by 0.001 (full) and 0.002 (EST, in its last stage) a step."""
    rows = []
    for method in ("full/constant-lr", "est/constant-lr") if corpus == "text" else ():
        for seed in seeds:
            for step in range(0, 601, 40):
                late = max(0, step - 280)
                loss = 4 - 0.001 * step if method.startswith("full") else 3.9 - 0.0005 * (step - late) - 0.002 * late
                stage = float(method.startswith("est")) * np.digitize(step, (81, 281))
                run = (f"{corpus}-{method}-{seed}", method, "s", seed, corpus, 2e-3, step)
                rows += [(*run, "validation_loss", loss), (*run, "stage", stage)]
    return rows
