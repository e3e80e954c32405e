"""Fisher traces: over all targets and all signs, and against the Jacobian of the logits."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from est_analysis.curvature.fisher import EmpiricalFisherEngine, FisherEngine
from est_analysis.curvature.hvp import HessianOperator
from est_analysis.curvature.loss import CallableObjective, LanguageModelObjective
from est_analysis.curvature.probes import Probes
from est_analysis.errors import InputError
from est_analysis.rng import stream

ENGINES = [FisherEngine(), EmpiricalFisherEngine()]

# Sums of a few thousand float64 numbers of order 1.
CLOSE = {"atol": 1e-11, "rtol": 1e-11}


def randomised(model):
    with torch.no_grad():
        for name, p in model.double().named_parameters():
            p.normal_(1.0 if "norm" in name or ".ln_" in name else 0.0, 0.5, generator=stream(0, name))
    return model


class TwoLayers(nn.Module):
    """A network that reads one token and predicts the next: 4 tokens, logits of 4 classes."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(use_cache=True)
        self.first, self.second = nn.Embedding(4, 3), nn.Linear(3, 4)

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.second(self.first(input_ids).tanh()))


class Table(nn.Module):
    """Logits are parameters: linear in them, so the Hessian is the GGN."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace()
        self.table = nn.Embedding(4, 4)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table(input_ids))


@pytest.fixture(scope="module")
def gpt2():
    with torch.random.fork_rng():
        sizes = {"vocab_size": 7, "n_positions": 5, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_inner": 5}
        return randomised(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))).train()


@pytest.fixture(scope="module")
def t5():
    with torch.random.fork_rng():
        sizes = {"vocab_size": 9, "d_model": 4, "d_kv": 2, "d_ff": 5, "num_layers": 1, "num_heads": 2}
        return randomised(T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)))


def randomised_objective(make):
    with torch.random.fork_rng():
        return LanguageModelObjective(randomised(make()), "causal")


def tokens(vocabulary=4, rows=1, length=4):
    return {"input_ids": torch.randint(vocabulary, (rows, length), generator=stream(0, "tokens"))}


def jacobian_form(objective, batch):
    """tr GGN of each parameter tensor: mean over targets of tr J'(diag p - p p')J, J that of the target's logits."""

    def logits(parameters):
        every = torch.func.functional_call(objective.model.eval(), parameters, (), batch | objective._options).logits
        return every[objective.targets(batch) != -100]

    with torch.no_grad():
        p = logits(objective.parameters).softmax(1)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no batched backward
        jacobians = torch.func.jacrev(logits)(objective.parameters)
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    flat = [jacobians[name].flatten(2) for name in objective.parameters]
    return torch.stack([torch.einsum("tcd,tci,tdi->", covariance, j, j) for j in flat]) / len(p)


def token_squares(objective, batch):
    """(targets, parameter tensors): squared norm of each target's own gradient, one backward each."""
    leaves = {name: p.clone().requires_grad_() for name, p in objective.parameters.items()}
    losses = objective.token_losses(leaves, batch)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    rows = [torch.autograd.grad(loss, leaves.values(), **options) for loss in losses]
    return torch.stack([torch.stack([g.square().sum() for g in row]) for row in rows])


# --- the true Fisher --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [TwoLayers, Table])
def test_over_all_targets_the_mean_is_the_jacobian_form(make, monkeypatch):
    """All 4^3 draws of three targets, each weighted by its probability."""
    objective, batch = randomised_objective(make), tokens()
    draws = list(itertools.product(range(4), repeat=3))
    drawn = [{**batch, "targets": torch.tensor([[*draw, -100]])} for draw in draws]
    likelihoods = [objective.token_losses(objective.parameters, b).sum().neg().exp() for b in drawn]
    batches = iter(drawn)
    monkeypatch.setattr(objective, "with_sampled_targets", lambda batch, generator: next(batches))
    measured = FisherEngine().measure(objective, batch, Probes(0, range(64)))
    p = torch.stack(likelihoods).detach()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0).double(), **CLOSE)
    torch.testing.assert_close(p @ measured.blocks, jacobian_form(objective, batch), **CLOSE)


def test_each_probe_is_the_squared_gradient_at_one_draw_of_all_targets(gpt2):
    objective, batch, probes = LanguageModelObjective(gpt2, "causal"), tokens(7, 2, 5), Probes(3, (4, 1))
    measured = FisherEngine().measure(objective, batch, probes)
    for k, number in enumerate(probes.numbers):
        drawn = objective.with_sampled_targets(batch, generator=stream(3, "fisher", number))
        leaves = {name: p.clone().requires_grad_() for name, p in objective.parameters.items()}
        gradient = torch.autograd.grad(objective.loss(leaves, drawn), leaves.values())
        expected = torch.stack([8 * g.square().sum() for g in gradient])
        torch.testing.assert_close(measured.blocks[k], expected, **CLOSE)
    assert measured.loss == pytest.approx(objective.loss(objective.parameters, batch).item()), "of the data's targets"


def test_a_tiny_gpt2_lies_within_its_deviation_of_the_jacobian_form(gpt2):
    objective, batch, count = LanguageModelObjective(gpt2, "causal"), tokens(7, 2, 5), 400
    exact = jacobian_form(objective, batch).sum().item()
    measured = FisherEngine().measure(objective, batch, Probes(0, range(count)))
    deviation = (measured.values.std() / count**0.5).item()
    assert deviation < 0.05 * exact

    def agrees(value):
        return abs(value - exact) < 4 * deviation

    assert agrees(measured.values.mean().item())
    # Planted: the data's targets; a mean over the batch's rows instead of its targets.
    assert not agrees(token_squares(objective, batch).sum(1).mean().item())
    assert not agrees(measured.values.mean().item() * 2 / 8)


def test_an_encoder_decoder_goes_on_reading_the_targets_of_the_data(t5):
    objective = LanguageModelObjective(t5, "seq2seq")
    labels = torch.tensor([[3, 1, 8, 2]])
    batch = {"input_ids": torch.tensor([[5, 6, 2]]), "labels": labels}
    spelled = {**batch, "decoder_input_ids": torch.tensor([[0, 3, 1, 8]])}
    probes = Probes(0, range(3))
    expected = FisherEngine().measure(objective, spelled, probes)
    torch.testing.assert_close(FisherEngine().measure(objective, batch, probes).blocks, expected.blocks, **CLOSE)


# --- the empirical Fisher ---------------------------------------------------------------------------------------------


def test_over_all_signs_the_mean_is_that_of_the_tokens_squared_gradients():
    """Three targets: four values, for a sign of all changes nothing; 100 probes meet each."""
    objective, batch = randomised_objective(TwoLayers), {"input_ids": torch.tensor([[2, 0, 3, 1]])}
    measured = EmpiricalFisherEngine().measure(objective, batch, Probes(0, range(100)))
    _, first = torch.unique(measured.values.round(decimals=12), return_inverse=True)
    assert first.max() == 3
    every = torch.stack([measured.blocks[first == i][0] for i in range(4)])
    torch.testing.assert_close(every.mean(0), token_squares(objective, batch).mean(0), **CLOSE)


def test_a_single_target_needs_no_luck(gpt2):
    objective, batch = LanguageModelObjective(gpt2, "causal"), tokens(7, 1, 2)
    measured = EmpiricalFisherEngine().measure(objective, batch, Probes(0, range(3)))
    expected = token_squares(objective, batch)[0]
    torch.testing.assert_close(measured.blocks, expected.expand(3, -1), **CLOSE)
    assert measured.loss == pytest.approx(objective.loss(objective.parameters, batch).item(), rel=1e-12)


@pytest.mark.parametrize(("make", "same"), [(TwoLayers, False), (Table, True)])
def test_three_different_quantities(make, same):
    """GGN and Hessian are one where the logits are linear in the parameters; the empirical Fisher is neither's."""
    objective, batch = randomised_objective(make), tokens()
    fisher = jacobian_form(objective, batch).sum().item()
    empirical = token_squares(objective, batch).sum(1).mean().item()
    operator = HessianOperator(objective, [batch])
    units = torch.eye(operator.n, dtype=torch.float64)
    hessian = sum((unit @ operator.matvec(unit)).item() for unit in units)
    assert (hessian == pytest.approx(fisher, rel=1e-10)) is same
    assert abs(hessian / fisher - 1) > 0.02 or same
    assert abs(empirical / fisher - 1) > 0.02
    assert abs(empirical / hessian - 1) > 0.02


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_probes_are_pure_functions_of_seed_and_number(engine, gpt2):
    objective, batch = LanguageModelObjective(gpt2, "causal"), tokens(7, 2, 5)
    measured = engine.measure(objective, batch, Probes(0, (0, 1, 2)))
    assert torch.equal(measured.values, measured.blocks.sum(1))
    assert measured.blocks.dtype == torch.float64
    assert torch.equal(engine.measure(objective, batch, Probes(0, (2,))).blocks, measured.blocks[2:])
    assert not torch.equal(engine.measure(objective, batch, Probes(1, (2,))).blocks, measured.blocks[2:])


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_positions_without_target_do_not_count(engine, gpt2):
    objective, batch = LanguageModelObjective(gpt2, "causal"), tokens(7, 2, 5)
    labels = batch["input_ids"].clone()
    labels[1] = -100
    alone = {"input_ids": batch["input_ids"][:1]}
    masked = engine.measure(objective, {**batch, "labels": labels}, Probes(0, (0, 1)))
    torch.testing.assert_close(masked.blocks, engine.measure(objective, alone, Probes(0, (0, 1))).blocks, **CLOSE)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_objective_without_tokens_is_refused(engine):
    plain = CallableObjective(nn.Linear(2, 1), lambda model, x: model(x).sum())
    with pytest.raises(InputError, match=f"'{engine.name}' needs a language model's token losses, not Callable.*'hvp'"):
        engine.measure(plain, torch.ones(1, 2), Probes(0, (0,)))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_the_model_and_the_global_generator_are_left_as_they_were(engine, gpt2):
    objective = LanguageModelObjective(gpt2, "causal")
    gpt2.transformer.wte.weight.grad = torch.full_like(gpt2.transformer.wte.weight, 7.0)
    gpt2.train()
    state = {name: tensor.clone() for name, tensor in gpt2.state_dict().items()}
    rng = torch.get_rng_state()
    with torch.no_grad():
        engine.measure(objective, tokens(7, 2, 5), Probes(0, (0, 1)))
    assert gpt2.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(state[name], tensor) for name, tensor in gpt2.state_dict().items())
    assert all(p.requires_grad for p in gpt2.parameters())
    assert {name for name, p in gpt2.named_parameters() if p.grad is not None} == {"transformer.wte.weight"}
    assert gpt2.transformer.wte.weight.grad.eq(7).all()
    gpt2.transformer.wte.weight.grad = None
