"""MobileFaceNet against the tables of the paper and of arcface_torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.flops import layer_calls
from training.mobilefacenet import PLANS, Bottleneck, MobileFaceNet

# Of the paper (arXiv 1804.07573, table 1): channels and side after each of its operators,
# and how the steps are repeated.
PAPER = [(64, 56), (64, 56), (64, 28), (64, 28), (128, 14), (128, 14), (128, 7), (128, 7)]


def net_on_meta(name: str, dim: int = 512) -> MobileFaceNet:
    with torch.device("meta"):
        return MobileFaceNet(PLANS[name], dim, 112)


@pytest.mark.parametrize(
    ("name", "wider"), [("mobilefacenet", 1), ("mbf", 2), ("mbf_w600k", 2), ("mbf_large", 4)]
)
def test_steps_have_the_papers_shapes_times_the_scale(name: str, wider: int) -> None:
    net, shapes = net_on_meta(name), []
    for step in net.layers:
        step.register_forward_hook(lambda _module, _taken, given: shapes.append(given.shape))
    net.eval()(torch.zeros(1, 3, 112, 112, device="meta"))
    assert [(shape[1] // wider, shape[2]) for shape in shapes] == PAPER


@pytest.mark.parametrize(
    ("name", "units"),
    [("mobilefacenet", [1, 4, 1, 6, 1, 2]), ("mbf_large", [2, 1, 8, 1, 12, 1, 4])],
)
def test_units_a_step(name: str, units: list[int]) -> None:
    counts = [
        sum(isinstance(module, Bottleneck) for module in step.modules())
        for step in net_on_meta(name).layers
    ]
    assert [count for count in counts if count] == units


@pytest.mark.parametrize("name", ["mobilefacenet", "mbf"])
def test_expanded_channels_are_the_papers_whatever_the_scale(name: str) -> None:
    depthwise = [
        call.layer.groups
        for call in layer_calls(net_on_meta(name))
        if isinstance(call.layer, nn.Conv2d) and call.layer.groups > 64
    ]
    assert depthwise == [128] * 5 + [256] * 7 + [512] + [256] * 2 + [512]


def test_only_stride_one_is_residual() -> None:
    for stride, residual in ((1, True), (2, False)):
        unit = Bottleneck(4, 4, 8, stride).eval()
        last = unit.layers[2].layers[1]
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.zeros_(last.weight)  # so that the branch gives 0
        x = torch.randn(1, 4, 6, 6)
        assert torch.equal(unit(x), x) is residual


@pytest.mark.parametrize(("name", "ends"), [("mbf", True), ("mbf_w600k", False)])
def test_names_are_those_of_arcface_torch(name: str, ends: bool) -> None:
    keys = net_on_meta(name).state_dict().keys()
    some = {
        "layers.0.layers.0.weight",
        "layers.1.layers.1.running_var",
        "layers.2.layers.1.layers.2.weight",
        "layers.7.layers.1.layers.2.layers.1.bias",
        "conv_sep.layers.2.weight",
    }
    assert some <= keys
    assert ({"features.layers.0.layers.0.weight", "features.layers.3.bias"} <= keys) is ends
    assert "features.layers.2.bias" not in keys
