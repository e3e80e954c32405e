"""Fine-tuning: what it learns, and what it leaves alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from est_analysis.downstream.fine_tune import Classifier, FineTuning, classes_of, fine_tuned, outputs_of, rate
from est_analysis.errors import InputError

EXAMPLES = [list(f"{'x' * (3 + i % 7)}{'ab'[i % 2]}".encode()) for i in range(40)]
LABELS = torch.tensor([i % 2 for i in range(40)])
HOW = FineTuning(lr=3e-3, batch_size=8, epochs=4)


def tuned(subject, *, how=HOW, seed=0, labels=LABELS):
    return fine_tuned(subject, EXAMPLES, labels, outputs=2, loss=F.cross_entropy, how=how, seed=seed)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_padding_changes_nothing(subject, pool):
    model = Classifier(subject, 2, pool, seed=0).eval()
    together = torch.stack(list(outputs_of(model, EXAMPLES, batch_size=40)))
    alone = torch.stack([next(outputs_of(model, [example])) for example in EXAMPLES])
    assert torch.allclose(together, alone, atol=1e-5)  # float32 sums of other lengths


def test_the_last_token_that_is_no_padding_is_read(subject):
    model = Classifier(subject, 2, "last", seed=0).eval()
    states = subject.model.base_model(torch.tensor([EXAMPLES[0]])).last_hidden_state
    assert torch.allclose(next(outputs_of(model, EXAMPLES)), model.head(states[0, -1]), atol=1e-5)


def test_a_planted_label_is_learned_and_the_checkpoint_is_not_touched(subject):
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    state = torch.random.get_rng_state()
    model = tuned(subject)
    assert (classes_of(model, EXAMPLES) == LABELS).float().mean() > 0.95
    assert any(not torch.equal(before[f"transformer.{name}"], p) for name, p in model.body.named_parameters())
    assert all(torch.equal(before[name], p) for name, p in subject.model.named_parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not subject.model.training


def test_the_seed_alone_decides_dropout_included(subject):
    assert subject.model.config.resid_pdrop > 0
    weights = [tuned(subject, seed=seed).head.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_head_that_starts_from_the_probe_is_right_before_the_first_step(subject):
    still = FineTuning(lr=1e-12, batch_size=8, epochs=1, pool="mean", probe_first=True)
    assert (classes_of(tuned(subject, how=still), EXAMPLES) == LABELS).float().mean() > 0.9
    random = FineTuning(lr=1e-12, batch_size=8, epochs=1, pool="mean")
    assert (classes_of(tuned(subject, how=random), EXAMPLES) == LABELS).float().mean() < 0.8


def test_rates_rise_for_a_tenth_and_fall_to_zero():
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == 1
    assert rates[:2] == [0.1, 0.2]
    assert rates[-1] == pytest.approx(1 / 90)


def test_what_cannot_be_trained_is_refused(subject):
    with pytest.raises(InputError, match="no example"):
        fine_tuned(subject, [], torch.empty(0), outputs=2, loss=F.cross_entropy, how=HOW, seed=0)
    with pytest.raises(InputError, match="not finite at step 1; use a lower --lr"):
        fine_tuned(subject, EXAMPLES, LABELS, outputs=2, loss=lambda o, t: o.sum() * torch.nan, how=HOW, seed=0)
    with pytest.raises(InputError, match="lr=0, batch_size=32, epochs=3"):
        FineTuning(lr=0)
