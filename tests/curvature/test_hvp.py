"""Hessian-vector products: over all sign vectors, against closed forms, dense Hessians and PyHessian."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from pyhessian import hessian as PyHessian
from pyhessian.utils import hessian_vector_product
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GPT2Config, GPT2LMHeadModel

from est_analysis.curvature.hvp import HessianOperator, HvpEngine
from est_analysis.curvature.loss import CallableObjective, LanguageModelObjective
from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError
from est_analysis.rng import stream

# Sums of at most 500^2 float64 numbers of order 1, differentiated in two different orders: rounding of 1e-13 or so.
CLOSE = {"atol": 1e-10, "rtol": 1e-10}


def randn(*shape, name="x"):
    return torch.randn(*shape, generator=stream(0, name), dtype=torch.float64)


def dense_hessian(objective, batch):
    """(n, n) over the flattened parameters, by reverse over reverse differentiation, a row at a time."""
    leaves = {name: p.clone().requires_grad_() for name, p in objective.parameters.items()}
    options = {"allow_unused": True, "materialize_grads": True}
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.autograd.grad(objective.loss(leaves, batch), leaves.values(), create_graph=True, **options)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(entry, leaves.values(), retain_graph=True, **options) for entry in flat]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def flat_signs(objective, probes, k):
    return torch.cat([probes[k].like(name, p)[0].flatten() for name, p in objective.parameters.items()])


def block_sums(objective, terms):
    return torch.stack([part.sum() for part in terms.split([p.numel() for p in objective.parameters.values()])])


def mlp():
    """A tanh network of 23 parameters, its mean squared error, and a batch."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(randn(*p.shape, name=name))
    objective = CallableObjective(
        model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), lambda b: len(b[0])
    )
    return objective, (randn(5, 3), randn(5, 2, name="y"))


@pytest.fixture(scope="module")
def gpt2():
    with torch.random.fork_rng():
        sizes = {"vocab_size": 11, "n_positions": 6, "n_embd": 4, "n_layer": 2, "n_head": 2, "n_inner": 5}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation="sdpa"))
    with torch.no_grad():
        for name, p in model.double().named_parameters():
            p.normal_(1.0 if "ln_" in name and "weight" in name else 0.0, 0.4, generator=stream(0, name))
    return model.train()


@pytest.fixture(scope="module")
def objective(gpt2):
    return LanguageModelObjective(gpt2, "causal")


def tokens(count, name="tokens"):
    return {"input_ids": torch.randint(11, (count, 6), generator=stream(0, name))}


# --- the engine -------------------------------------------------------------------------------------------------------


class Every:
    """All sign vectors of two parameters: the interface of Probes, by enumeration."""

    def __init__(self, sizes, numbers=None):
        self.sizes = sizes
        self.every = list(itertools.product((-1.0, 1.0), repeat=sum(sizes.values())))
        self.numbers = range(len(self.every)) if numbers is None else numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return Every(self.sizes, [self.numbers[index]])

    def like(self, name, tensor):
        signs = torch.tensor([self.every[k] for k in self.numbers], dtype=tensor.dtype)
        parts = dict(zip(self.sizes, signs.split(list(self.sizes.values()), dim=1), strict=True))
        return parts[name].reshape(-1, *tensor.shape)


class Quartic(nn.Module):
    """Two parameters of 4 and 3 elements whose Hessian is full."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5, -0.4, 0.9], dtype=torch.float64))

    def forward(self, scale):
        a, b = self.a, self.b
        return scale * ((a @ a).trace() ** 2 + (a.sum() * b).tanh().sum() + b.prod() * a[0, 1] + (b**3).sum())


def test_mean_and_variance_over_all_sign_vectors():
    quartic = CallableObjective(Quartic(), lambda model, scale: model(scale))
    hessian = dense_hessian(quartic, 2.0)
    off_diagonal = hessian - hessian.diag().diag()
    measured = HvpEngine().measure(quartic, 2.0, Every({"a": 4, "b": 3}))
    assert measured.values.shape == (128,)
    torch.testing.assert_close(measured.values.mean(), hessian.trace(), atol=1e-12, rtol=0)
    torch.testing.assert_close(measured.values.var(correction=0), 2 * off_diagonal.square().sum(), atol=0, rtol=1e-12)
    # Each block's mean is its own trace: what couples blocks cancels.
    torch.testing.assert_close(measured.blocks.mean(0), block_sums(quartic, hessian.diag()), atol=1e-12, rtol=0)
    assert off_diagonal[:4, 4:].abs().min() > 0.01


def test_each_probe_of_a_tiny_gpt2_equals_its_dense_hessian(objective):
    batch, probes = tokens(2), Probes(3, (0, 7, 2))
    hessian = dense_hessian(objective, batch)
    measured = HvpEngine().measure(objective, batch, probes)
    assert measured.loss == pytest.approx(objective.loss(objective.parameters, batch).item(), rel=1e-12)
    for k in range(3):
        v = flat_signs(objective, probes, k)
        torch.testing.assert_close(measured.blocks[k], block_sums(objective, v * (hessian @ v)), **CLOSE)
    assert measured.blocks.dtype == torch.float64
    assert torch.equal(measured.blocks.sum(1), measured.values)
    assert "lm_head.weight" not in objective.parameters, "the tied table is one parameter"


def test_float32_rounds_no_more_than_float32(gpt2, objective):
    exact = HvpEngine().measure(objective, tokens(2), Probes(0, range(4)))
    single = LanguageModelObjective(copy.deepcopy(gpt2).float(), "causal")
    measured = HvpEngine().measure(single, tokens(2), Probes(0, range(4)))
    assert measured.blocks.dtype == torch.float64
    # 500 products of size up to 10 with a rounding of 6e-8 each, and a few dozen operations deep.
    torch.testing.assert_close(measured.values, exact.values, atol=1e-3, rtol=1e-4)


def test_the_same_with_the_fused_attention_as_with_the_plain_one(gpt2, objective):
    plain = copy.deepcopy(gpt2)
    plain.set_attn_implementation("eager")
    engine, probes = HvpEngine(), Probes(0, range(2))
    expected = engine.measure(LanguageModelObjective(plain, "causal"), tokens(2), probes)
    torch.testing.assert_close(engine.measure(objective, tokens(2), probes).blocks, expected.blocks, **CLOSE)


class Partial(nn.Module):
    """The loss is quadratic in `curved`, linear in `straight` (apart from `curved`), and ignores `unused`."""

    def __init__(self):
        super().__init__()
        for name in ("unused", "straight", "curved"):
            self.register_parameter(name, nn.Parameter(torch.ones(3, dtype=torch.float64)))


@pytest.mark.parametrize(("power", "expected"), [(2, 6.0), (1, 0.0), (0, 0.0)])
def test_parameters_without_curvature_have_zero_blocks(power, expected):
    def loss(model, batch):
        return (model.curved**power).sum() + model.straight.sum()

    measured = HvpEngine().measure(CallableObjective(Partial(), loss), None, Probes(0, range(2)))
    assert measured.blocks.tolist() == [[0.0, 0.0, expected]] * 2


def test_a_loss_without_the_parameters_is_refused():
    constant = CallableObjective(Partial(), lambda model, batch: torch.tensor(1.0))
    with pytest.raises(InputError, match="does not depend on the model's parameters"):
        HvpEngine().measure(constant, None, Probes(0, (0,)))


def test_an_operator_without_second_derivative_is_refused_in_one_line_that_names_it():
    def fused(model, batch):
        x = model.curved.view(1, 1, 3, 1).expand(1, 1, 3, 8).contiguous()
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x)[0].sum()

    with pytest.raises(InputError, match=r"flash_attention.*eager") as caught:
        HvpEngine().measure(CallableObjective(Partial(), fused), None, Probes(0, (0,)))
    assert len(str(caught.value).splitlines()) == 1


def test_other_errors_of_the_backward_pass_are_not_disguised():
    def loss(model, batch):
        square = (model.curved**2).sum()
        square.register_hook(lambda gradient: 1 / 0)
        return square

    with pytest.raises(ZeroDivisionError):
        HvpEngine().measure(CallableObjective(Partial(), loss), None, Probes(0, (0,)))


def test_the_model_and_the_global_generator_are_left_as_they_were(gpt2, objective):
    gpt2.transformer.wte.weight.grad = torch.full_like(gpt2.transformer.wte.weight, 7.0)
    gpt2.transformer.wpe.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in gpt2.state_dict().items()}
    flags = {name: p.requires_grad for name, p in gpt2.named_parameters()}
    rng = torch.get_rng_state()
    with torch.no_grad():
        HvpEngine().measure(objective, tokens(2), Probes(0, range(2)))
        HessianOperator(objective, [tokens(2)]).matvec(
            torch.ones(sum(p.numel() for p in objective.parameters.values()))
        )
    assert gpt2.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(state[name], tensor) for name, tensor in gpt2.state_dict().items())
    assert {name: p.requires_grad for name, p in gpt2.named_parameters()} == flags
    assert {name for name, p in gpt2.named_parameters() if p.grad is not None} == {"transformer.wte.weight"}
    assert gpt2.transformer.wte.weight.grad.eq(7).all()
    assert not any(p.requires_grad for p in objective.parameters.values())
    gpt2.transformer.wte.weight.grad = None
    gpt2.transformer.wpe.weight.requires_grad_(True)


# --- the operator -----------------------------------------------------------------------------------------------------


def test_linear_regression_in_closed_form():
    """Loss |Xw - y|^2 / N: H = 2 X'X / N, whatever y and w; the operator over unequal batches is that of all rows."""
    x, y = randn(7, 4), randn(7, 1, name="y")
    model = nn.Linear(4, 1, bias=False).double()
    objective = CallableObjective(model, lambda m, b: F.mse_loss(m(b[0]), b[1]), lambda b: len(b[0]))
    operator = HessianOperator(objective, [(x[:2], y[:2]), (x[2:], y[2:])])
    assert operator.n == 4
    dense = torch.stack([operator.matvec(unit) for unit in torch.eye(4, dtype=torch.float64)])
    torch.testing.assert_close(dense, 2 * x.T @ x / 7, **CLOSE)
    unweighted = (2 * x[:2].T @ x[:2] / 2 + 2 * x[2:].T @ x[2:] / 5) / 2
    assert (unweighted - dense).abs().max() > 0.01, "a mean of batch means is another matrix"


def test_logistic_regression_in_closed_form():
    """H = sum_i (diag p_i - p_i p_i') kron x_i x_i' / N for weights (classes, features)."""
    x, labels = randn(6, 3), torch.tensor([0, 2, 1, 1, 3, 0])
    model = nn.Linear(3, 4, bias=False).double()
    objective = CallableObjective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), lambda b: len(b[0]))
    p = model(x).softmax(1).detach()
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("icd,ij,ik->cjdk", covariance, x, x).reshape(12, 12) / 6
    operator = HessianOperator(objective, [(x, labels)])
    dense = torch.stack([operator.matvec(unit) for unit in torch.eye(12, dtype=torch.float64)])
    torch.testing.assert_close(dense, expected, **CLOSE)


@pytest.mark.parametrize("count", [1, 2])
def test_products_equal_the_dense_hessian_weighted_by_targets(objective, count):
    short = tokens(1, "short")
    batches = [tokens(2), {"input_ids": short["input_ids"][:, :3]}][:count]  # 10 and 2 targets
    operator = HessianOperator(objective, batches)
    dense = [dense_hessian(objective, batch) for batch in batches]
    expected = dense[0] if count == 1 else (10 * dense[0] + 2 * dense[1]) / 12
    for name in ("v", "w"):
        v = randn(operator.n, name=name)
        torch.testing.assert_close(operator.matvec(v), expected @ v, **CLOSE)


def test_vectors_keep_their_dtype_and_split_by_parameter(objective):
    operator = HessianOperator(objective, [tokens(1)])
    v = randn(operator.n)
    parts = operator.split(v)
    assert {name: part.shape for name, part in parts.items()} == {n: p.shape for n, p in objective.parameters.items()}
    assert torch.equal(torch.cat([part.flatten() for part in parts.values()]), v)
    single = operator.matvec(v.float())
    assert single.dtype == torch.float32
    # v rounded to 6e-8 of itself, and H v of order 10.
    torch.testing.assert_close(single.double(), operator.matvec(v), atol=1e-5, rtol=1e-5)


def test_bad_vectors_and_no_batches_are_refused(objective):
    with pytest.raises(InputError, match="0 batches make no Hessian"):
        HessianOperator(objective, [])
    operator = HessianOperator(objective, [tokens(1)])
    with pytest.raises(InputError, match=rf"shape \(5,\) for {operator.n} parameters"):
        operator.matvec(torch.ones(5))


def test_a_product_that_is_not_finite_is_refused():
    objective = CallableObjective(Partial(), lambda model, batch: (model.curved - 1).abs().sqrt().sum())
    with pytest.raises(InputError, match="not finite; check the weights"):
        HessianOperator(objective, [None]).matvec(torch.ones(9))


@pytest.mark.filterwarnings("ignore:Using backward")  # PyHessian's way
def test_pyhessian_agrees_on_its_own_probes():
    objective, (x, y) = mlp()
    theirs = PyHessian(copy.deepcopy(objective._module.model), F.mse_loss, data=(x, y), cuda=False)
    operator = HessianOperator(objective, [(x, y)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = theirs.trace(maxIter=4, tol=0)
        torch.manual_seed(0)  # the same draws again
        probes = [[2.0 * torch.randint_like(p, high=2) - 1 for p in theirs.params] for _ in range(4)]
    for value, probe in zip(values, probes, strict=True):
        v = torch.cat([part.flatten() for part in probe]).detach()
        assert v @ operator.matvec(v) == pytest.approx(value, rel=1e-10)
        product = torch.cat([h.flatten() for h in hessian_vector_product(theirs.gradsH, theirs.params, probe)])
        torch.testing.assert_close(operator.matvec(v), product, **CLOSE)


def test_an_mlp_by_finite_differences_of_its_gradient():
    objective, batch = mlp()
    operator = HessianOperator(objective, [batch])
    v = randn(operator.n, name="v")

    def gradient(step):
        shifted = {name: p + step * operator.split(v)[name] for name, p in objective.parameters.items()}
        leaves = {name: p.requires_grad_() for name, p in shifted.items()}
        return torch.cat([g.flatten() for g in torch.autograd.grad(objective.loss(leaves, batch), leaves.values())])

    step = 1e-5  # central: truncation 1e-10 of third derivatives of order 10, rounding 1e-16 / 1e-5
    torch.testing.assert_close(
        operator.matvec(v), (gradient(step) - gradient(-step)) / (2 * step), atol=1e-7, rtol=1e-7
    )


# --- statistics, and what they must catch -----------------------------------------------------------------------------


def test_the_mean_over_probes_is_the_trace_and_biased_mutants_are_caught():
    """Logistic regression: the trace is several deviations of a single probe."""
    x, labels = randn(6, 3) + 1, torch.tensor([0, 2, 1, 1, 3, 0])
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(randn(*p.shape, name=name))
    logistic = CallableObjective(model, lambda m, b: F.cross_entropy(m(b), labels))
    hessian = dense_hessian(logistic, x)
    off_diagonal = hessian - hessian.diag().diag()
    count = 1000
    deviation = (2 * off_diagonal.square().sum() / count).sqrt().item()
    measured = HvpEngine().measure(logistic, x, Probes(1, range(count)))

    def agrees(mean):
        return abs(mean - hessian.trace()) < 4 * deviation

    assert agrees(measured.values.mean())
    # The relative deviation of a standard deviation from n draws is sqrt((kurtosis - 1) / 4 n): 0.03 at kurtosis 5.
    assert measured.values.std() / count**0.5 == pytest.approx(deviation, rel=0.15)
    # Planted: signs that are + three times in four; a bias left out; one probe in four lost from the sum.
    assert not agrees(hessian.trace() + 0.5**2 * off_diagonal.sum())
    assert not agrees(measured.blocks[:, [0, 2, 3]].sum(1).mean())
    assert not agrees(0.75 * measured.values.mean())
