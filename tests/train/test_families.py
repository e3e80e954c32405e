"""What every family promises with every method, discovered over both registries: a new one is tested by being there."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from est_analysis.errors import InputError
from est_analysis.methods import METHODS, build_method
from est_analysis.models.families import FAMILIES, build_model
from est_analysis.models.hf import load_folder
from est_analysis.rng import stream
from est_analysis.subnet.cost import TRAINING_FACTOR

STEPS, BATCH, LENGTH = 12, 4, 16
EXTRA = [("llama", "est", {"head_sampling": "whole_groups"})]
CASES = [(family, method, {}) for family in FAMILIES for method in METHODS] + EXTRA
every_case = pytest.mark.parametrize(
    ("family", "method", "options"), CASES, ids=["-".join((f, m, *o.values())) for f, m, o in CASES]
)


@pytest.fixture(scope="module")
def unbroken(harness, tmp_path_factory):
    """(folder, job) of a whole run, one a case."""
    found = {}

    def whole(family, method, options):
        key = (family, method, *options.values())
        if key not in found:
            folder = tmp_path_factory.mktemp("-".join(key))
            found[key] = folder, harness.train(folder, family=family, method=method, options=options)
        return found[key]

    return whole


@pytest.fixture(scope="module")
def tokens(harness):
    return torch.randint(harness.config.vocab_size, (2, LENGTH), generator=stream(0, "tokens"))


def _method(harness, family, method, options, **changes):
    shape = harness.configs[family].architecture(LENGTH).stack
    return build_method(method, shape=shape, total_steps=STEPS, seed=0, options=options, **changes)


def _random(config):
    """A model in float64 in which every branch matters."""
    model = build_model(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm.weight" in name else 0.0, 0.4, generator=stream(0, "fill", name))
    return model


@every_case
def test_a_full_schedule_trains_the_plain_model(harness, tokens, family, method, options):
    model, built = _random(harness.configs[family]), _method(harness, family, method, options, schedule="full")
    plain = model.loss(tokens, tokens)
    for step in range(1, STEPS + 1):
        mask = built.mask(step)
        if mask is not None:  # some methods say it with a mask
            # Rounding of a loss of order 1 to 10 in float64.
            torch.testing.assert_close(model.loss(tokens, tokens, mask), plain, atol=1e-12, rtol=1e-12)


def test_an_unknown_way_to_sample_heads_is_refused(harness):
    with pytest.raises(InputError, match="unknown head sampling 'groups': did you mean 'whole_groups'"):
        _method(harness, "llama", "est", {"head_sampling": "groups"})


@every_case
def test_active_counts_are_those_of_the_stage(harness, family, method, options):
    built, config = _method(harness, family, method, options), harness.configs[family]
    for step in range(1, STEPS + 1):
        mask, (_, rates) = built.mask(step), built.schedule.spans[built.schedule.stage_at(step)]
        for layer in () if mask is None else filter(None, mask.layers):
            heads = torch.arange(config.num_heads) if layer.heads is None else layer.heads
            columns = config.mlp_columns if layer.columns is None else len(layer.columns)
            assert (len(heads), columns) == (rates.heads * config.num_heads, rates.mlp * config.mlp_columns)
            if built.shape.num_kv_heads:
                by_group = (heads // built.shape.heads_per_group).unique(return_counts=True)
                computed = torch.arange(built.shape.num_kv_heads) if layer.groups is None else layer.groups
                assert torch.equal(by_group[0], computed)
                assert len(by_group[1].unique()) == 1


def _product_in_place(_, left, right, out_shape=None, **options):
    return 2 * left[0] * left[1] * right[1]


def _counted(run):
    """FLOPs as torch counts them; see `tests/subnet/test_cost.py` for the two things it is told."""
    rules = {torch.ops.aten.addmm_: _product_in_place}
    with FlopCounterMode(display=False, custom_mapping=rules) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@every_case
def test_flops_charged_are_flops_counted(harness, unbroken, tokens, family, method, options):
    folder, job = unbroken(family, method, options)
    model, architecture = _random(harness.configs[family]), harness.configs[family].architecture(LENGTH)
    charged = [architecture.mask_flops(job.method.mask(step)) for step in range(1, STEPS + 1)]
    for step in {1, STEPS, *(end + 1 for end in job.method.schedule.transitions)}:
        count = _counted(lambda step=step: model.loss(tokens, tokens, job.method.mask(step)).backward())
        expected = TRAINING_FACTOR * tokens.numel() * (charged[step - 1] + architecture.head_flops)
        assert count == pytest.approx(expected, rel=1e-12)
    written = harness.losses(folder, "layer_flops")[STEPS]
    assert written == pytest.approx(TRAINING_FACTOR * BATCH * LENGTH * math.fsum(charged), rel=1e-12)


@every_case
def test_resumed_across_a_transition_is_never_stopped(harness, unbroken, tmp_path, family, method, options):
    folder, job = unbroken(family, method, options)
    case = {"family": family, "method": method, "options": options}
    last = max(job.method.schedule.transitions, default=5)  # killed before and after the last one; more in test_resume
    for at in (last, last + 1):
        with pytest.raises(harness.Killed):
            harness.train(tmp_path / str(at), at=at, **case)
        harness.train(tmp_path / str(at), **case)
        assert harness.state(tmp_path / str(at), STEPS) == harness.state(folder, STEPS), f"killed in step {at}"


@every_case
def test_a_checkpoint_of_any_stage_opens_in_transformers(unbroken, tokens, family, method, options):
    _, job = unbroken(family, method, options)
    steps = [0, *job.method.schedule.transitions, STEPS]
    assert set(steps) <= set(job.checkpoints.steps())
    for step in steps:
        folder = job.checkpoints.path(step)
        theirs, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        assert theirs.config.model_type == family
        with torch.no_grad():
            # Float32 through four narrow layers: some dozens of roundings of 6e-8 on logits of order 1.
            torch.testing.assert_close(load_folder(folder)(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_drawn_ahead_and_bfloat16_train(harness, tmp_path, family):
    """One short run in each precision learns the same to bfloat16's eight bits."""
    for precision in ("float32", "bfloat16"):
        harness.train(tmp_path / precision, family=family, precision=precision)
    losses = [harness.losses(tmp_path / precision)[STEPS] for precision in ("float32", "bfloat16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
