import pytest
import torch

from est_analysis.subnet.mask import LayerMask, SubnetMask


def test_full_mask_has_everything_active_at_scale_1():
    mask = SubnetMask.full(3)
    assert mask.active_layers == (0, 1, 2)
    for layer in mask.layers:
        assert (layer.heads, layer.columns) == (None, None)
        assert (layer.head_scale, layer.column_scale, layer.scale, layer.sublayer_scale) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("pattern", "active"), [("", ()), ("..", ()), ("x.x", (0, 2)), (".xx", (1, 2)), ("xxx", (0, 1, 2))]
)
def test_active_layers(pattern, active):
    assert SubnetMask(layers=tuple(LayerMask() if c == "x" else None for c in pattern)).active_layers == active


def test_moving_a_mask_keeps_bypassed_layers_and_scales():
    layer = LayerMask(heads=torch.tensor([1]), head_scale=2.0, column_scale=3.0, scale=0.5, sublayer_scale=4.0)
    moved = SubnetMask(layers=(layer, None, LayerMask())).to("meta")
    assert moved.active_layers == (0, 2)
    assert moved.layers[0].heads.device.type == "meta"
    assert moved.layers[0].columns is None
    assert (moved.layers[0].head_scale, moved.layers[0].column_scale) == (2.0, 3.0)
    assert (moved.layers[0].scale, moved.layers[0].sublayer_scale) == (0.5, 4.0)
    assert layer.heads.device.type == "cpu", "the mask itself is a value"
