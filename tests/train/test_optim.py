import pytest
import torch
from torch import nn

from est_analysis.errors import InputError
from est_analysis.models.families import build_model
from est_analysis.models.gpt2.model import GPT2
from est_analysis.train.optim import build_optimizer, learning_rate, require_room_to_rewarm, set_learning_rate
from est_analysis.train.settings import Settings


def rates(**settings):
    settings = Settings(lr=1.0, **settings)
    return [learning_rate(step, settings) for step in range(1, settings.steps + 1)]


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # Six steps, two of warm-up: progress after it is 0, 1/4, 2/4, 3/4.
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        # 0.1 + 0.9 (1 + cos(pi progress)) / 2; cos(pi / 4) = 2**-0.5.
        ("cosine", [0.5, 1.0, 1.0, 0.1 + 0.45 * (1 + 2**-0.5), 0.55, 0.1 + 0.45 * (1 - 2**-0.5)]),
    ],
)
def test_shape_of_every_decay(decay, expected):
    # A handful of operations on numbers near 1: a few units in the last place.
    assert rates(steps=6, warmup=2, decay=decay) == pytest.approx(expected, rel=1e-15)


def test_the_rate_climbs_back_after_every_transition():
    settings = Settings(steps=12, lr=1.0, rewarm=4, decay="linear")
    plain, rewarmed = ([learning_rate(step, settings, ends) for step in range(1, 13)] for ends in ((), (2, 5)))
    factors = [1, 1, 0.25, 0.5, 0.75, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert rewarmed == [rate * factor for rate, factor in zip(plain, factors, strict=True)]


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (10, 9), (1000, 50)])
def test_every_step_learns_and_the_peak_is_reached_once_warm(decay, steps, warmup):
    found = rates(steps=steps, warmup=warmup, decay=decay)
    assert min(found) > 0
    assert found[warmup] == max(found) == 1.0
    assert found[:warmup] == [step / warmup for step in range(1, warmup + 1)]
    assert all(later <= earlier for earlier, later in zip(found[warmup:], found[warmup + 1 :], strict=False))


def test_every_parameter_once_and_no_decay_of_norms_and_biases(harness):
    model = GPT2(harness.config)
    settings = Settings(steps=1, weight_decay=0.3, betas=(0.8, 0.9))
    optimizer = build_optimizer(model, settings)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    # Said in another way than by name: norms are modules, and in this model a bias is the only other vector; the
    # attention bias (heads, 3, width) is a vector cut in pieces.
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    biases = {id(block.attention.qkv_bias) for block in model.blocks}
    vectors = {id(parameter) for parameter in model.parameters() if parameter.ndim == 1}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {key for key, decay in decays.items() if decay == 0} == norms | biases | vectors
    assert set(decays.values()) == {0.0, 0.3}
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def test_rate_is_given_to_every_group(harness):
    optimizer = build_optimizer(GPT2(harness.config), Settings(steps=1))
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "t5"])
def test_embeddings_have_a_decay_of_their_own_where_one_is_given(harness, family):
    model = build_model(harness.configs[family])
    tables = {name for name, _ in model.named_parameters() if name.endswith("embedding")}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    apart, alike = (
        {
            names[id(parameter)]: group["weight_decay"]
            for group in build_optimizer(model, settings).param_groups
            for parameter in group["params"]
        }
        for settings in (Settings(steps=1, weight_decay=0.3, embedding_decay=0.7), Settings(steps=1, weight_decay=0.3))
    )
    assert tables
    assert apart.keys() == alike.keys() == set(names.values())
    assert {name for name in names.values() if apart[name] != alike[name]} == tables
    assert {apart[name] for name in tables} == {0.7}


def test_a_rewarm_longer_than_a_stage_is_refused():
    """Stages of 3 and 7 steps begin with one; the first of all does not."""
    require_room_to_rewarm(Settings(steps=12, rewarm=3), (2, 5))
    require_room_to_rewarm(Settings(steps=12, rewarm=100), ())
    with pytest.raises(InputError, match="rewarm=4 is longer than the stage of 3 steps that begins after step 2; use"):
        require_room_to_rewarm(Settings(steps=12, rewarm=4), (2, 5))
