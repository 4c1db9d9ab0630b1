"""Parameters and multiply-adds against the published ones and against torch's own counter."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.backbone import BackboneSettings, build_backbone
from training.flops import count_cost, layer_calls
from training.swin import SwinTrunk

NAMES = [
    *("r18", "r34", "r50", "r100", "r200", "tiny", "vit_t", "vit_s", "vit_b", "swin_t"),
    *("mobilefacenet", "mbf", "mbf_w600k", "mbf_large", "plain_s", "plain_sd", "plain_m"),
]


@cache  # never changed here
def on_meta(name: Any, dim: int = 512) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(BackboneSettings(name=name, dim=dim, **_without_mask(name)))


def _without_mask(name: str) -> dict[str, Any]:
    return {"mask": 0.0} if name.startswith("vit") else {}


def values_of(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    """How many values layers of these kinds give for one picture."""
    return sum(call.given.numel() for call in layer_calls(net) if isinstance(call.layer, kinds))


def gigas_as_ptflops(net: nn.Module) -> float:
    """As arcface_torch's flops.py counts: ptflops adds 2 a value of BN and 1 of PReLU.

    For a ViT it adds the products of attention, and calls the sum FLOPs.
    """
    norms = values_of(net, (nn.BatchNorm2d, nn.BatchNorm1d))
    slopes = values_of(net, (nn.PReLU,))
    return (count_cost(net).multiply_adds + 2 * norms + slopes) / 1e9


@pytest.mark.parametrize(
    ("name", "gigas", "digits"),
    [
        # arcface_torch/README.md, "ViT For Face Recognition", column FLOPs.
        ("r18", 2.6, 1),
        ("r50", 6.3, 1),
        ("r100", 12.1, 1),
        ("r200", 23.5, 1),
        ("vit_t", 1.5, 1),
        ("vit_s", 5.7, 1),
        ("vit_b", 11.4, 1),
        # The same file: "mobilefacenet-0.45G"; insightface's packs have the second.
        ("mbf", 0.45, 2),
        ("mbf_w600k", 0.45, 2),
    ],
)
def test_flops_are_those_of_arcface_torch(name: str, gigas: float, digits: int) -> None:
    assert round(gigas_as_ptflops(on_meta(name)), digits) == gigas


def test_mobilefacenet_is_the_published_one() -> None:
    """FaceX-Zoo's training_mode/README.md: 1.19M and 227.57M, by THOP, at 512 dimensions.

    THOP adds 2 a value of BN and counts no PReLU, neither its parameters nor its products.
    """
    net = on_meta("mobilefacenet")
    norms = values_of(net, (nn.BatchNorm2d, nn.BatchNorm1d))
    slopes = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.PReLU))
    cost = count_cost(net)
    assert round((cost.parameters - slopes) / 1e6, 2) == 1.19
    assert round((cost.multiply_adds + 2 * norms) / 1e6, 2) == 227.57


def test_mobilefacenet_of_the_paper_has_221_million_multiply_adds() -> None:
    """arXiv 1804.07573, table 2 (221M) and section 4 (0.99 million parameters), at 128."""
    cost = count_cost(on_meta("mobilefacenet", 128))
    assert round(cost.multiply_adds / 1e6) == 221
    assert round(cost.parameters / 1e6, 1) == 1.0


def test_r100_has_the_published_parameters() -> None:
    """Open Model Zoo, face-recognition-resnet100-arcface-onnx: 65.1320 M and 24.2115 GFLOPs.

    Those are of the MXNet original, whose fixed scales and unlike shortcuts make it 0.04 %
    smaller; its FLOPs are two a multiply-add.
    """
    cost = count_cost(on_meta("r100"))
    assert cost.parameters / 1e6 == pytest.approx(65.132, rel=5e-4)
    assert 2 * cost.multiply_adds / 1e9 == pytest.approx(24.2115, rel=2e-3)


def test_swin_is_the_published_one() -> None:
    """torchvision's Swin_T_Weights: num_params 28288354, GFLOPS 4.49; the paper: 4.5G.

    With the end for 1,000 classes: a mean over the places and a linear layer.
    """
    with torch.device("meta"):
        trunk = SwinTrunk(224, 4, drop_path=0.0, recompute=False)
    cost, end = count_cost(trunk, image_px=224), nn.Linear(trunk.channels, 1000)
    parameters = cost.parameters + sum(value.numel() for value in end.parameters())
    assert parameters == 28_288_354
    assert round((cost.multiply_adds + end.weight.numel()) / 1e9, 2) == 4.49


def resnet_parameters(units: tuple[int, ...], dim: int = 512) -> int:
    """By the paper's table alone: 3 x 3 convolutions, norms of two, a slope a channel."""
    total, before = 3 * 64 * 9 + 2 * 64 + 64, 64
    for width, count in zip((64, 128, 256, 512), units, strict=True):
        total += before * width + 2 * width  # the way around
        for _ in range(count):
            total += 9 * before * width + 9 * width * width + 2 * before + 4 * width + width
            before = width
    return total + 2 * 512 + (512 * 49 + 1) * dim + 2 * dim


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("r18", (2, 2, 2, 2)),
        ("r34", (3, 4, 6, 3)),
        ("r50", (3, 4, 14, 3)),
        ("r100", (3, 13, 30, 3)),
        ("r200", (6, 26, 60, 6)),
    ],
)
def test_parameters_of_the_resnets(name: str, units: tuple[int, ...]) -> None:
    assert count_cost(on_meta(name)).parameters == resnet_parameters(units)


@pytest.mark.parametrize(
    ("name", "channels", "depth"), [("vit_t", 256, 12), ("vit_s", 512, 12), ("vit_b", 512, 24)]
)
def test_parameters_of_the_vits(name: str, channels: int, depth: int) -> None:
    c, tokens, dim = channels, 144, 512
    block = 3 * c * c + (c * c + c) + (4 * c * c + 4 * c) + (4 * c * c + c) + 4 * c
    ends = (243 * c + c) + tokens * c + 2 * c + tokens * c * c + 2 * c + c * dim + 2 * dim
    assert count_cost(on_meta(name)).parameters == depth * block + ends


@pytest.mark.parametrize("name", NAMES)
def test_multiply_adds_are_half_of_what_torch_counts(name: str) -> None:
    net = on_meta(name).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 112, 112, device="meta"))
    assert 2 * count_cost(net).multiply_adds == counter.get_total_flops()


def test_calls_come_in_order_and_leave_the_net_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.PReLU(2)))
    net[1].eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    calls = layer_calls(net, image_px=5)
    assert [call.name for call in calls] == ["0", "1.0", "1.1"]
    assert calls[0].taken == (1, 3, 5, 5)
    assert calls[0].given == (1, 2, 3, 3)
    assert [module.training for module in net.modules()] == [True, True, False, False, False]
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
