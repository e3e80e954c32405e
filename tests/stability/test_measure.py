"""What bypassing does to output and loss: by hand on linear nets, by identities and inequalities on others."""

import math

import numpy as np
import pytest
import torch

from est_analysis.curvature.loss import LanguageModelObjective
from est_analysis.errors import InputError
from est_analysis.rng import stream
from est_analysis.stability import measure
from est_analysis.stability.layers import ResidualLayer, residual_layers
from est_analysis.stability.measure import BatchStability, measure_batch, measure_stability, summarise

IDS = torch.randint(5, (3, 4), generator=stream(0, "ids"))
BATCH = {"input_ids": IDS}
# A dozen products and sums of order 1 in float64.
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def layers_of(objective, batch=BATCH):
    return residual_layers(objective.model, lambda: objective.token_states(objective.parameters, batch))


def cross_entropy(logits, target):
    return math.log(np.exp(logits).sum()) - logits[target]


def by_hand(objective, without=None):
    """Final hidden states (N, 3) and losses (N,) of the net, or of it without a layer, as matrix products."""
    table, head = (objective.parameters[f"{name}.weight"].numpy() for name in ("table", "head"))
    hidden = table[IDS[:, :-1].flatten()]
    for i, block in enumerate(objective.model.blocks):
        if i != without:
            hidden = hidden @ (np.eye(3) + block.inner.weight.detach().numpy()).T
    pairs = zip(hidden, IDS[:, 1:].flatten().tolist(), strict=True)
    return hidden, np.array([cross_entropy(head @ row, target) for row, target in pairs])


def draw(i, scale=0.5):
    return scale * torch.randn(3, 3, generator=stream(0, "matrix", i), dtype=torch.float64)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_multiples_of_the_identity(linear_net):
    """The output is 2 x 3 times the input, so without the first layer half of it, without the second a third."""
    objective = linear_net([torch.eye(3), 2 * torch.eye(3)])
    found = measure_batch(objective, layers_of(objective), BATCH)
    assert found.psi == pytest.approx([1 / 2, 2 / 3], rel=1e-12)
    table, head = (objective.parameters[f"{name}.weight"].numpy() for name in ("table", "head"))
    for factor, loss in zip((6, 3, 2), (found.loss, *found.losses), strict=True):
        pairs = zip(table[IDS[:, :-1].flatten()], IDS[:, 1:].flatten().tolist(), strict=True)
        assert loss == pytest.approx(np.mean([cross_entropy(factor * head @ row, t) for row, t in pairs]), **CLOSE)
    assert found.weight == 9


def test_a_linear_net(linear_net):
    objective = linear_net([draw(i) for i in range(3)])
    found = measure_batch(objective, layers_of(objective), BATCH)
    full, losses = by_hand(objective)
    assert found.loss == pytest.approx(losses.mean(), **CLOSE)
    size = np.linalg.norm(full, axis=1)
    for i in range(3):
        hidden, losses = by_hand(objective, without=i)
        assert found.losses[i] == pytest.approx(losses.mean(), **CLOSE)
        assert found.psi[i] == pytest.approx((np.linalg.norm(hidden - full, axis=1) / size).mean(), **CLOSE)


def test_the_prediction_by_finite_differences(linear_net):
    """Each token's loss in its hidden states: central differences of step 1e-5 err by 1e-10 of third derivatives."""
    objective = linear_net([draw(i) for i in range(3)])
    found = measure_batch(objective, layers_of(objective), BATCH)
    full, _ = by_hand(objective)
    head = objective.parameters["head.weight"].numpy()
    slopes = []
    for row, target in zip(full, IDS[:, 1:].flatten().tolist(), strict=True):
        steps = 1e-5 * np.eye(3)
        gradient = [
            (cross_entropy(head @ (row + d), target) - cross_entropy(head @ (row - d), target)) / 2e-5 for d in steps
        ]
        slopes.append(np.linalg.norm(gradient) * np.linalg.norm(row))
    for i in range(3):
        psi = np.linalg.norm(by_hand(objective, without=i)[0] - full, axis=1) / np.linalg.norm(full, axis=1)
        assert found.first_order[i] == pytest.approx((slopes * psi).mean(), rel=1e-7)


def test_a_small_change_moves_the_loss_by_less_than_predicted_and_by_that_along_the_gradient(linear_net):
    """A layer that adds e times the identity changes the output by -e / (1 + e) of itself: first order is enough."""
    objective = linear_net([torch.eye(3), 1e-6 * torch.eye(3)])
    found = measure_batch(objective, layers_of(objective), BATCH)
    assert abs(found.losses[1] - found.loss) <= found.first_order[1] * (1 + 1e-5)
    assert found.psi[1] == pytest.approx(1e-6, rel=1e-5)
    # In one dimension the gradient and the change are parallel.
    table, head = (objective.parameters[f"{name}.weight"] for name in ("table", "head"))
    table[:, 1:] = head[:, 1:] = 0.0
    table[:, 0] = 1.0
    one = {"input_ids": IDS[:1, :2]}
    found = measure_batch(objective, layers_of(objective), one)
    assert abs(found.losses[1] - found.loss) == pytest.approx(found.first_order[1], rel=1e-4)


def test_the_theorem_on_a_net_by_hand(linear_net):
    """mu is the largest change of the loss for its Psi, over layers and batches; both bounds are mu times mean Psi."""
    objective = linear_net([draw(i) for i in range(3)])
    batches = [{"input_ids": IDS[:, :3]}, {"input_ids": IDS}]
    layers = layers_of(objective)
    found = measure_stability(objective, layers, batches)
    each = [measure_batch(objective, layers, one) for one in batches]
    changes, psis = np.array([one.losses - one.loss for one in each]), np.array([one.psi for one in each])
    assert found.mu == pytest.approx((abs(changes) / psis).max(), **CLOSE)
    mean_psi = np.mean([layer.psi for layer in found.layers])
    assert mean_psi == pytest.approx((6 * psis[0] + 9 * psis[1]).mean() / 15, **CLOSE)
    assert found.bound == pytest.approx(found.mu * mean_psi, **CLOSE)
    assert found.bound_predicted == pytest.approx(
        (6 * each[0].first_order + 9 * each[1].first_order).mean() / 15, **CLOSE
    )
    assert found.mu_predicted * mean_psi == pytest.approx(found.bound_predicted, **CLOSE)
    assert found.loss_one_dropped - found.loss_full == pytest.approx(found.gap, **CLOSE)
    assert found.gap == pytest.approx(np.mean([layer.loss_change for layer in found.layers]), **CLOSE)
    assert found.gap_inner == pytest.approx(found.layers[1].loss_change, **CLOSE)
    assert (found.batches, found.targets) == (2, 15)


def test_means_run_over_targets_and_not_over_batches(linear_net):
    objective = linear_net([draw(i) for i in range(2)])
    layers = layers_of(objective)
    parts = [{"input_ids": IDS[:1, :2]}, {"input_ids": IDS[1:]}]
    found = measure_stability(objective, layers, parts)
    labels = IDS.clone()
    labels[0, 2:] = -100
    whole = measure_batch(objective, layers, {"input_ids": IDS, "labels": labels})
    assert found.targets == whole.weight == 7
    assert found.loss_full == pytest.approx(whole.loss, **CLOSE)
    assert [layer.psi for layer in found.layers] == pytest.approx(whole.psi, **CLOSE)
    assert [layer.loss_change for layer in found.layers] == pytest.approx(whole.losses - whole.loss, **CLOSE)
    assert found.bound_predicted == pytest.approx(whole.first_order.mean(), **CLOSE)


# --- identities and inequalities --------------------------------------------------------------------------------------


def test_layers_that_add_nothing_change_nothing(deep):
    kind, model, batch = deep("GPT2")
    with torch.no_grad():
        for block in model.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.zero_()
                projection.bias.zero_()
    objective = LanguageModelObjective(model, kind)
    found = measure_stability(objective, layers_of(objective, batch), [batch, batch])
    assert [(layer.psi, layer.loss_change, layer.loss_change_stderr) for layer in found.layers] == [(0, 0, 0)] * 3
    assert (found.gap, found.gap_inner, found.mu, found.bound, found.bound_predicted) == (0, 0, 0, 0, 0)
    assert math.isnan(found.mu_predicted)


def halves(batch):
    return [{name: value[i : i + 1] for name, value in batch.items()} for i in (0, 1)]


def test_every_family_obeys_the_bounds(family, deep):
    kind, model, batch = deep(family)
    objective = LanguageModelObjective(model, kind)
    layers = layers_of(objective, batch)
    found = measure_stability(objective, layers, halves(batch))
    assert found.targets == objective.weight(batch)
    with torch.no_grad():
        assert found.loss_full == pytest.approx(objective.loss(objective.parameters, batch).item(), **CLOSE)
    slack = 1 + 1e-12
    assert abs(found.gap) <= found.bound * slack
    for layer in found.layers:
        assert layer.psi > 0
        assert abs(layer.loss_change) <= found.mu * layer.psi * slack
    # Cross entropy is convex in what a linear head reads: its fall is at most its gradient times the change.
    for one in halves(batch):
        each = measure_batch(objective, layers, one)
        assert (each.loss - each.losses <= each.first_order * slack).all()
    assert found.mu > 0
    assert found.mu_predicted > 0


def test_the_slope_is_taken_in_chunks(deep, monkeypatch):
    kind, model, batch = deep("GPT2")
    objective = LanguageModelObjective(model, kind)
    whole = measure_batch(objective, layers_of(objective, batch), batch)
    monkeypatch.setattr(measure, "_CHUNK", 3 * 19)
    parts = measure_batch(objective, layers_of(objective, batch), batch)
    np.testing.assert_allclose(parts.first_order, whole.first_order, rtol=1e-12)


def test_relative_changes_know_no_units(deep):
    """An output ten times as large, read by a head a tenth as large, is the same network."""
    kind, model, batch = deep("Llama")
    objective = LanguageModelObjective(model, kind)
    one = measure_batch(objective, layers_of(objective, batch), batch)
    with torch.no_grad():
        model.model.norm.weight.mul_(10)
        model.lm_head.weight.div_(10)
    other = measure_batch(objective, layers_of(objective, batch), batch)
    for name in ("loss", "losses", "psi", "first_order"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_near(deep, dtype):
    """Bfloat16 keeps 8 bits; a few of its roundings through three layers."""
    kind, model, batch = deep("GPT2")
    objective = LanguageModelObjective(model, kind)
    exact = measure_batch(objective, layers_of(objective, batch), batch)
    objective = LanguageModelObjective(model.to(dtype), kind)
    found = measure_batch(objective, layers_of(objective, batch), batch)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    np.testing.assert_allclose(found.psi, exact.psi, rtol=tolerance)
    np.testing.assert_allclose(found.losses, exact.losses, rtol=tolerance)
    np.testing.assert_allclose(found.first_order, exact.first_order, rtol=2 * tolerance)


# --- standard errors --------------------------------------------------------------------------------------------------


def fake(name="h.0", stack="h"):
    return ResidualLayer(name=name, stack=stack, module=torch.nn.Identity(), call=0, calls=1, output=0)


def fakes(count):
    return [fake(f"h.{i}") for i in range(count)]


def samples(weights, count=3):
    def numbers(name, i):
        return torch.rand(count, generator=stream(0, name, i), dtype=torch.float64).numpy()

    return [
        BatchStability(
            weight=weight, loss=float(numbers("loss", i)[0]), losses=numbers("losses", i), psi=numbers("psi", i),
            first_order=numbers("first", i),
        )
        for i, weight in enumerate(weights)
    ]  # fmt: skip


def ratio_stderr(values, weights):
    """Cochran 1977, equation 6.13 without the finite population: sums written out."""
    n, total = len(values), sum(weights)
    ratio = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    squares = sum((w * v - ratio * w) ** 2 for w, v in zip(weights, values, strict=True))
    return math.sqrt(squares / (n - 1) / n) / (total / n)


def test_standard_errors_of_batches_that_differ_in_size():
    weights = [3, 10, 1, 7]
    each = samples(weights)
    found = summarise(each, fakes(3), seconds=1.0)
    assert found.loss_full_stderr == pytest.approx(ratio_stderr([one.loss for one in each], weights), **CLOSE)
    for i, layer in enumerate(found.layers):
        assert layer.psi_stderr == pytest.approx(ratio_stderr([one.psi[i] for one in each], weights), **CLOSE)
        changes = [one.losses[i] - one.loss for one in each]
        assert layer.loss_change_stderr == pytest.approx(ratio_stderr(changes, weights), **CLOSE)
    changes = [one.losses.mean() - one.loss for one in each]
    assert found.gap_stderr == pytest.approx(ratio_stderr(changes, weights), **CLOSE)
    inner = [one.losses[1] - one.loss for one in each]
    assert found.gap_inner_stderr == pytest.approx(ratio_stderr(inner, weights), **CLOSE)
    assert found.seconds == 1.0


def test_standard_errors_of_equal_batches():
    each = samples([5] * 6)
    found = summarise(each, fakes(3), seconds=0.0)
    changes = np.array([one.losses.mean() - one.loss for one in each])
    assert found.gap_stderr == pytest.approx(changes.std(ddof=1) / math.sqrt(6), **CLOSE)
    assert found.gap == pytest.approx(changes.mean(), **CLOSE)


def test_inner_layers_are_those_of_each_stack():
    layers = [fake(f"{stack}.{i}", stack) for stack in ("encoder", "decoder") for i in range(3)]
    each = samples([2, 3], count=6)
    found = summarise(each, layers, seconds=0.0)
    assert found.gap_inner == pytest.approx((found.layers[1].loss_change + found.layers[4].loss_change) / 2, **CLOSE)
    assert math.isnan(summarise(samples([2, 3], count=2), fakes(2), seconds=0.0).gap_inner)


# --- manners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(deep, fails):
    kind, model, batch = deep("GPT2")
    model.train()
    model.transformer.h[1].eval()
    model.transformer.wpe.weight.grad = torch.ones_like(model.transformer.wpe.weight)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state, given = torch.get_rng_state(), {name: value.clone() for name, value in batch.items()}
    objective = LanguageModelObjective(model, kind)
    layers = layers_of(objective, batch)
    told = []

    def on_batch(number, found):
        told.append((number, found.weight))
        if fails:
            raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            measure_stability(objective, layers, [batch, batch], on_batch=on_batch)
    else:
        measure_stability(objective, layers, [batch, batch], on_batch=on_batch)
        assert told == [(1, 10), (2, 10)]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["transformer.wpe.weight"]
    assert torch.equal(model.transformer.wpe.weight.grad, torch.ones_like(model.transformer.wpe.weight))
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, given[name]) for name, value in batch.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_one_batch_is_not_enough(linear_net):
    objective = linear_net([draw(i) for i in range(2)])
    with pytest.raises(InputError, match=r"^1 batches give no standard error; give more text, or shorter sequences$"):
        measure_stability(objective, layers_of(objective), [BATCH])


def test_changes_that_are_not_relative_to_anything(linear_net):
    objective = linear_net([draw(0), -torch.eye(3)])
    layers = layers_of(objective)
    with pytest.raises(InputError, match=r"^the final hidden states of a token are zero, .*; no change is relative$"):
        measure_batch(objective, layers, BATCH)


def test_a_loss_that_is_not_finite(linear_net):
    huge = [lambda x: x * 1e-300, lambda x: x * 1e300]
    objective = linear_net([draw(0), draw(1)], huge)
    with pytest.raises(InputError, match=r"^without 'blocks.0' the loss is not finite; use --dtype float32 or float64"):
        measure_batch(objective, layers_of(objective), BATCH)
