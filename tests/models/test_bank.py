"""A bank of nets is its nets, one by one: outputs, losses and gradients, under every kind of mask."""

import pytest
import torch

from est_analysis.errors import InputError
from est_analysis.models.bank import ResidualNetBank, join_masks
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.sample import sample_bernoulli, sample_fixed_size
from est_analysis.subnet.schedule import Rates

NETS, SAMPLES, COLUMNS = 3, 7, 8
EXACT = {"atol": 1e-12, "rtol": 1e-10}  # float64; sums of at most 8 products, other orders of summation


def _nets(randomise, **switches):
    return [
        randomise(ResidualNet(num_inputs=5, hidden=6, num_layers=4, mlp_columns=COLUMNS, **switches), seed=i)
        for i in range(NETS)
    ]


def _bernoulli(shape, seed, scale="none"):
    return sample_bernoulli(shape, 2.5, always_kept={0}, scale=scale, generator=stream(seed, "mask"))


def _masks(shape):
    depth = shape.num_layers
    rates = Rates(mlp=0.5, layers=0.5)
    return {
        "full": [None] * NETS,
        "bernoulli": [_bernoulli(shape, seed) for seed in range(NETS)],
        "one full": [None, *(_bernoulli(shape, seed) for seed in range(NETS - 1))],
        "est": [sample_fixed_size(shape, rates, generator=stream(seed, "mask")) for seed in range(NETS)],
        "nothing": [SubnetMask(layers=(None,) * depth)] * NETS,
    }


def _scaled(shape):
    masks = {"sqrt_gap": [_bernoulli(shape, seed, "sqrt_gap") for seed in range(NETS)]}
    layers = (LayerMask(scale=1.5), None, LayerMask(sublayer_scale=2.0), LayerMask())
    return masks | {"both scales": [SubnetMask(layers=layers), SubnetMask(layers=layers[::-1]), None]}


def _data():
    x = torch.randint(2, (NETS, SAMPLES, 5), generator=stream(0, "x")).double() * 2 - 1
    return x, torch.randn(NETS, SAMPLES, generator=stream(0, "y"), dtype=torch.float64)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_it_equals_its_nets_under_autograd(randomise, residual, layer_norm):
    nets = _nets(randomise, residual=residual, layer_norm=layer_norm)
    bank = ResidualNetBank(nets)
    x, y = _data()
    # Scales of the whole layer are RaPTr's and mean x + s f(x): without a residual there is nothing they could mean.
    for kind, masks in (_masks(bank.shape) | (_scaled(bank.shape) if residual else {})).items():
        joined = join_masks(masks, COLUMNS)
        losses = bank.gradients(x, y, joined)
        outputs = bank(x, joined)
        for i, net in enumerate(nets):
            net.zero_grad(set_to_none=True)
            loss = net.loss(x[i], y[i], masks[i])
            loss.backward()
            torch.testing.assert_close(outputs[i], net(x[i], masks[i]).detach(), **EXACT, msg=f"{kind}: output {i}")
            torch.testing.assert_close(losses[i], loss.detach(), **EXACT, msg=f"{kind}: loss {i}")
            for name, parameter in net.named_parameters():
                expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                found = bank.get_parameter(name).grad[i]
                torch.testing.assert_close(found, expected, **EXACT, msg=lambda m, n=name, k=kind: f"{k}: {n}: {m}")


def test_shared_inputs_and_vmap_agree(randomise):
    nets = _nets(randomise)
    bank = ResidualNetBank(nets)
    x = _data()[0][:1]
    state, _ = torch.func.stack_module_state(nets)
    outputs = torch.func.vmap(lambda p: torch.func.functional_call(nets[0], p, (x[0],)))(state)
    torch.testing.assert_close(bank(x), outputs.detach(), **EXACT)


def test_a_net_can_be_taken_out_again(randomise):
    nets = _nets(randomise)
    state = ResidualNetBank(nets).state_of(1)
    assert state.keys() == nets[1].state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in nets[1].state_dict().items())


def test_no_net_feels_another(randomise):
    nets = _nets(randomise)
    x, y = _data()
    bank = ResidualNetBank(nets)
    bank.gradients(x, y)
    before = bank.blocks[0].mlp.up_weight.grad.clone()
    with torch.no_grad():
        bank.blocks[2].mlp.up_weight[1] += 1
    bank.gradients(x, y)
    after = bank.blocks[0].mlp.up_weight.grad
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])


def test_what_cannot_be_batched_is_refused(randomise):
    with pytest.raises(InputError, match="0 nets"):
        ResidualNetBank([])
    one = SubnetMask(layers=(LayerMask(columns=torch.tensor([0, 1]), column_scale=4.0),))
    with pytest.raises(InputError, match="must agree"):
        join_masks([one, None], COLUMNS)
    bank = ResidualNetBank(_nets(randomise))
    with pytest.raises(InputError, match="mask of 1 layers does not fit"):
        bank(_data()[0], join_masks([SubnetMask(layers=(None,))] * NETS, COLUMNS))
