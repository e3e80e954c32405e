import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from est_analysis.claims import check_frame
from est_analysis.claims.raptr_stability import predicted_stability
from est_analysis.errors import InputError
from est_analysis.experiments.small_nets.stability_depth import (
    COLUMNS,
    SCALES,
    VARIANTS,
    DepthSettings,
    measure_stability_depth,
    psi_by_depth,
    run_id,
)
from est_analysis.models.resnet import ResidualNet
from est_analysis.rng import stream
from est_analysis.subnet.mask import LayerMask, SubnetMask

SMALL = DepthSettings(width=6, depths=(1, 3, 5), seeds=2, inputs=4, layers_at=5)


@pytest.fixture(scope="module")
def smoke():
    return measure_stability_depth(SCALES["smoke"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_psi_is_that_of_a_net_run_without_its_layer(variant):
    x = torch.randn(4, 6, generator=stream(0, "x"))
    layers = list(VARIANTS[variant](SMALL, 3))

    def run(chosen):
        y = x
        for layer in chosen:
            y = layer(y)
        return y

    found = psi_by_depth(iter(layers), x, SMALL.depths)
    assert list(found) == [1, 3, 5]
    for depth, psi in found.items():
        full = run(layers[:depth])
        for bypassed in range(depth):
            without = run(layers[:bypassed] + layers[bypassed + 1 : depth])
            exact = ((without - full).norm(dim=1) / full.norm(dim=1)).mean().item()
            # float32 rounding of up to 5 layers, of values near 1.
            assert psi[bypassed].item() == pytest.approx(exact, rel=1e-5)


def test_gelu_layers_are_our_residual_net_bypassed_by_its_mask():
    net = ResidualNet(num_inputs=1, hidden=6, num_layers=5).initialise(3)
    stored = {}
    net.final_norm.register_forward_pre_hook(lambda module, args: stored.update(y=args[0]))
    net.inputs = torch.nn.Identity()
    x = torch.randn(4, 6, generator=stream(0, "x"))
    ends = []
    for without in [None, *range(5)]:
        net(x, SubnetMask(layers=tuple(None if layer == without else LayerMask() for layer in range(5))))
        ends.append(stored["y"].detach())
    psi = [((end - ends[0]).norm(dim=1) / ends[0].norm(dim=1)).mean().item() for end in ends[1:]]
    assert psi_by_depth(VARIANTS["gelu residual+norm"](SMALL, 3), x, (5,))[5].tolist() == pytest.approx(psi, rel=1e-5)


def test_a_layer_bypassed_by_mistake_would_show():
    """Planted: bypassing the layer after the one that is meant changes what is measured."""
    layers = list(VARIANTS["residual+norm"](SMALL, 0))
    x = torch.randn(4, 6, generator=stream(0, "x"))
    right, swapped = (psi_by_depth(iter(order), x, (5,))[5] for order in (layers, [*layers[1:], layers[0]]))
    assert not torch.allclose(right, swapped, rtol=1e-3)


def test_linear_weights_have_variance_one_over_width():
    # 512^2 draws: their second moment has relative standard error sqrt(2) / 512 = 0.003.
    layer = next(VARIANTS["norm"](replace(SMALL, width=512), 0))
    unit = torch.eye(512)  # rows of LN have norm sqrt(512), up to 1/sqrt(512) for the mean
    assert layer(unit).pow(2).mean().item() == pytest.approx(1.0, abs=0.02)


def test_frame_is_tidy(smoke):
    check_frame(smoke)
    assert smoke.columns.tolist() == COLUMNS
    settings = SCALES["smoke"]
    assert len(smoke) == len(VARIANTS) * settings.seeds * (len(settings.depths) + settings.layers_at)
    assert smoke.groupby("run_id")[["method", "seed"]].nunique().eq(1).all(axis=None)
    single = smoke[smoke["metric"].str.startswith("psi_")]
    assert set(single["step"]) == {8}
    whole = smoke[(smoke["metric"] == "mean_psi") & (smoke["step"] == 8)].set_index("run_id")["value"]
    assert single.groupby("run_id")["value"].mean().to_dict() == pytest.approx(whole.to_dict())


def test_wide_nets_agree_with_the_infinite_width():
    # Check values: 0.465, 0.68 and 1.39 at L = 8 for linear nets of width 200, four of each.
    frame = measure_stability_depth(DepthSettings(width=256, depths=(8, 16), seeds=4, layers_at=16))
    means = frame.groupby(["method", "step", "metric"])["value"].mean()
    predicted = predicted_stability(frame).set_index(["method", "step", "metric"])["value"]
    found = (means / predicted).xs("mean_psi", level="metric")
    # A relative spread of 0.03 a net at width 256, halved by four; and the width's own bias, up to 16/256.
    assert (found - 1).abs().max() < 4 * 0.015 + 16 / 256 / 2
    assert means["residual+norm", 8, "mean_psi"] == pytest.approx(0.476, abs=0.03)


def test_same_settings_same_numbers_and_no_global_randomness(smoke):
    before = torch.get_rng_state()
    again = measure_stability_depth(SCALES["smoke"])
    assert torch.equal(torch.get_rng_state(), before)
    assert again.equals(smoke)


def test_more_seeds_or_other_depths_leave_a_seed_as_it_is(smoke):
    more = measure_stability_depth(replace(SCALES["smoke"], seeds=3))
    assert more[more["seed"] < 2].reset_index(drop=True).equals(smoke)
    deeper = measure_stability_depth(DepthSettings(width=32, depths=(4, 8, 9), seeds=2, inputs=2, layers_at=8))
    shared = deeper[deeper["step"] <= 8].reset_index(drop=True)
    assert shared["value"].tolist() == pytest.approx(smoke["value"].tolist(), rel=1e-5)
    assert set(deeper["run_id"]).isdisjoint(smoke["run_id"])


def test_run_names_tell_everything_apart():
    settings = SCALES["smoke"]
    names = [run_id(settings, variant, seed) for variant in VARIANTS for seed in range(2)]
    names += [run_id(replace(settings, **change), "norm", 0) for change in ({"width": 33}, {"inputs": 3})]
    assert len(set(names)) == len(names)
    assert run_id(settings, "norm", 0).startswith("stability-norm-0-")


def test_depths_without_norms_stay_finite_at_the_largest_depth_allowed():
    settings = DepthSettings(width=4, depths=(200,), seeds=1, inputs=1, layers_at=200)
    x = torch.ones(1, 4)
    assert torch.isfinite(psi_by_depth(VARIANTS["residual"](settings, 0), x, (200,))[200]).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 0}, "width=0 must be at least 1"),
        ({"depths": (8, 4)}, r"depths=\(8, 4\) must be positive and increasing"),
        ({"depths": ()}, "must be positive and increasing"),
        ({"depths": (5, 300)}, "depth 300 overflows"),
        ({"layers_at": 7}, "layers_at=7 is none of the depths"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, reason):
    with pytest.raises(InputError, match=reason):
        replace(SMALL, **change)


def test_measuring_never_loads_the_theory():
    probe = (
        "import sys, est_analysis.experiments.small_nets.stability_depth; "
        "print(any('est_analysis.theory' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "False"
