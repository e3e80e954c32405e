"""RaPTr's theory as claims: numbers by hand, and claims that fall where theory is broken."""

from math import sqrt

import numpy as np
import pytest

from est_analysis.claims import CLAIMS
from est_analysis.claims.claim import judge_one
from est_analysis.claims.raptr_theory import CLAIMS as THEORY
from est_analysis.claims.raptr_theory import run_net
from est_analysis.theory import stability, two_block


def verdict(topic):
    return judge_one(CLAIMS[f"raptr.theory.{topic}"], None, "exact")


@pytest.mark.parametrize("name", THEORY)
def test_theory_holds(name):
    found = judge_one(THEORY[name], None, "exact")
    assert (found.verdict, found.seeds) == ("supported", 0)


def test_a_net_of_one_number_by_hand():
    """Layers of 2 and 3 on inputs of 5: with norm each reads a 1."""
    weights, x = np.array([[[2.0]], [[3.0]]]), np.array([[5.0]])
    ends = {(True, True): 10.0, (True, False): 60.0, (False, True): 3.0, (False, False): 30.0}
    for (residual, norm), end in ends.items():
        assert run_net(weights, x, residual=residual, norm=norm).item() == end
    assert run_net(weights, x, residual=True, norm=True, bypassed=0).item() == 8.0
    assert run_net(weights, x, residual=True, norm=True, bypassed=1).item() == 7.0


def test_random_nets_come_near_the_exact_values():
    """They are those of infinite width."""
    depth, width = 12, 256
    random = np.random.default_rng(1)
    weights, x = random.normal(size=(depth, width, width)) / sqrt(width), random.normal(size=(8, width))
    full, *ends = (run_net(weights, x, residual=True, norm=True, bypassed=layer) for layer in (None, *range(depth)))
    psi = [np.mean(np.linalg.norm(end - full, axis=1) / np.linalg.norm(full, axis=1)) for end in ends]
    np.testing.assert_allclose(psi, stability.psi_residual_norm(depth), rtol=0.1)


@pytest.mark.parametrize("topic", ["pld", "growing", "shrinking"])
def test_where_the_flow_ends_is_the_closed_form(topic):
    """The ends of the range are those of the gains and keep rates tried, in closed form."""
    keeps = {"pld": [((1 + p) / 2, p) for p in (0.1, 0.9)], "growing": [(1.0, 1.0)], "shrinking": [(0.4, 0.4)]}[topic]
    toys = [two_block.TwoBlock(gain=gain, scaled=topic == "pld") for gain in (0.5, 2.0)]
    ends = [two_block.stationary_degree_two(toy, keep) for toy in toys for keep in keeps]
    found = verdict(topic)
    assert found.interval == pytest.approx((min(ends), max(ends)), abs=2e-3)
    assert found.effect == pytest.approx(1.0 if topic == "growing" else max(ends), abs=2e-3)


def test_a_bound_that_is_too_small_is_refuted(monkeypatch):
    bound = stability.loss_gap_bound
    monkeypatch.setattr(stability, "loss_gap_bound", lambda mu, psi: bound(mu, psi) / 10)
    assert verdict("bound").verdict == "refuted"


def test_a_psi_that_does_not_fall_is_refuted(monkeypatch):
    monkeypatch.setattr(stability, "psi_residual_norm", stability.psi_residual)
    assert verdict("depth").verdict == "refuted"
    monkeypatch.setattr(stability, "psi_norm", lambda depth: np.full(depth, 1 / sqrt(depth)))
    assert verdict("depth-without").verdict == "refuted"


def test_schedules_the_other_way_round_are_refuted(monkeypatch):
    staged = two_block.staged
    monkeypatch.setattr(two_block, "staged", lambda rates, time: staged(rates[::-1], time))
    assert verdict("growing").verdict == "refuted"
    assert verdict("shrinking").verdict == "refuted"
    monkeypatch.setattr(two_block, "pld", lambda theta, time: staged((1.0,), time))
    assert verdict("pld").verdict == "refuted"
