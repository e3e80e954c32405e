import math
from dataclasses import replace

import pytest

from est_analysis.errors import InputError
from est_analysis.models.config import PRESETS, find_preset
from est_analysis.models.gpt2 import GPT2


def test_num_parameters_counts_the_tied_head_once(config):
    assert config.num_parameters == sum(p.numel() for p in GPT2(config).parameters())


def test_gpt2_is_the_124m_model():
    assert PRESETS["gpt2"].num_parameters == 124_439_808


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_the_vocabulary_and_divide_into_heads_and_halves(name):
    preset = find_preset(name, vocab_size=99)
    assert preset == replace(PRESETS[name], vocab_size=99)
    # EST's published rates are halves: they must give whole heads, columns and layers.
    assert not any(size % 2 for size in (preset.num_heads, preset.mlp_columns, preset.num_layers))
    assert preset.architecture(64).stack.num_heads == preset.num_heads
    assert preset.architecture(64).vocab_size == 99


@pytest.mark.parametrize("axis", ["num_layers", "hidden", "num_heads", "mlp_columns", "vocab_size", "context_length"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_start_at_1(config, axis, value):
    with pytest.raises(InputError, match=f"{axis}={value} is not a size; use a number of at least 1"):
        replace(config, **{axis: value})


def test_a_width_that_does_not_divide_is_refused(config):
    with pytest.raises(InputError, match="a width of 12 does not divide into 5 heads; use a multiple of 5"):
        replace(config, num_heads=5)


def test_unknown_preset():
    with pytest.raises(InputError, match="unknown preset 'tinny': did you mean 'tiny'"):
        find_preset("tinny", vocab_size=10)


def test_initialisation_is_gpt2s():
    config = replace(PRESETS["tiny"], vocab_size=300)
    for name, parameter in GPT2(config).initialise(0).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert parameter.eq(1).all()
        else:
            residual = name.endswith(("out_weight", "down_weight"))
            std = 0.02 / math.sqrt(2 * config.num_layers) if residual else 0.02
            # The mean square of n normals has relative deviation sqrt(2/n): 5 of them.
            ratio = parameter.double().square().mean().item() / std**2
            assert ratio == pytest.approx(1, abs=5 * math.sqrt(2 / parameter.numel()))
