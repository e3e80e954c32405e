"""Hutchinson's estimate: against all sign vectors, dense Hessians and closed forms; when it stops, what it repeats."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from est_analysis.curvature.engine import Measurement
from est_analysis.curvature.estimate import Sample
from est_analysis.curvature.hvp import HvpEngine
from est_analysis.curvature.loss import CallableObjective
from est_analysis.curvature.probes import Probes
from est_analysis.curvature.taylor.engine import TaylorEngine
from est_analysis.curvature.trace import LEAST, Budget, hutchinson
from est_analysis.errors import InputError
from est_analysis.rng import stream

ENGINES = [TaylorEngine, HvpEngine]

# --- a function of 7 parameters, all 2^7 sign vectors -----------------------------------------------------------------


class Quartic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.9], dtype=torch.float64))

    def forward(self, scale):
        a, b = self.a, self.b
        mixed = (b[0] * b[1] * b[2]) * a[0, 1]
        return scale * ((a @ a).pow(2).sum() + (a.sum() * b).tanh().sum() + mixed + (b * b * b).sum())


class Chosen:
    """Probes with the signs of given vectors; of the parameter `a` the first four."""

    def __init__(self, vectors):
        self.vectors = vectors

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, index):
        return Chosen(self.vectors[index : index + 1])

    def signs(self, name, start, stop, like):
        part = self.vectors[:, :4] if name == "a" else self.vectors[:, 4:]
        return part[:, start:stop].to(like)

    def like(self, name, tensor):
        return self.signs(name, 0, tensor.numel(), tensor).view(len(self), *tensor.shape)


def dense_hessian(model, loss):
    """By reverse over reverse differentiation, a row at a time; a tied parameter once."""
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        for entry in torch.cat([g.flatten() for g in gradient])
    ]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.mark.parametrize("engine", ENGINES)
def test_mean_and_variance_over_all_sign_vectors(engine):
    model = Quartic()
    hessian = dense_hessian(model, model(1.0))
    objective = CallableObjective(model, lambda model, scale: model(scale))
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=7)), dtype=torch.float64)
    values = torch.cat([engine().measure(objective, 1.0, Chosen(v[None])).values for v in every])
    off_diagonal = hessian - hessian.diag().diag()
    # v'Hv are sums of 49 numbers of order 10 in float64: rounding below 1e-12.
    torch.testing.assert_close(values.mean(), hessian.trace(), atol=1e-12, rtol=0)
    torch.testing.assert_close(values.var(correction=0), 2 * off_diagonal.square().sum(), atol=0, rtol=1e-12)
    assert off_diagonal.square().sum() > 1, "the function is separable, so its v'Hv are all equal"
    together = engine().measure(objective, 1.0, Chosen(every)).values
    torch.testing.assert_close(together.mean(), hessian.trace(), atol=1e-12, rtol=0)


# --- a tiny GPT-2 against its dense Hessian ---------------------------------------------------------------------------


def next_token_loss(model, batch):
    inputs, targets = batch
    return F.cross_entropy(model(inputs, use_cache=False).logits.flatten(0, 1), targets.flatten())


@pytest.fixture(scope="module")
def objective(make_gpt2):
    return CallableObjective(make_gpt2(), next_token_loss, weight=lambda batch: batch[1].numel())


@pytest.fixture(scope="module")
def model(objective):
    return objective._module.model


@pytest.fixture(scope="module")
def batches(make_batches):
    return make_batches(3)


@pytest.fixture(scope="module")
def hessians(model, batches):
    return [dense_hessian(model, next_token_loss(model, batch)).detach() for batch in batches]


def exact(objective, hessian, number, seed):
    probes = Probes(seed, (number,))
    v = torch.cat([probes.like(name, p).flatten() for name, p in objective.parameters.items()])
    return (v @ hessian @ v).item()


@pytest.mark.parametrize("engine", ENGINES)
def test_each_measurement_has_its_own_probes(objective, batches, hessians, engine):
    """Batch i is measured along the probes 2 i and 2 i + 1."""
    found = hutchinson(objective, batches, engine=engine(), seed=5, budget=Budget(max_pairs=12, probes=2))
    assert [sample.index for sample in found.samples] == list(range(6))
    assert [sample.batch for sample in found.samples] == [0, 1, 2, 0, 1, 2]
    for sample in found.samples:
        expected = [exact(objective, hessians[sample.batch], 2 * sample.index + k, seed=5) for k in range(2)]
        # v'Hv adds about 200^2 numbers of order 0.1, differentiated in another order: rounding of 1e-13 or so.
        assert sample.values == pytest.approx(expected, rel=1e-10, abs=1e-10)
        assert sample.weight == 12
    assert (found.pairs, found.batches, found.targets) == (12, 3, 36)
    assert found.engine == engine.name
    assert found.seconds > 0


def test_the_estimate_agrees_with_the_dense_trace(objective, batches, hessians):
    truth = sum(hessian.trace().item() for hessian in hessians) / 3
    # The probes' law is known: each pair has the variance 2 * (sum of squared off-diagonals) of its batch.
    variance = sum(2 * (h - h.diag().diag()).square().sum().item() for h in hessians) / 3
    budget = Budget(max_pairs=9600, probes=64, target="batches", rel_se=1e-9)
    found = hutchinson(objective, batches, engine=TaylorEngine(), seed=1, budget=budget)
    deviation = math.sqrt(variance / found.pairs)
    assert found.pairs == 9600
    assert abs(found.value - truth) < 4 * deviation
    assert abs(found.value - truth) < 4 * found.stderr
    # At least 300 values (2 groups of 64 probes in 150 measurements): relative deviation of a deviation 1 / sqrt(600).
    assert found.stderr == pytest.approx(deviation, rel=4 * 0.041)
    assert abs(0.8 * found.value - truth) > 4 * deviation, "too wide to see a fifth missing"


def test_the_model_is_left_as_it_was(make_gpt2, batches):
    for training, engine in itertools.product((False, True), ENGINES):
        model = make_gpt2().train(training)
        model.transformer.wte.weight.grad = torch.full_like(model.transformer.wte.weight, 7.0)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        generator = torch.get_rng_state()
        objective = CallableObjective(model, next_token_loss)
        hutchinson(objective, batches, engine=engine(), seed=0, budget=Budget(max_pairs=6, probes=2))
        assert all(module.training is training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), generator), "dropout was drawn, or probes from the global generator"
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())
        assert model.lm_head.weight is model.transformer.wte.weight
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert list(gradients) == ["transformer.wte.weight"]
        assert gradients["transformer.wte.weight"].eq(7).all()


# --- closed form: a table of logits, one row a token (logistic regression) -------------------------------------------


def test_the_estimate_lies_within_its_known_deviation_of_the_closed_form(batches):
    """logits = table[token], so H is block diagonal with blocks (share of the token) (diag p - p p')."""
    tokens, pairs = batches[0][0], 400
    model = torch.nn.Embedding(7, 7, _weight=torch.randn(7, 7, dtype=torch.float64, generator=stream(0, "table")))

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    share = torch.bincount(tokens.flatten(), minlength=7) / tokens.numel()
    p = model.weight.detach().softmax(1)
    blocks = share[:, None, None] * (torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    off_diagonal = blocks - torch.diag_embed(blocks.diagonal(dim1=1, dim2=2))
    trace = (blocks - off_diagonal).sum().item()
    deviation = math.sqrt(2 * off_diagonal.square().sum().item() / pairs)
    found = hutchinson(
        CallableObjective(model, loss),
        iter([batches[0]] * pairs),
        engine=TaylorEngine(),
        seed=0,
        budget=Budget(rel_se=1e-9, max_pairs=pairs, probes=1),
    )

    def agrees(value):
        return abs(value - trace) < 4 * deviation

    assert agrees(found.value)
    # The relative deviation of a standard deviation from n draws is sqrt((kurtosis - 1) / 4 n): 0.05 at kurtosis 5.
    assert found.stderr == pytest.approx(deviation, rel=0.25)
    # Planted: signs that are + three times in four (mean 1/2), and one probe in ten lost from the sum.
    assert not agrees(trace + 0.25 * off_diagonal.sum().item())
    assert not agrees(0.9 * found.value)


# --- when it stops ----------------------------------------------------------------------------------------------------


class Counting:
    """An engine that counts, and measures 10 + `noise` * (a number of its own for each batch and probe)."""

    name = "counting"

    def __init__(self, noise=1.0):
        self.noise, self.seen = noise, []

    def measure(self, objective, batch, probes):
        self.seen.append((batch, tuple(probes.numbers)))
        draws = [torch.randn((), generator=stream(0, batch, n), dtype=torch.float64) for n in probes.numbers]
        return Measurement(loss=0.5, values=10 + self.noise * torch.stack(draws))


ONE = SimpleNamespace(weight=lambda batch: 3, parameters={})


def counted(batches, noise=1.0, engine=None, **fields):
    """What `hutchinson` finds and what was measured for it."""
    options = {name: fields.pop(name) for name in list(fields) if name in ("kept", "shard", "on_sample", "on_estimate")}
    engine = engine or Counting(noise)
    found = hutchinson(ONE, batches, engine=engine, seed=0, budget=Budget(**{"probes": 1} | fields), **options)
    return found, engine.seen


def test_it_stops_as_soon_as_the_error_is_small_enough():
    told = []
    found, seen = counted(range(10_000), rel_se=0.01, on_estimate=told.append)
    assert found.relative_stderr <= 0.01
    assert LEAST < len(seen) == found.pairs < 300
    enough = [got.batches for got in told if got.batches >= LEAST and got.relative_stderr <= 0.01]
    assert enough[0] == found.batches
    assert told[-1] == found


def test_it_never_stops_before_a_standard_error_can_be_believed():
    """At 48 measurements of at least 16 batches; there may be no more text than that."""
    for batches, pairs in ((1000, 48), (48, 48), (47, 48), (16, 48), (15, 100)):
        found, _ = counted(list(range(batches)), noise=1e-9, rel_se=0.1, max_pairs=100)
        assert (found.pairs, found.batches) == (pairs, min(batches, pairs))


def test_of_exactly_these_batches_the_probes_must_tell_an_error_too():
    """As many measurements beyond the first of each batch; one batch is enough."""
    for batches, pairs in ((1, 48), (2, 49), (10, 57)):
        found, _ = counted(list(range(batches)), noise=1e-9, rel_se=0.1, max_pairs=100, target="batches")
        assert (found.pairs, found.df) == (pairs, 47)


def test_it_stops_at_the_budget():
    found, seen = counted(range(1000), noise=100.0, max_pairs=64, probes=4)
    assert (found.pairs, len(seen)) == (64, 16)
    assert found.relative_stderr > 0.02
    assert counted(range(1000), noise=100.0, max_pairs=63, probes=4)[0].pairs == 60


def test_a_sequence_is_swept_again_with_fresh_probes():
    found, seen = counted([0, 1, 2, 3, 4], max_pairs=40, probes=2, rel_se=1e-9)
    assert [batch for batch, _ in seen] == [0, 1, 2, 3, 4] * 4
    numbers = [number for _, probes in seen for number in probes]
    assert numbers == list(range(40))
    assert found.batches == 5
    assert found.targets == 15


def test_a_stream_just_ends():
    found, seen = counted(iter(range(20)), rel_se=1e-9)
    assert len(seen) == found.batches == 20


def test_few_batches_of_data_never_suffice_however_often_they_are_swept():
    """Five batches cannot show the error of the text; of exactly these five, the probes' error can be small enough."""
    found, _ = counted([0, 1, 2, 3, 4], noise=0.1, rel_se=0.02, max_pairs=200)
    assert found.pairs == 200
    found, _ = counted([0, 1, 2, 3, 4], noise=0.1, rel_se=0.02, max_pairs=200, target="batches", probes=2)
    assert found.pairs == 52  # a mean of each batch, and 47 more


def test_exactly_these_batches_are_all_looked_at():
    found, seen = counted(list(range(80)), noise=1e-6, rel_se=0.5, target="batches", probes=2)
    assert found.batches == len(seen) == 80


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("kind", [list, iter])
def test_an_error_needs_two_batches(count, kind):
    with pytest.raises(InputError, match="fewer than two batches give no standard error; give more text"):
        counted(kind([7][:count]), max_pairs=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rel_se": 0.0}, "rel_se=0.0 is not positive"),
        ({"rel_se": -1.0}, "rel_se=-1.0 is not positive"),
        ({"rel_se": math.nan}, "rel_se=nan is not positive"),
        ({"probes": 0}, "probes=0 is not positive"),
        ({"max_pairs": 15}, "max_pairs=15 is fewer than two batches of 8 probes, .* use at least 16"),
        ({"max_pairs": -1}, "max_pairs=-1 is fewer"),
    ],
)
def test_bad_budgets(fields, message):
    with pytest.raises(InputError, match=message):
        Budget(**fields)


# --- what is kept and shared ------------------------------------------------------------------------------------------


def numbers(samples):
    """All of the samples but the time they took."""
    return [(s.index, s.batch, s.weight, s.loss, s.pairs, s.values, s.blocks) for s in samples]


def test_kept_measurements_are_not_made_again():
    whole, seen = counted(range(1000), rel_se=0.01)
    for keep in (0, 1, 20, *range(LEAST - 1, len(seen))):
        again, fresh = counted(range(1000), rel_se=0.01, kept=whole.samples[:keep])
        assert fresh == seen[keep:]
        assert numbers(again.samples) == numbers(whole.samples)
        assert (again.value, again.stderr, again.pairs) == (whole.value, whole.stderr, whole.pairs)
    finished, fresh = counted(range(1000), rel_se=0.01, kept=whole.samples)
    assert (finished.samples, finished.stderr, fresh) == (whole.samples, whole.stderr, [])


def test_what_is_kept_may_have_gaps_and_more_than_is_needed():
    whole, _ = counted(range(1000), rel_se=1e-9, max_pairs=60)
    gaps = [sample for sample in whole.samples if sample.index % 3]
    again, seen = counted(range(1000), rel_se=1e-9, max_pairs=60, kept=gaps)
    assert [batch for batch, _ in seen] == list(range(0, 60, 3))
    assert numbers(again.samples) == numbers(whole.samples)
    assert counted(range(1000), rel_se=1e-9, max_pairs=30, kept=whole.samples)[1] == []


def test_every_new_measurement_is_told_once():
    told, kept = [], counted(range(1000), rel_se=1e-9, max_pairs=10)[0].samples
    found, _ = counted(range(1000), rel_se=1e-9, max_pairs=30, kept=kept, on_sample=told.append)
    assert told == list(found.samples[10:])


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("count", [2, 3])
def test_shards_make_the_measurements_of_one_process(kind, count):
    limits = {"rel_se": 1e-9, "max_pairs": 48}
    whole, _ = counted(kind(range(50)), **limits)
    parts = [counted(kind(range(50)), shard=(i, count), **limits)[0] for i in range(count)]
    assert all(len(part.samples) == 48 // count for part in parts)
    merged = sorted((sample for part in parts for sample in part.samples), key=lambda sample: sample.index)
    assert numbers(merged) == numbers(whole.samples)


def test_shards_of_a_real_model(objective, batches):
    limits = {"engine": TaylorEngine(), "seed": 3, "budget": Budget(max_pairs=16, probes=2)}
    whole = hutchinson(objective, batches, **limits)
    parts = [hutchinson(objective, batches, shard=(i, 2), **limits) for i in range(2)]
    merged = sorted((sample for part in parts for sample in part.samples), key=lambda sample: sample.index)
    assert numbers(merged) == numbers(whole.samples)


def test_processes_in_step_stop_together():
    """Two processes, each given what the other measured in the same round, as `exchange` does."""
    whole, _ = counted(range(1000), rel_se=0.01)
    by_index = {s.index: s for s in counted(range(1000), rel_se=1e-9, max_pairs=400)[0].samples}

    def measured_by_both(rank):
        def exchange(new):
            return [by_index[s.index - s.index % 2 + r] for s in new for r in range(2)]

        engine = Counting()
        found = hutchinson(
            ONE, range(1000), engine=engine, seed=0, budget=Budget(rel_se=0.01, probes=1), shard=(rank, 2),
            exchange=exchange,
        )  # fmt: skip
        return found, len(engine.seen)

    (one, mine), (other, theirs) = (measured_by_both(rank) for rank in range(2))
    assert numbers(one.samples) == numbers(other.samples)
    assert mine == theirs == len(one.samples) // 2
    assert abs(one.pairs - whole.pairs) < 8, "one process looks after every measurement, two after every second"


def test_a_sample_of_another_kind_of_batches_is_not_taken_for_a_sweep():
    """Kept measurement 7 of five batches is the second sweep's third."""
    kept = [Sample(index=7, batch=2, weight=3, loss=0.5, pairs=1, values=(10.0,), seconds=0.0)]
    found, _ = counted([0, 1, 2, 3, 4], rel_se=1e-9, max_pairs=10, kept=kept)
    assert [sample.batch for sample in found.samples] == [0, 1, 2, 3, 4] * 2
