"""The loss: that of transformers, cut at the head or not, at any parameters, and with the model left as it was."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2LMHeadModel

from est_analysis.curvature import loss as module
from est_analysis.curvature.head import Head, _unchanged
from est_analysis.curvature.loss import IGNORED, CallableObjective, LanguageModelObjective
from est_analysis.errors import InputError
from est_analysis.rng import stream

# A mean of a few dozen losses of order 3 in float64, added in another order.
CLOSE = {"atol": 1e-12, "rtol": 1e-12}


def _logits(model, batch, kind, parameters=None):
    """The model's own logits of a batch of the tests, whole."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "targets")}
    if kind == "seq2seq":
        inputs["labels"] = batch["labels"]  # decoder inputs are made of them
    if hasattr(model.config, "use_cache"):
        inputs["use_cache"] = False
    with torch.no_grad(), module._twice_differentiable(torch.float64):
        return torch.func.functional_call(model, parameters or {}, (), inputs).logits


def test_every_family_has_transformers_logits_through_the_cut_head(any_family, families):
    kind, model = families.make(any_family)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    head = objective._head_inputs(objective.parameters, batch)
    # MobileBert multiplies by its head's weight, and another one beside it, without calling the head.
    assert (head.weight is None) == (any_family == "MobileBert")
    wanted = _logits(model, batch, kind)
    torch.testing.assert_close(head.logits(head.hidden.flatten(0, -2)), wanted.flatten(0, -2), **CLOSE)
    targets = objective.targets(batch)
    expected = F.cross_entropy(wanted.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(objective.loss(objective.parameters, batch), expected, **CLOSE)


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Gemma2", "OPT", "Bert", "DistilBert", "T5", "Bart"])
def test_the_loss_is_transformers_own(name, families):
    kind, model = families.make(name)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    with torch.no_grad(), module._twice_differentiable(torch.float64):
        expected = model(**batch).loss
    # Its causal loss asks for float32 before the cross entropy; under the mode above that is float64.
    torch.testing.assert_close(objective.loss(objective.parameters, batch), expected, **CLOSE)
    assert objective.weight(batch) == (5 + 6 if kind != "causal" else 5 + 5)


def test_other_parameters_give_another_loss(families):
    kind, model = families.make("GPT2")
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    zeros = {name: torch.zeros_like(p) for name, p in objective.parameters.items()}
    # All logits are equal, the tied head's included.
    assert objective.loss(zeros, batch).item() == pytest.approx(math.log(19), rel=1e-14)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_causal_targets_are_the_next_labels_or_else_the_next_inputs(families):
    kind, model = families.make("GPT2")
    objective = LanguageModelObjective(model, kind)
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    labels = torch.tensor([[1, IGNORED, 3], [4, 5, IGNORED]])
    assert objective.targets({"input_ids": ids}).tolist() == [[6, 7, -100], [9, 0, -100]]
    padded = objective.targets({"input_ids": ids, "attention_mask": mask})
    assert padded.tolist() == [[6, 7, -100], [9, -100, -100]]
    assert objective.targets({"input_ids": ids, "labels": labels}).tolist() == [[-100, 3, -100], [5, -100, -100]]
    aligned = {"input_ids": ids, "targets": labels, "labels": ids}
    assert objective.targets(aligned) is labels
    assert objective.weight(aligned) == 4
    assert objective.token_losses(objective.parameters, aligned).shape == (4,)


@pytest.mark.parametrize("name", ["Bert", "T5"])
def test_other_kinds_need_labels(name, families):
    kind, model = families.make(name)
    objective = LanguageModelObjective(model, kind)
    with pytest.raises(InputError, match=f"{kind} loss needs 'labels'; it has only input_ids"):
        objective.loss(objective.parameters, {"input_ids": torch.tensor([[5, 6]])})


def test_a_batch_without_targets_is_refused(families):
    kind, model = families.make("GPT2")
    objective = LanguageModelObjective(model, kind)
    for batch in (
        {"input_ids": torch.tensor([[5]])},
        {"input_ids": torch.ones(2, 3).long(), "labels": torch.full((2, 3), -100)},
    ):
        with pytest.raises(InputError, match=r"no target \(all \d are -100\)"):
            objective.loss(objective.parameters, batch)


def test_sampled_targets_keep_what_the_decoder_reads(families):
    kind, model = families.make("T5")
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    drawn = objective.with_sampled_targets(batch, generator=stream(0, "draw"))
    assert torch.equal(drawn["targets"] == IGNORED, objective.targets(batch) == IGNORED)
    assert not torch.equal(drawn["targets"], objective.targets(batch))
    hidden = [objective._head_inputs(objective.parameters, one).hidden for one in (batch, drawn)]
    assert torch.equal(*hidden)


@pytest.mark.parametrize(
    ("tokens", "start", "fill"),
    [
        ({"pad_token_id": 4}, 4, 4),  # as T5 is trained
        ({"pad_token_id": 4, "decoder_start_token_id": 3}, 3, 4),
        ({"pad_token_id": 4, "bos_token_id": 2}, 2, 4),
        ({"bos_token_id": 2}, 2, 2),
        ({"decoder_start_token_id": 3}, 3, 3),
    ],
)
def test_a_decoder_whose_config_does_not_say_all(families, tokens, start, fill):
    kind, model = families.make("T5")
    _forget_tokens(model.config, **tokens)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    ids = batch["labels"]
    expected = torch.cat([torch.full((2, 1), start), ids[:, :-1]], 1)
    expected[expected == IGNORED] = fill
    assert torch.equal(objective._inputs(batch)["decoder_input_ids"], expected)
    given = {**batch, "decoder_input_ids": expected}
    assert torch.equal(objective.loss(objective.parameters, batch), objective.loss(objective.parameters, given))


def test_a_decoder_that_cannot_be_started(families):
    kind, model = families.make("T5")
    _forget_tokens(model.config)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    with pytest.raises(InputError, match=r"first token is unknown .*; set decoder_start_token_id there, or give ") as e:
        objective.loss(objective.parameters, batch)
    assert "\n" not in str(e.value)
    ids = torch.zeros_like(batch["input_ids"])
    assert objective.loss(objective.parameters, {**batch, "decoder_input_ids": ids}) > 0


def _forget_tokens(config, **known):
    """Some configs lack such a field altogether."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        vars(config).pop(name, None)
        if name in known or name == "pad_token_id":
            setattr(config, name, known.get(name))


# --- the head ---------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Logits of tokens by a table and a head, and whatever is done to them then."""

    def __init__(self, after, bias=True):
        super().__init__()
        self.config = SimpleNamespace()
        self.table, self.head, self.after = nn.Embedding(19, 4), nn.Linear(4, 19, bias=bias), after
        with torch.no_grad():
            for name, p in self.double().named_parameters():
                p.copy_(torch.randn(p.shape, generator=stream(0, name)))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.after(self.head(self.table(input_ids))))


BATCH = {"input_ids": torch.randint(19, (3, 5), generator=stream(0, "ids"))}
COLUMN = torch.linspace(-1, 1, 19, dtype=torch.float64)
POINTWISE = {
    "nothing": lambda z: z,
    "soft cap": lambda z: 2 * torch.tanh(z / 2),
    "in place": lambda z: (z.mul_(0.3), z.div_(2.0), z.sub_(COLUMN).add_(z.shape[-1]))[0],
    "column bias": lambda z: 1 - (COLUMN + z),
    "shape looked at": lambda z: z[:] if z.shape[-1] != 19 or z.size(1) != 5 or z.dim() != 3 else z.contiguous(),
}
OTHERS = {
    "sorted": lambda z: z.sort(-1)[0],
    "row scale": lambda z: z * torch.arange(15, dtype=torch.float64).view(3, 5, 1),
    "normalised": lambda z: z.log_softmax(-1),
    "of itself": lambda z: z * torch.sigmoid(z),
    "part": lambda z: z[..., :19],
    "stacked": lambda z: torch.stack([z, z]).mean(0),
    "into another": lambda z: torch.zeros(3, 5, 19, dtype=torch.float64).add_(z),
    "keyword": lambda z: torch.add(input=z, other=1.0),
    "branch": lambda z: z if (z > 100).any() else z + 1,
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", [*POINTWISE, *OTHERS])
def test_what_a_model_does_with_its_logits(name, bias):
    after = (POINTWISE | OTHERS)[name]
    objective = LanguageModelObjective(Model(after, bias), "causal")
    head = objective._head_inputs(objective.parameters, BATCH)
    assert (head.weight is not None) == (name in POINTWISE)
    assert (head.after is _unchanged) == (name == "nothing" or name in OTHERS)
    assert head.linear == (name == "nothing")
    assert head.vocabulary == 19
    wanted = objective.model(**BATCH).logits
    torch.testing.assert_close(head.logits(head.hidden[1:, 2]), wanted[1:, 2], **CLOSE)
    expected = F.cross_entropy(wanted[:, :-1].flatten(0, 1), BATCH["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(objective.loss(objective.parameters, BATCH), expected, **CLOSE)


def test_a_model_without_a_linear_head_is_not_cut():
    model = Model(lambda z: z)
    model.get_output_embeddings = lambda: None
    assert Head.of(model).module is None
    objective = LanguageModelObjective(model, "causal")
    assert objective._head_inputs(objective.parameters, BATCH).weight is None


@pytest.mark.parametrize("name", ["GPT2", "T5", "MobileBert"])
def test_the_states_of_each_target(name, families):
    """What the head reads there, in row-major order; any rows of it become their own losses. One model is not cut."""
    kind, model = families.make(name)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    states = objective.token_states(objective.parameters, batch)
    targets = objective.targets(batch)
    assert torch.equal(states.targets, targets[targets != IGNORED])
    assert states.vocabulary == 19
    logits = _logits(model, batch, kind)[targets != IGNORED]
    assert states.hidden.shape == (len(logits), 19 if name == "MobileBert" else 8)
    each = F.cross_entropy(logits, states.targets, reduction="none")
    torch.testing.assert_close(states.losses(states.hidden, states.targets), each, **CLOSE)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(states.losses(states.hidden[rows], states.targets[rows]), each[rows], **CLOSE)
    torch.testing.assert_close(objective.token_losses(objective.parameters, batch), each, **CLOSE)


@pytest.mark.parametrize("name", ["GPT2", "Gemma2"])
def test_chunks_do_not_matter(name, families, monkeypatch):
    kind, model = families.make(name)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    with torch.no_grad():
        whole = objective.token_losses(objective.parameters, batch)
        drawn = objective.with_sampled_targets(batch, generator=stream(0, "draw"))
        monkeypatch.setattr(module, "_CHUNK", 40)  # two rows
        torch.testing.assert_close(objective.token_losses(objective.parameters, batch), whole, **CLOSE)
        again = objective.with_sampled_targets(batch, generator=stream(0, "draw"))
    assert again["targets"].shape == drawn["targets"].shape


# --- manners ----------------------------------------------------------------------------------------------------------


def test_tied_weights_count_once_and_frozen_ones_not(families):
    kind, model = families.make("GPT2")
    assert "lm_head.weight" not in LanguageModelObjective(model, kind).parameters
    model.transformer.wpe.weight.requires_grad_(False)
    objective = LanguageModelObjective(model, kind)
    assert set(dict(model.named_parameters())) - set(objective.parameters) == {"transformer.wpe.weight"}
    assert all(not p.requires_grad for p in objective.parameters.values())
    model.requires_grad_(False)
    for make in (lambda: LanguageModelObjective(model, kind), lambda: CallableObjective(model, lambda m, b: 0)):
        with pytest.raises(InputError, match="no parameter of the model has requires_grad; thaw"):
            make()


def test_a_frozen_head_is_used_as_it_is(families):
    kind, model = families.make("Llama")
    batch = families.batch(kind)
    thawed = LanguageModelObjective(model, kind)
    expected = thawed.loss(thawed.parameters, batch)
    model.lm_head.requires_grad_(False)
    frozen = LanguageModelObjective(model, kind)
    assert frozen._head_inputs(frozen.parameters, batch).weight is model.lm_head.weight
    torch.testing.assert_close(frozen.loss(frozen.parameters, batch), expected, **CLOSE)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails, families, monkeypatch):
    kind, model = families.make("GPT2")
    model.train()
    model.transformer.h[0].eval()
    model.transformer.wpe.weight.grad = torch.ones_like(model.transformer.wpe.weight)
    objective, batch = LanguageModelObjective(model, kind), families.batch(kind)
    modes = {name: part.training for name, part in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    leaves = {name: p.clone().requires_grad_() for name, p in objective.parameters.items()}
    if fails:
        forward = GPT2LMHeadModel.forward

        def broken(self, *args, **kwargs):
            forward(self, *args, **kwargs)
            raise ZeroDivisionError

        monkeypatch.setattr(GPT2LMHeadModel, "forward", broken)
        with pytest.raises(ZeroDivisionError):
            objective.loss(leaves, batch)
    else:
        objective.loss(leaves, batch).backward()
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert "forward" not in vars(model.lm_head)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["transformer.wpe.weight"]


def test_a_forward_that_another_tool_has_put_on_the_head_stays(families):
    kind, model = families.make("GPT2")
    own = model.lm_head.forward
    model.lm_head.forward = wrapped = lambda hidden: own(hidden)
    objective = LanguageModelObjective(model, kind)
    objective.loss(objective.parameters, families.batch(kind))
    assert model.lm_head.forward is wrapped


def test_any_loss_of_any_module():
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).double().train()
    x = torch.ones(4, 3, dtype=torch.float64)
    objective = CallableObjective(model, lambda model, batch: model(batch).square().mean(), weight=len)
    expected = model[0](x).square().mean()
    torch.testing.assert_close(objective.loss(objective.parameters, x), expected.detach(), **CLOSE)
    assert objective.weight(x) == 4
    assert set(objective.parameters) == {"0.weight", "0.bias"}
    assert all(part.training for part in model.modules())
