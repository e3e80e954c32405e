"""Plain MLPs under masks, their bank, and a bank of classifiers: each is its nets, one by one."""

import pytest
import torch
import torch.nn.functional as F

from est_analysis.errors import InputError
from est_analysis.models.bank import ResidualNetBank
from est_analysis.models.mlp import PlainMLP
from est_analysis.models.mlp_bank import MLPBank
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask, UnitDropout
from est_analysis.subnet.sample import sample_bernoulli, sample_fixed_size, sample_independent
from est_analysis.subnet.schedule import Rates

NETS, SAMPLES, COLUMNS, CLASSES = 3, 7, 8, 4
EXACT = {"atol": 1e-12, "rtol": 1e-10}  # float64; sums of at most 8 products, other orders of summation


def _nets(randomise, outputs):
    return [randomise(PlainMLP(num_inputs=5, columns=COLUMNS, num_outputs=outputs), seed=i) for i in range(NETS)]


def _data(outputs):
    x = torch.randn(NETS, SAMPLES, 5, generator=stream(0, "x"), dtype=torch.float64)
    if outputs == 1:
        return x, torch.randn(NETS, SAMPLES, generator=stream(0, "y"), dtype=torch.float64)
    return x, torch.randint(outputs, (NETS, SAMPLES), generator=stream(0, "y"))


def _loss(outputs, targets):
    return F.cross_entropy(outputs, targets) if outputs.dim() == 2 else F.mse_loss(outputs, targets)


def _masks(shape):
    half = [sample_fixed_size(shape, Rates(mlp=0.5), generator=stream(seed, "mask")) for seed in range(NETS)]
    drops = [UnitDropout(heads=1.0, columns=0.5, stream=(seed, "drop")) for seed in range(NETS)]
    return {
        "full": [None] * NETS,
        "est": half,
        "unscaled": [mask.unscaled() for mask in half],
        "one full": [None, *half[1:]],
        "independent": [sample_independent(shape, Rates(mlp=0.5), generator=stream(s, "mask")) for s in range(NETS)],
        "dropout": [SubnetMask(layers=(LayerMask(dropout=drop),)) for drop in drops],
    }


@pytest.mark.parametrize("kind", ["est", "unscaled"])
def test_a_mask_is_zeroing_and_scaling_by_hand(randomise, kind):
    net, (x, _) = _nets(randomise, CLASSES)[0], _data(CLASSES)
    mask = _masks(net.shape)[kind][0]
    (layer,) = mask.layers
    gates = torch.zeros(COLUMNS, dtype=torch.float64)
    gates[layer.columns] = {"est": 2.0, "unscaled": 1.0}[kind]
    hidden = F.gelu(x[0] @ net.up_weight.T + net.up_bias, approximate="tanh") * gates
    torch.testing.assert_close(net(x[0], mask), hidden @ net.down_weight + net.down_bias, **EXACT)


@pytest.mark.parametrize("kind", ["full", "est", "unscaled", "one full", "independent", "dropout"])
@pytest.mark.parametrize("outputs", [1, CLASSES])
def test_a_bank_of_mlps_equals_its_nets_under_autograd(randomise, kind, outputs):
    nets = _nets(randomise, outputs)
    bank, (x, y) = MLPBank(nets), _data(outputs)
    masks = _masks(bank.shape)[kind]
    joined = bank.join(masks)
    assert (joined is None) == (kind == "full")
    losses = bank.gradients(x, y, joined)
    torch.testing.assert_close(bank.losses(x, y, joined), losses, **EXACT)
    outputs_of_bank = bank(x, joined)
    for i, (net, mask) in enumerate(zip(nets, masks, strict=True)):
        output = net(x[i], mask)
        loss = _loss(output, y[i])
        loss.backward()
        torch.testing.assert_close(outputs_of_bank[i], output.detach(), **EXACT)
        torch.testing.assert_close(losses[i], loss.detach(), **EXACT)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(dict(bank.named_parameters())[name].grad[i], parameter.grad, **EXACT)


@pytest.mark.parametrize("switches", [{}, {"residual": False}, {"layer_norm": False}])
@pytest.mark.parametrize("masked", [False, True])
def test_a_bank_of_classifiers_equals_its_nets_under_autograd(randomise, switches, masked):
    sizes = {"num_inputs": 5, "hidden": 6, "num_layers": 4, "mlp_columns": COLUMNS, "num_outputs": CLASSES}
    nets = [randomise(ResidualNet(**sizes, **switches), seed=i) for i in range(NETS)]
    bank, (x, y) = ResidualNetBank(nets), _data(CLASSES)
    draws = [sample_bernoulli(bank.shape, 2.5, always_kept={0}, generator=stream(s, "mask")) for s in range(NETS)]
    masks = draws if masked else [None] * NETS
    losses = bank.gradients(x, y, bank.join(masks))
    torch.testing.assert_close(bank.losses(x, y, bank.join(masks)), losses, **EXACT)
    assert bank(x).shape == (NETS, SAMPLES, CLASSES)
    for i, (net, mask) in enumerate(zip(nets, masks, strict=True)):
        loss = F.cross_entropy(net(x[i], mask), y[i])
        loss.backward()
        torch.testing.assert_close(losses[i], loss.detach(), **EXACT)
        for name, parameter in net.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(dict(bank.named_parameters())[name].grad[i], expected, **EXACT)


@pytest.mark.parametrize(
    "mask",
    [
        SubnetMask(layers=(None,)),
        SubnetMask.full(2),
        SubnetMask(layers=(LayerMask(scale=2.0),)),
        SubnetMask(layers=(LayerMask(column_gate=torch.ones(COLUMNS)),)),
    ],
)
def test_masks_that_mean_nothing_are_refused(randomise, mask):
    with pytest.raises(InputError, match="a plain MLP has"):
        _nets(randomise, 1)[0](_data(1)[0][0], mask)


def test_sizes_are_checked():
    with pytest.raises(InputError, match="empty one"):
        PlainMLP(num_inputs=3, columns=0)
    with pytest.raises(InputError, match="at least one"):
        MLPBank([])
