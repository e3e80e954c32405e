"""Hutchinson's estimator: over all sign vectors, against a dense Hessian, and its bookkeeping."""

import itertools
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from est_analysis.curvature.loss import token_loss
from est_analysis.curvature.trace import curvature_along, hutchinson, signs_like
from est_analysis.errors import InputError
from est_analysis.rng import stream

# --- a function of 7 parameters, all 2^7 sign vectors -----------------------------------------------------------------

POINT = {
    "a": torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64),
    "b": torch.tensor([0.5, -0.4, 0.9], dtype=torch.float64),
}


def _quartic(parameters):
    a, b = parameters["a"], parameters["b"]
    return (a @ a).trace() ** 2 + (a.sum() * b).tanh().sum() + (b[0] * b[1] * b[2]) * a[0, 1] + (b**3).sum()


def _split(vector):
    return {"a": vector[:4].view(2, 2), "b": vector[4:]}


def _dense_hessian(function, point):
    """By reverse over reverse differentiation, a row at a time."""
    point = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point, create_graph=True)
    return torch.stack([torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in gradient])


def test_mean_and_variance_over_all_sign_vectors():
    point = torch.cat([POINT["a"].flatten(), POINT["b"]])
    hessian = _dense_hessian(lambda vector: _quartic(_split(vector)), point)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=7)), dtype=torch.float64)
    values = torch.stack([curvature_along(_quartic, POINT, _split(signs)) for signs in every])
    off_diagonal = hessian - hessian.diag().diag()
    # v'Hv are sums of 49 numbers of order 10 in float64: rounding below 1e-12.
    torch.testing.assert_close(values.mean(), hessian.trace(), atol=1e-12, rtol=0)
    torch.testing.assert_close(values.var(correction=0), 2 * off_diagonal.square().sum(), atol=0, rtol=1e-12)
    assert off_diagonal.square().sum() > 1, "the function is not separable"


# --- a tiny GPT-2 against its dense Hessian ---------------------------------------------------------------------------


def _dense_model_hessian(model, tokens, labels):
    """Of the parameters themselves, the tied embedding once, by reverse over reverse differentiation."""
    parameters = list(dict(model.named_parameters()).values())
    loss = F.cross_entropy(model(tokens).logits.flatten(0, 1), labels.flatten())
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in flat]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.fixture(scope="module")
def model(make_gpt2):
    return make_gpt2()


@pytest.fixture(scope="module")
def batches(make_batches):
    return make_batches(3)


@pytest.fixture(scope="module")
def hessians(model, batches):
    return [_dense_model_hessian(model, *batch) for batch in batches]


def _parameters(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def _flat(direction):
    return torch.cat([value.flatten() for value in direction.values()])


def _exact_value(hessian, model, probe, seed=0):
    v = _flat(signs_like(_parameters(model), seed, probe))
    return v @ hessian @ v


# v'Hv adds about 200^2 numbers of order 0.1, differentiated in two different orders: rounding of 1e-13 or so.
CLOSE = {"atol": 1e-10, "rtol": 1e-10}


@pytest.mark.parametrize("probe", range(3))
def test_curvature_along_a_probe_equals_the_dense_hessian(model, batches, hessians, probe):
    parameters = _parameters(model)
    value = curvature_along(token_loss(model, *batches[0]), parameters, signs_like(parameters, 0, probe))
    torch.testing.assert_close(value, _exact_value(hessians[0], model, probe), **CLOSE)


def test_curvature_along_any_direction_and_within_one_parameter(model, batches, hessians):
    """Unit vectors: diagonal entries, of the tied embedding in particular, where both of its uses meet."""
    parameters, offset = _parameters(model), 0
    for name, parameter in parameters.items():
        direction = {other: torch.zeros_like(p) for other, p in parameters.items()}
        direction[name].view(-1)[-1] = 2.0
        offset += parameter.numel()
        value = curvature_along(token_loss(model, *batches[0]), parameters, direction)
        torch.testing.assert_close(value, 4 * hessians[0][offset - 1, offset - 1], **CLOSE, msg=name)


def test_the_tied_embedding_is_one_parameter(model):
    assert model.lm_head.weight is model.transformer.wte.weight
    assert "lm_head.weight" not in _parameters(model)


def test_hutchinson_takes_a_fresh_probe_for_every_batch(model, batches, hessians):
    estimate = hutchinson(model, batches, seed=5)
    values = [_exact_value(h, model, probe, seed=5).item() for probe, h in enumerate(hessians)]
    assert estimate.value == pytest.approx(statistics.fmean(values), rel=1e-10)
    assert estimate.stderr == pytest.approx(statistics.stdev(values) / math.sqrt(3), rel=1e-10)
    assert estimate.pairs == 3
    assert estimate.seconds > 0


def test_ignored_labels_do_not_count(model, batches):
    tokens, labels = batches[0]
    half = labels.clone()
    half[1] = -100
    parameters = _parameters(model)
    direction = signs_like(parameters, 0, 0)
    masked = curvature_along(token_loss(model, tokens, half), parameters, direction)
    alone = curvature_along(token_loss(model, tokens[:1], labels[:1]), parameters, direction)
    torch.testing.assert_close(masked, alone, **CLOSE)


# --- closed form: a table of logits, one row a token (logistic regression) -------------------------------------------


class Bigram(torch.nn.Module):
    """logits = table[token], so H is block diagonal with blocks (share of the token) (diag p - p p')."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(7, 7, dtype=torch.float64, generator=stream(0, "table")))

    def forward(self, tokens, use_cache):
        assert use_cache is False
        return SimpleNamespace(logits=self.table[tokens])


def _bigram_law(model, tokens, probe_mean=0.0):
    """Mean and variance of v'Hv for signs of mean `probe_mean` (the variance for 0)."""
    share = torch.bincount(tokens.flatten(), minlength=7) / tokens.numel()
    p = model.table.detach().softmax(1)
    blocks = share[:, None, None] * (torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    off_diagonal = blocks - torch.diag_embed(blocks.diagonal(dim1=1, dim2=2))
    trace = (blocks - off_diagonal).sum()
    return (trace + probe_mean**2 * off_diagonal.sum()).item(), 2 * off_diagonal.square().sum().item()


def test_the_estimate_lies_within_its_known_deviation_of_the_closed_form(batches):
    model, pairs = Bigram(), 300
    trace, variance = _bigram_law(model, batches[0][0])
    deviation = math.sqrt(variance / pairs)
    estimate = hutchinson(model, [batches[0]] * pairs, seed=0)

    def agrees(value):
        return abs(value - trace) < 4 * deviation

    assert agrees(estimate.value)
    # The relative deviation of a standard deviation from n draws is sqrt((kurtosis - 1) / 4 n): 0.06 at kurtosis 5.
    assert estimate.stderr == pytest.approx(deviation, rel=0.25)
    # Planted: signs that are + three times in four, and one probe in ten lost from the sum.
    assert not agrees(_bigram_law(model, batches[0][0], probe_mean=0.5)[0])
    assert not agrees(0.9 * estimate.value)


# --- probes -----------------------------------------------------------------------------------------------------------


def test_signs_are_fair_and_independent_between_parameters_probes_and_seeds():
    zeros = {"a": torch.zeros(100, 100), "b": torch.zeros(10_000, dtype=torch.float64)}
    base, other_probe, other_seed = signs_like(zeros, 0, 0), signs_like(zeros, 0, 1), signs_like(zeros, 1, 0)
    assert base["a"].shape == (100, 100)
    assert (base["a"].dtype, base["b"].dtype) == (torch.float32, torch.float64)
    assert base["a"].unique().tolist() == [-1.0, 1.0]
    flat = [d[name].flatten().double() for d in (base, other_probe, other_seed) for name in ("a", "b")]
    limit = 4.5 / math.sqrt(10_000)  # a mean of 10,000 independent signs has deviation 1/100
    assert all(abs(signs.mean()) < limit for signs in flat)
    assert all(abs((x * y).mean()) < limit for x, y in itertools.combinations(flat, 2))


def test_probes_depend_on_seed_probe_and_name_alone():
    small = {"b": torch.zeros(5)}
    alone, after_others = signs_like(small, 0, 3), signs_like({"a": torch.zeros(4), **small}, 0, 3)
    assert torch.equal(alone["b"], after_others["b"])


# --- manners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(make_gpt2, batches, training):
    model = make_gpt2().train(training)
    model.transformer.wte.weight.grad = torch.full_like(model.transformer.wte.weight, 7.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    rng = torch.get_rng_state()
    if training:  # dropout draws from the global generator: not the estimator's doing
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    hutchinson(model, batches, seed=0)
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert model.lm_head.weight is model.transformer.wte.weight
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert list(gradients) == ["transformer.wte.weight"]
    assert gradients["transformer.wte.weight"].eq(7).all()


@pytest.mark.parametrize("count", [0, 1])
def test_an_error_needs_two_batches(model, batches, count):
    with pytest.raises(InputError, match=f"{count} batches give no standard error; use at least 2"):
        hutchinson(model, iter(batches[:count]), seed=0)
