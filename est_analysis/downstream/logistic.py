"""Logistic regression on fixed features: the linear probe."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from est_analysis.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        mean, scale: of each feature in the training data; features are standardised by them.
        weight: classes x features.
        bias: one a class.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The most probable class of each row."""
        return (((features - self.mean) / self.scale) @ self.weight.T + self.bias).argmax(axis=1)


def objective(
    parameters: np.ndarray, features: np.ndarray, labels: np.ndarray, classes: int, penalty: float
) -> tuple[float, np.ndarray]:
    """Sum of -log p(label) plus penalty/2 |weight|^2, in nats, and its gradient; the bias is not penalised.

    Args:
        parameters: weight (classes x features) then bias, flat.
        features: items x features.
        labels: one class an item.
        classes: how many.
        penalty: 1 is what scikit-learn calls C=1.
    """
    weight, bias = np.split(parameters.reshape(classes, -1), [-1], axis=1)
    scores = features @ weight.T + bias.T
    log_p = scores - logsumexp(scores, axis=1, keepdims=True)
    rows = np.arange(len(labels))
    excess = np.exp(log_p)
    excess[rows, labels] -= 1
    gradient = np.concatenate([excess.T @ features + penalty * weight, excess.sum(axis=0)[:, None]], axis=1)
    return float(-log_p[rows, labels].sum() + 0.5 * penalty * (weight**2).sum()), gradient.ravel()


def fit(features: np.ndarray, labels: np.ndarray, *, classes: int, penalty: float = 1.0, steps: int = 200):
    """The `LinearProbe` that minimises `objective`, by L-BFGS from zero: no chance is involved.

    Raises:
        InputError: a feature is not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if not np.isfinite(features).all():
        raise InputError("a hidden state is not finite: the checkpoint cannot be probed; give another one")
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    found = minimize(
        objective,
        np.zeros(classes * (features.shape[1] + 1)),
        args=((features - mean) / scale, np.asarray(labels), classes, penalty),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps},
    )
    solution = found.x.reshape(classes, -1)
    return LinearProbe(mean=mean, scale=scale, weight=solution[:, :-1], bias=solution[:, -1])
