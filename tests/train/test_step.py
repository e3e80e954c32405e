"""What one optimizer step does, against a reference written out by hand."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from est_analysis.methods import METHODS
from est_analysis.models.gpt2.model import GPT2
from est_analysis.train.loop import train
from est_analysis.train.optim import build_optimizer

EVERY_STEP = {"log_every": 1, "eval_every": 1000, "save_every": 1}


def weights(folder, step):
    from est_analysis.models.hf import load_folder

    return load_folder(folder / "checkpoints" / f"step{step:06d}").state_dict()


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_full_training_equals_a_loop_written_by_hand(harness, tmp_path, clip):
    job = harness.train(
        tmp_path, method="full", double=True, steps=6, lr=1e-2, warmup=2, clip=clip, **EVERY_STEP
    )  # fmt: skip
    model = GPT2(harness.config).initialise(0).double()
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    plain = [p for name, p in model.named_parameters() if id(p) in norms or name.endswith("_bias")]
    matrices = [p for p in model.parameters() if not any(p is other for other in plain)]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=1.0,
        betas=(0.9, 0.95),
        fused=False,
        foreach=False,
    )
    expected, norm_before = {}, []
    for step, rate in enumerate([5e-3, 1e-2, 1e-2, 7.5e-3, 5e-3, 2.5e-3], start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, labels = job.batches.batch(step - 1)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm_before.append(float(torch.stack([p.grad.norm() for p in model.parameters()]).norm()))
        if clip:
            for parameter in model.parameters():
                # torch adds 1e-6 to the norm it divides by.
                parameter.grad *= min(1.0, clip / (norm_before[-1] + 1e-6))
        optimizer.step()
        expected[step] = float(loss.detach())
    assert not clip or max(norm_before) > clip, "nothing was clipped, so the test shows nothing"
    # The loss is summed up in float32: half a unit in its last place, 2**-24 = 6e-8.
    assert harness.losses(tmp_path) == pytest.approx(expected, rel=1.2e-7)
    # Same arithmetic in another order, in float64; Adam divides by sqrt(v) >= 1e-6 or so here, which lifts 1e-16 to at
    # most 1e-10 a step.
    for ours, theirs in zip(job.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_micro_batches_change_nothing(harness, tmp_path, method):
    found = {}
    for parts in (1, 2, 4):
        job = harness.train(tmp_path / str(parts), method=method, double=True, accumulation=parts, **EVERY_STEP)
        found[parts] = harness.losses(tmp_path / str(parts)), list(job.model.parameters())
    for parts in (2, 4):
        # Losses are added up in float32, one rounding of 6e-8 a part.
        assert found[parts][0] == pytest.approx(found[1][0], rel=parts * 1.2e-7)
        for ours, theirs in zip(found[parts][1], found[1][1], strict=True):
            # As above: float64 rounding, lifted by Adam's division, over 12 steps.
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_evaluation_takes_no_more_at_once_than_a_step(harness, tmp_path, monkeypatch):
    rows, loss = [], GPT2.loss

    def spy(self, tokens, labels, mask=None):
        rows.append((torch.is_grad_enabled(), len(tokens)))
        return loss(self, tokens, labels, mask)

    monkeypatch.setattr(GPT2, "loss", spy)
    losses = {}
    for parts in (1, 4):
        harness.train(tmp_path / str(parts), method="full", steps=2, accumulation=parts, double=True)
        losses[parts] = harness.losses(tmp_path / str(parts), "validation_loss")
    assert {size for graded, size in rows if not graded} == {4, 1}
    assert losses[4] == pytest.approx(losses[1], rel=1e-6)


def test_all_micro_batches_of_a_step_see_one_mask(harness, tmp_path, monkeypatch):
    seen = []
    loss = GPT2.loss

    def spy(self, tokens, labels, mask=None):
        if torch.is_grad_enabled():
            seen.append((len(tokens), mask))
        return loss(self, tokens, labels, mask)

    monkeypatch.setattr(GPT2, "loss", spy)
    harness.train(tmp_path, method="est", steps=12, accumulation=2)
    assert [size for size, _ in seen] == [2] * 24
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert all(one is other for (_, one), (_, other) in pairs)
    sampled = [mask for (_, mask), _ in pairs if mask is not None]
    assert len(sampled) == 6  # gpt2-est samples for 70 of 150 steps: 5.6 of 12, rounded
    assert len({id(mask) for mask in sampled}) == len(sampled)


@pytest.mark.parametrize(("batch", "parts"), [(4, 3), (4, 8)])
def test_a_batch_that_does_not_divide_is_refused(harness, tmp_path, batch, parts):
    # The spec refuses it too; the loop also knows how many processes share the batch.
    with pytest.raises(ValueError, match=f"batch of {batch} does not divide into 1 processes of {parts} micro-batches"):
        harness.train(tmp_path, method="full", accumulation=parts)


@pytest.fixture
def bypassed(harness, monkeypatch):
    """Trains EST with every checkpoint kept; gives, for each step and layer bypassed then, before and after."""
    monkeypatch.setattr("est_analysis.train.checkpoint._STATES_KEPT", 100)

    def run(folder, skipped_gradient):
        job = harness.job(
            folder, method="est", steps=30, skipped_gradient=skipped_gradient, decay="constant", weight_decay=0.1,
            at=5, **EVERY_STEP,
        )  # fmt: skip
        with pytest.raises(harness.Killed):  # the first stage has four steps; no need for more
            train(job, harness.quiet)
        order = [p for group in build_optimizer(job.model, job.settings).param_groups for p in group["params"]]
        names = {id(parameter): name for name, parameter in job.model.named_parameters()}
        index = {names[id(parameter)]: i for i, parameter in enumerate(order)}
        decayed = {names[id(p)] for p in build_optimizer(job.model, job.settings).param_groups[0]["params"]}

        @cache
        def saved(step):
            file = folder / "checkpoints" / f"step{step:06d}" / "trainer.pt"
            return weights(folder, step), torch.load(file, weights_only=True)["optimizer"]["state"]

        def parameter(step, name):
            values, states = saved(step)
            return values[name], states.get(index[name])

        for step in range(2, 5):
            mask = job.method.mask(step)
            for layer in set(range(4)) - set(mask.active_layers):
                for name in index:
                    if name.startswith(f"blocks.{layer}."):
                        yield name in decayed, parameter(step - 1, name), parameter(step, name)

    return run


def test_none_leaves_bypassed_layers_exactly_as_they_are(bypassed, tmp_path):
    with_moments = 0
    for _, (weight, state), (new_weight, new_state) in bypassed(tmp_path, "none"):
        assert torch.equal(weight, new_weight)
        assert (state is None) == (new_state is None)
        if state:
            with_moments += 1
            assert all(torch.equal(state[name], new_state[name]) for name in state)
    assert with_moments, "no bypassed layer had ever been trained, so the test shows nothing"


def test_zero_decays_moments_and_moves_bypassed_layers(bypassed, tmp_path):
    moved = 0
    for decayed, (weight, state), (new_weight, new_state) in bypassed(tmp_path, "zero"):
        step, lr, eps = float(new_state["step"]), 1e-2, 1e-8
        assert step == float(state["step"]) + 1
        mean, square = 0.9 * state["exp_avg"], 0.95 * state["exp_avg_sq"]
        # Two roundings of float32 (6e-8 each).
        torch.testing.assert_close(new_state["exp_avg"], mean, rtol=2.4e-7, atol=1e-30)
        torch.testing.assert_close(new_state["exp_avg_sq"], square, rtol=2.4e-7, atol=1e-30)
        update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + eps)
        expected = weight * (1 - lr * 0.1 * decayed) - lr * update
        # Weights are at most about 1, updates at most lr: some roundings of 6e-8.
        torch.testing.assert_close(new_weight, expected, rtol=0, atol=5e-7)
        moved += not torch.equal(weight, new_weight)
    assert moved, "nothing moved, so the test shows nothing"


def test_the_two_are_different_algorithms(harness, tmp_path):
    # As long as no layer was ever bypassed after it had trained they agree; afterwards they do not.
    for kind in ("zero", "none"):
        harness.train(tmp_path / kind, method="est", steps=30, skipped_gradient=kind)
    assert harness.state(tmp_path / "zero", 30)["weights"] != harness.state(tmp_path / "none", 30)["weights"]


@pytest.mark.parametrize("ahead", [0, 8])
def test_same_spec_same_bits_and_no_global_randomness(harness, tmp_path, ahead):
    from dataclasses import replace

    # Python's own `random` is left out: the type checker of the tests draws from it.
    harness.train(tmp_path / "one", method="est")
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    harness.train(tmp_path / "two", replace(harness.quiet, masks_ahead=ahead), method="est")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert harness.state(tmp_path / "one", 12) == harness.state(tmp_path / "two", 12)


def test_another_seed_gives_other_weights(harness, tmp_path):
    for seed in (0, 1):
        harness.train(tmp_path / str(seed), seed=seed)
    assert harness.state(tmp_path / "0", 12)["weights"] != harness.state(tmp_path / "1", 12)["weights"]


@pytest.mark.parametrize("method", METHODS)
def test_rows_say_what_was_computed(harness, tmp_path, method):
    job = harness.train(tmp_path, method=method, log_every=1)
    steps = range(1, job.settings.steps + 1)
    configs = [harness.config.scaled(job.method.existing(step)) for step in steps]
    masks = [job.method.mask(step) for step in steps]
    depths = [c.num_layers if mask is None else len(mask.active_layers) for c, mask in zip(configs, masks, strict=True)]
    assert list(harness.losses(tmp_path, "active_layers").values()) == depths
    assert list(harness.losses(tmp_path, "stage").values()) == [job.method.course.stage_at(step) for step in steps]
    # Forward once and backward twice, 4 sequences of 16 tokens; whole numbers, exact in a double.
    flops = [config.architecture(16).mask_flops(mask) for config, mask in zip(configs, masks, strict=True)]
    layers = np.cumsum([3 * 64 * each for each in flops])
    assert list(harness.losses(tmp_path, "layer_flops").values()) == layers.tolist()
    heads = np.cumsum([3 * 64 * 2 * config.hidden * 40 for config in configs])
    assert list(harness.losses(tmp_path, "total_flops").values()) == (layers + heads).tolist()


def test_a_row_is_the_mean_since_the_last_one(harness, tmp_path):
    harness.train(tmp_path / "each", method="full", log_every=1)
    harness.train(tmp_path / "five", method="full", log_every=5)
    each = harness.losses(tmp_path / "each")
    expected = {5: range(1, 6), 10: range(6, 11), 12: range(11, 13)}
    means = {step: np.mean([each[s] for s in window]) for step, window in expected.items()}
    # Means of doubles: a few units in the last place.
    assert harness.losses(tmp_path / "five") == pytest.approx(means, rel=1e-14)


def test_validation_is_the_mean_over_tokens_of_the_full_model(harness, tmp_path):
    job = harness.train(tmp_path, method="est", eval_every=3)
    tokens, labels = (torch.cat(parts) for parts in zip(*job.validation, strict=True))
    with torch.no_grad():
        expected = float(F.cross_entropy(job.model(tokens).flatten(0, 1), labels.flatten()))
    found = harness.losses(tmp_path, "validation_loss")
    assert sorted(found) == [0, 2, 3, 6, 9, 12]  # transitions of gpt2-est in 12 steps: 2 and 6
    # Float32 sums over 64 tokens: 64 roundings of 6e-8 at the very most.
    assert found[12] == pytest.approx(expected, rel=4e-6)
