"""The linear probe against finite differences, its own optimality and scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from est_analysis.downstream.logistic import fit, objective
from est_analysis.errors import InputError

RNG = np.random.default_rng(0)
FEATURES, LABELS = RNG.normal(size=(60, 5)), RNG.integers(0, 3, 60)


def test_gradient_is_that_of_finite_differences():
    at = RNG.normal(size=3 * 6)

    def value(parameters):
        return objective(parameters, FEATURES, LABELS, 3, 0.7)[0]

    found = objective(at, FEATURES, LABELS, 3, 0.7)[1]
    assert np.abs(found - approx_fprime(at, value, 1e-6)).max() < 1e-4  # second derivatives of about 50, steps of 1e-6


def test_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    probe = fit(FEATURES, LABELS, classes=3, steps=2000)
    standard = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    theirs = linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(standard, LABELS)
    # Biases are unpenalised and shared offsets free: compare what predictions depend on.
    ours = probe.weight - probe.weight.mean(0)
    assert ours == pytest.approx(theirs.coef_ - theirs.coef_.mean(0), abs=2e-3)
    assert (probe.predict(FEATURES) == theirs.predict(standard)).all()


def test_planted_classes_are_found_and_units_do_not_matter():
    labels = (FEATURES[:, 1] > 0).astype(int) + (FEATURES[:, 1] > 1)
    probe = fit(FEATURES, labels, classes=3)
    assert (probe.predict(FEATURES) == labels).mean() > 0.9
    scaled = FEATURES * np.array([1e3, 1e-3, 1, 5, 7]) + 4
    assert (fit(scaled, labels, classes=3).predict(scaled) == probe.predict(FEATURES)).all()


def test_a_constant_feature_is_harmless_and_one_that_is_not_finite_is_refused():
    fit(np.column_stack([FEATURES, np.ones(60)]), LABELS, classes=3)
    with pytest.raises(InputError, match="not finite"):
        fit(np.column_stack([FEATURES, np.full(60, np.nan)]), LABELS, classes=3)
