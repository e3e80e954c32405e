import pytest
import torch
import torch.nn.functional as F

from est_analysis.errors import InputError
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.sample import sample_bernoulli, sample_fixed_size
from est_analysis.subnet.schedule import Rates

EXACT = {"atol": 1e-12, "rtol": 1e-12}  # float64, sums of at most 8 products


@pytest.fixture
def net(randomise):
    return randomise(ResidualNet(num_inputs=5, hidden=6, num_layers=4, mlp_columns=8))


@pytest.fixture(scope="module")
def x():
    return torch.randint(2, (7, 5), generator=stream(0, "x")).double() * 2 - 1


def _dense(net, x, mask):
    x = net.inputs(x)
    for block, layer in zip(net.blocks, mask.layers, strict=True):
        layer, on = layer or LayerMask(), layer is not None
        columns = torch.zeros(8, dtype=torch.float64)
        columns[slice(None) if layer.columns is None else layer.columns] = layer.column_scale
        normed = F.layer_norm(x, (6,), block.mlp_norm.weight, block.mlp_norm.bias)
        z = F.gelu(normed @ block.mlp.up_weight.T + block.mlp.up_bias, approximate="tanh") * columns
        x = x + on * layer.scale * (z @ block.mlp.down_weight + block.mlp.down_bias)
    return net.output(F.layer_norm(x, (6,), net.final_norm.weight, net.final_norm.bias))[:, 0]


def _masks(shape):
    generator = stream(0, "mask")
    return {
        "full": SubnetMask.full(4),
        "all bypassed": SubnetMask(layers=(None,) * 4),
        "columns": sample_fixed_size(shape, Rates(mlp=0.5, layers=0.5), generator=generator),
        "raptr": sample_bernoulli(shape, 3, always_kept={0, 3}, generator=generator),
        "sqrt_gap": sample_bernoulli(shape, 2.5, always_kept={0, 3}, scale="sqrt_gap", generator=generator),
    }


@pytest.mark.parametrize("name", ["full", "all bypassed", "columns", "raptr", "sqrt_gap"])
def test_forward_equals_the_dense_computation(net, x, name):
    mask = _masks(net.shape)[name]
    output = net(x, mask)
    assert output.shape == (7,)
    torch.testing.assert_close(output, _dense(net, x, mask), **EXACT)
    output.sum().backward()
    for i, block in enumerate(net.blocks):
        assert all((p.grad is not None) == (i in mask.active_layers) for p in block.parameters())


def test_no_mask_is_the_full_mask(net, x):
    assert torch.equal(net(x), net(x, SubnetMask.full(4)))


def test_there_is_no_attention(net):
    assert net.shape.num_heads == 0
    assert not any("attention" in name for name, _ in net.named_parameters())


def test_initialisation_keeps_the_variance_of_each_layer():
    net = ResidualNet(num_inputs=64, hidden=128, num_layers=1, mlp_columns=256).initialise(0)
    fan_in = {"inputs.weight": 64, "output.weight": 128, "blocks.0.mlp.up_weight": 128, "blocks.0.mlp.down_weight": 256}
    for name, parameter in net.named_parameters():
        if name in fan_in:
            # The mean square of n normals has relative deviation sqrt(2/n): 5 of them.
            error = 5 * (2 / parameter.numel()) ** 0.5
            assert parameter.square().mean().item() * fan_in[name] == pytest.approx(1, abs=error)
        else:
            assert parameter.unique().tolist() == [1.0 if name.endswith("weight") else 0.0]


def test_columns_default_to_the_width():
    assert ResidualNet(num_inputs=2, hidden=6, num_layers=3).shape.mlp_columns == 6


@pytest.mark.parametrize("axis", ["num_inputs", "hidden", "num_layers", "mlp_columns"])
def test_empty_sizes_are_refused(axis):
    sizes = {"num_inputs": 2, "hidden": 3, "num_layers": 1, "mlp_columns": 4} | {axis: 0}
    with pytest.raises(InputError, match="has an empty one"):
        ResidualNet(**sizes)
