"""What every family promises with every method, discovered over both registries: a new one is tested by being there."""

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from est_analysis.errors import InputError
from est_analysis.methods import METHODS, build_method
from est_analysis.models.families import FAMILIES, build_model
from est_analysis.models.hf import load_folder
from est_analysis.rng import stream
from est_analysis.subnet.cost import TRAINING_FACTOR
from est_analysis.subnet.mask import LayerMask, SubnetMask
from est_analysis.subnet.schedule import Rates

STEPS, BATCH, LENGTH = 12, 4, 16
EXTRA = [
    ("llama", "est", {"head_sampling": "whole_groups"}),
    *((family, "est", {"law": "bernoulli"}) for family in FAMILIES if family != "llama"),  # some draws keep no head
]
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


@pytest.fixture
def batch(harness, family):
    """Two rows of what the family's usual objective makes of text: the model's inputs and, last, its labels."""
    tokens, following = torch.randint(harness.config.vocab_size, (2, 2, LENGTH), generator=stream(0, "tokens")).unbind()
    return harness.objectives[family].batch(tokens, following, generator=stream(0, "batch"))


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
def test_a_full_schedule_trains_the_plain_model(harness, batch, family, method, options):
    model, built = _random(harness.configs[family]), _method(harness, family, method, options, schedule="full")
    plain = model.loss(*batch)
    for step in range(1, STEPS + 1):
        mask = built.mask(step)
        assert built.existing(step) == Rates()
        if mask is not None:  # some methods say it with a mask
            # Rounding of a loss of order 1 to 10 in float64.
            torch.testing.assert_close(model.loss(*batch, mask=mask), plain, atol=1e-12, rtol=1e-12)


def test_an_unknown_way_to_sample_heads_is_refused(harness):
    with pytest.raises(InputError, match="unknown head sampling 'groups': did you mean 'whole_groups'"):
        _method(harness, "llama", "est", {"head_sampling": "groups"})


@every_case
def test_active_counts_are_those_of_the_stage(harness, family, method, options):
    built, config = _method(harness, family, method, options), harness.configs[family]
    for step in range(1, STEPS + 1):
        mask, (_, rates) = built.mask(step), built.schedule.spans[built.schedule.stage_at(step)]
        for layer in () if mask is None else filter(None, mask.layers):
            if layer.dropout is not None or layer.scale == 0:
                continue  # single units are left out, or the layer as a whole
            heads = torch.arange(config.num_heads) if layer.heads is None else layer.heads
            columns = torch.arange(config.mlp_columns) if layer.columns is None else layer.columns
            if method == "structured_dropout":  # computes all and multiplies by 0
                heads, columns = heads[layer.head_gate > 0], columns[layer.column_gate > 0]
            if options.get("law") == "bernoulli":
                assert set(heads.tolist()) <= set(range(config.num_heads))
                assert set(columns.tolist()) <= set(range(config.mlp_columns))
                continue  # sizes vary: test_independent
            assert (len(heads), len(columns)) == (rates.heads * config.num_heads, rates.mlp * config.mlp_columns)
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
def test_flops_charged_are_flops_counted(harness, unbroken, batch, family, method, options):
    folder, job = unbroken(family, method, options)
    last, lengths = job.settings.steps, job.batches.lengths
    configs = [harness.configs[family].scaled(job.method.existing(step)) for step in range(1, last + 1)]
    sizes = [config.architecture_on(lengths) for config in configs]
    charged = [size.mask_flops(job.method.mask(step)) for step, size in enumerate(sizes, start=1)]
    for step in {1, last, *(end + 1 for end in job.method.course.transitions)}:
        model = _random(configs[step - 1])
        count = _counted(lambda step=step, model=model: model.loss(*batch, mask=job.method.mask(step)).backward())
        expected = TRAINING_FACTOR * batch[0].numel() * (charged[step - 1] + sizes[step - 1].head_flops)
        assert count == pytest.approx(expected, rel=1e-12)
    heads = [size.head_flops for size in sizes]
    for metric, flops in (("layer_flops", charged), ("total_flops", charged + heads)):
        written = harness.losses(folder, metric)[last]
        assert written == pytest.approx(TRAINING_FACTOR * BATCH * lengths.inputs * math.fsum(flops), rel=1e-12)


@every_case
def test_resumed_across_a_transition_is_never_stopped(harness, unbroken, tmp_path, family, method, options):
    folder, job = unbroken(family, method, options)
    case = {"family": family, "method": method, "options": options}
    end = job.settings.steps
    last = max(job.method.course.transitions, default=5)  # killed before and after the last one; more in test_resume
    for at in (last, last + 1):
        with pytest.raises(harness.Killed):
            harness.train(tmp_path / str(at), at=at, **case)
        harness.train(tmp_path / str(at), **case)
        assert harness.state(tmp_path / str(at), end) == harness.state(folder, end), f"killed in step {at}"


@every_case
def test_a_checkpoint_of_any_stage_opens_in_transformers(unbroken, batch, family, method, options):
    _, job = unbroken(family, method, options)
    auto_class = getattr(transformers, FAMILIES[family].conversion.auto_class)
    inputs = batch[:-1]
    named = dict(zip(("input_ids", "attention_mask", "decoder_input_ids"), inputs, strict=False))
    steps = [0, *job.method.course.transitions, job.settings.steps]
    assert set(steps) <= set(job.checkpoints.steps())
    for step in steps:
        folder = job.checkpoints.path(step)
        theirs, report = auto_class.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        assert theirs.config.model_type == family
        assert load_folder(folder).config == job.model.config.scaled(job.method.existing(max(step, 1)))
        with torch.no_grad():
            # Float32 through four narrow layers: some dozens of roundings of 6e-8 on logits of order 1.
            torch.testing.assert_close(load_folder(folder)(*inputs), theirs(**named).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_drawn_ahead_and_bfloat16_train(harness, tmp_path, family):
    """One short run in each precision learns the same to bfloat16's eight bits."""
    for precision in ("float32", "bfloat16"):
        harness.train(tmp_path / precision, family=family, precision=precision)
    losses = [harness.losses(tmp_path / precision)[STEPS] for precision in ("float32", "bfloat16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_without_heads_asks_no_kernel_for_attention(harness, tmp_path, monkeypatch, family):
    """Kernels of GPUs divide by the number of heads; independent draws may keep none."""
    asked, attention = [], F.scaled_dot_product_attention

    def recorded(query, *rest, **how):
        asked.append(query.shape[1])
        return attention(query, *rest, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    job = harness.job(tmp_path, family=family)
    none = LayerMask(heads=torch.empty(0, dtype=torch.int64), head_scale=2.0)
    mask = SubnetMask(layers=(none, *[LayerMask()] * (job.model.config.num_layers - 1)))
    job.model.loss(*job.batches.batch(0), mask=mask).backward()
    assert asked
    assert 0 not in asked
