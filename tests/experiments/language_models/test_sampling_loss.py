"""What sampling costs: against all masks, all labels and all finite differences of a small model in float64."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.experiments.language_models.reproduce_scales import SCALES
from est_analysis.experiments.language_models.sampling_loss import (
    PARTS,
    Sampler,
    SamplingSettings,
    directions,
    fisher_forms,
    measure_sampling_loss,
    squared_gradients,
)
from est_analysis.experiments.runs.run import run
from est_analysis.methods import build_method
from est_analysis.models.gates import Gates, gate_gradients, gated_logits, gated_losses, sequence_losses
from est_analysis.models.gpt2.config import GPT2Config
from est_analysis.models.gpt2.model import GPT2
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.schedule import Rates

LAYERS, HEADS, COLUMNS, VOCAB, LENGTH = 2, 2, 4, 3, 3
HALF = Rates(heads=0.5, mlp=0.5, layers=0.5)


@pytest.fixture(scope="module")
def tiny():
    """So small that all masks, and all labels of a sequence, can be listed; nothing in it is zero."""
    config = GPT2Config(
        num_layers=LAYERS, hidden=6, num_heads=HEADS, mlp_columns=COLUMNS, vocab_size=VOCAB, context_length=LENGTH
    )
    model = GPT2(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.5 if "qkv" in name else 0.5  # positions look at each other
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, spread, generator=stream(0, "fill", name))
    return model


@pytest.fixture(scope="module")
def batch():
    draw = [torch.randint(VOCAB, (3, LENGTH), generator=stream(0, name)) for name in ("tokens", "labels")]
    return draw[0], draw[1]


def sampler(*, masks=8, **options):
    shape = (
        GPT2Config(
            num_layers=LAYERS, hidden=6, num_heads=HEADS, mlp_columns=COLUMNS, vocab_size=VOCAB, context_length=LENGTH
        )
        .architecture(LENGTH)
        .stack
    )
    method = build_method("est", shape=shape, total_steps=150, seed=0, schedule=None, options=options)
    return Sampler(method=method, settings=SamplingSettings(masks=masks, sequences=3, draws=1), seed=0)


def subsets(count, kept):
    return [torch.tensor(one) for one in combinations(range(count), kept)]


def every_mask(rates):
    """All of EST's masks at half or full rates, all alike likely."""

    def choices(rate, count):
        return [None] if rate == 1 else subsets(count, count // 2)

    layer = [
        LayerMask(heads=heads, columns=columns, head_scale=1 / rates.heads, column_scale=1 / rates.mlp)
        for heads in choices(rates.heads, HEADS)
        for columns in choices(rates.mlp, COLUMNS)
    ]
    active = [set(range(LAYERS)) if kept is None else set(kept.tolist()) for kept in choices(rates.layers, LAYERS)]
    return [
        SubnetMask(layers=tuple(one if i in kept else None for i, one in enumerate(pair)))
        for kept in active
        for pair in product(layer, repeat=LAYERS)
    ]


@pytest.mark.parametrize("rates", [Rates(heads=0.5), Rates(layers=0.5), HALF], ids=["heads", "layers", "all"])
def test_the_cost_is_the_mean_over_all_masks(tiny, batch, rates):
    """Within four standard errors, which are those of all masks."""
    tokens, labels = batch
    with torch.no_grad():
        full = sequence_losses(tiny, tokens, labels)
        exact = torch.stack([sequence_losses(tiny, tokens, labels, mask) for mask in every_mask(rates)]).mean(1)
    exact = exact - full.mean()
    slopes = Gates(*(one.mean(0) for one in gate_gradients(tiny, tokens, labels)))
    mine = sampler(masks=256)
    found = mine._cost(tiny, tokens, labels, mine.masks(rates, 256), full, slopes)
    assert found["cost"] == pytest.approx(exact.mean().item(), abs=4 * exact.std().item() / 16)
    assert found["cost_stderr"] == pytest.approx(exact.std(correction=0).item() / 16, rel=0.2)
    stuck = [mine._cost(tiny, tokens, labels, [mask] * 2, full, slopes)["cost"] for mask in mine.masks(rates, 8)]
    assert max(abs(cost - exact.mean().item()) for cost in stuck) > 4 * exact.std().item() / 16  # planted: one mask


def expected_derivatives(model, batch, masks):
    """First and half of second differences of the mean loss towards each mask."""
    step, ones = 1e-4, Gates.ones(model)
    along = directions(masks, sampler().method.shape, ones)
    found = []
    for k in range(len(masks)):
        low, middle, high = (
            gated_losses(model, Gates(*(one + t * d[k] for one, d in zip(ones, along, strict=True))), *batch).mean()
            for t in (-step, 0.0, step)
        )
        found.append(((high - low) / (2 * step), 0.5 * (high - 2 * middle + low) / step**2))
    return np.array([[float(x) for x in pair] for pair in found]).mean(0)


def test_orders_are_those_of_finite_differences(tiny, batch):
    mine = sampler(masks=8)
    found = mine.measure(tiny, *batch, [0, 1])
    for part, rates in {"heads": Rates(heads=0.5), "columns": Rates(mlp=0.5), "layers": Rates(layers=0.5)}.items():
        first, second = expected_derivatives(tiny, batch, mine.masks(rates, 8))
        assert found[f"stage0_{part}_first_order"] == pytest.approx(first, rel=1e-5, abs=1e-8)
        assert found[f"stage0_{part}_second_order"] == pytest.approx(second, rel=1e-4, abs=1e-6)
    assert found["full_loss"] == pytest.approx(tiny.loss(*batch).item())


def test_small_gates_cost_what_the_orders_say(tiny, batch):
    """Loss = first + second order where gates hardly move: what is compared with masks is this expansion."""
    mine = sampler(masks=8)
    first, second = expected_derivatives(tiny, batch, mine.masks(HALF, 8))
    ones = Gates.ones(tiny)
    along = directions(mine.masks(HALF, 8), mine.method.shape, ones)
    near = [
        gated_losses(tiny, Gates(*(one + 0.01 * d[k] for one, d in zip(ones, along, strict=True))), *batch).mean()
        for k in range(8)
    ]
    full = gated_losses(tiny, ones, *batch).mean()
    found = float(torch.stack(near).mean() - full)
    assert found == pytest.approx(0.01 * first + 1e-4 * second, abs=2e-6)  # the third order: 1e-6
    assert found != pytest.approx(0.01 * first, abs=2e-6)


# The Fisher matrix ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact(tiny, batch):
    """From the Jacobian of the logits in the gates: J'(diag p - pp')J, mean over tokens; module by module."""
    total = {}
    for row in batch[0]:
        ones = tuple(Gates.ones(tiny))
        parts = torch.autograd.functional.jacobian(
            lambda *g, row=row: gated_logits(tiny, Gates(*g), row[None])[0], ones
        )
        p = tiny(row[None])[0].softmax(-1).detach()
        middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        for name, part in zip(("heads", "columns", "layers"), parts, strict=True):
            modules = part[:, :, None] if name == "layers" else part  # (T, V, modules, units)
            ggn = torch.einsum("tvmi,tvw,twmj->mij", modules, middle, modules) / batch[0].numel()
            units = ggn.diagonal(dim1=1, dim2=2)
            total[f"{name}_units"] = total.get(f"{name}_units", 0.0) + units.sum().item()
            total[f"{name}_total"] = total.get(f"{name}_total", 0.0) + ggn.sum().item()
            if name == "columns":
                total["each"] = total.get("each", 0.0) + units.sum(1).detach()
    return total


def over_labels(model, tokens, squares):
    """Mean of `squares(labels)` over every way to label a sequence, with the model's probabilities: no noise."""
    chances = model(tokens).softmax(-1).detach()
    total = {}
    for labels in product(range(VOCAB), repeat=LENGTH):
        weight = torch.stack([chances[:, t, label] for t, label in enumerate(labels)]).prod(0)
        for name, values in squares(torch.tensor(labels).expand_as(tokens)).items():
            total[name] = total.get(name, 0.0) + (weight.view(-1, *[1] * (values.ndim - 1)) * values).mean(0)
    return total


def test_forms_are_those_of_the_jacobian(tiny, batch, exact):
    found = over_labels(
        tiny, batch[0], lambda labels: squared_gradients(gate_gradients(tiny, batch[0], labels), LENGTH)
    )
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: value for name, value in exact.items() if name != "each"}, rel=1e-10
    )


def by_position(model, tokens, labels):
    """u_t . g_t of every column at every position, (B, T, L, M), of the sum of a sequence's losses."""
    gates = [torch.ones(*tokens.shape, COLUMNS, dtype=torch.float64, requires_grad=True) for _ in model.blocks]
    usual = [block.mlp.activation for block in model.blocks]
    try:
        for block, gate, activation in zip(model.blocks, gates, usual, strict=True):
            block.mlp.activation = lambda units, gate=gate, activation=activation: activation(units) * gate
        loss = sequence_losses(model, tokens, labels).sum() * LENGTH
        return torch.stack(torch.autograd.grad(loss, gates), dim=2)
    finally:
        for block, activation in zip(model.blocks, usual, strict=True):
            block.mlp.activation = activation


def test_squaring_every_position_is_wrong_but_in_the_last_layer(tiny, batch, exact):
    """Planted: attention couples positions, so a mask of all positions has cross terms, but not above all attention."""

    def squares(labels):
        each = by_position(tiny, batch[0], labels)
        return {
            "right": each.sum(1).square().sum(2) / LENGTH,
            "wrong": each.square().sum((1, 3)) / LENGTH,
        }

    found = over_labels(tiny, batch[0], squares)
    torch.testing.assert_close(found["right"], exact["each"], rtol=1e-10, atol=0)
    torch.testing.assert_close(found["wrong"][-1], exact["each"][-1], rtol=1e-10, atol=0)
    assert abs(found["wrong"][0] / exact["each"][0] - 1) > 0.02


def test_drawn_labels_give_the_forms(tiny, batch, exact):
    found = fisher_forms(tiny, batch[0], draws=60, seed=0)
    for name, value in exact.items():
        if name != "each":
            assert found[f"fisher_{name}"] == pytest.approx(value, rel=0.3), name
    assert (found["count_heads"], found["count_columns"], found["count_layers"]) == (HEADS, COLUMNS, LAYERS)
    assert found == fisher_forms(tiny, batch[0], draws=60, seed=0)


# Runs -----------------------------------------------------------------------------------------------------------------


def test_masks_are_the_methods_own_and_none_of_training():
    mine = sampler(normalise=False)
    (mask, *others) = mine.masks(HALF, 8)
    assert len(mask.active_layers) == 1
    assert all(layer is None or (layer.head_scale == 1 and len(layer.columns) == 2) for layer in mask.layers)
    trained = [mine.method.mask(step) for step in range(1, 21)]
    assert len({str(one) for one in (mask, *others)} | {str(one) for one in trained}) > 8
    free = sampler().masks(Rates(mlp=0.5), 8, bernoulli=True)
    assert len({len(layer.columns) for mask in free for layer in mask.layers}) > 1


def test_both_sides_of_every_transition_and_the_end_are_measured():
    plan = sampler().plan(150)
    assert plan == {20: ([0, 1], PARTS), 70: ([1, 2], PARTS), 150: ([1], ("all",))}


@pytest.mark.parametrize("masks", [0, 1, 3, 7, 12, 20])
def test_a_number_of_masks_that_does_not_divide_is_refused(masks):
    with pytest.raises(InputError, match=f"masks={masks};"):
        SamplingSettings(masks=masks, sequences=1, draws=1)


def test_a_finished_run_gets_its_rows_once(spec, changed, quiet, tmp_path):
    scale = SCALES["smoke"]
    spec = changed(spec, settings__steps=15, settings__save_every=15)
    result = run(spec, quiet, root=tmp_path)
    measure_sampling_loss(scale, spec, result)
    rows = pd.read_csv(result.folder / "sampling.csv")
    assert sorted(rows["step"].unique()) == [2, 7, 15]
    assert np.isfinite(rows["value"]).all()
    table = rows.pivot_table(index="metric", columns="step", values="value")[2]
    assert table["stage0_all_cost"] != table["stage1_all_cost"] == table["stage1_width_cost"]
    assert "stage2_all_cost" not in set(rows["metric"])
    before = (result.folder / "sampling.csv").stat().st_mtime_ns
    measure_sampling_loss(scale, spec, result)
    measure_sampling_loss(replace(scale, lr={}), spec, result)
    assert (result.folder / "sampling.csv").stat().st_mtime_ns == before
    measure_sampling_loss(scale, replace(spec, method="full"), replace(result, folder=tmp_path / "none"))
    assert not (tmp_path / "none").exists(), "runs of other methods are left alone"
