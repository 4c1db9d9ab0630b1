"""Embeddings are made in float32 under autocast, and in float64 where a net is float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.iresnet import IResNet
from training.iresnet import Plan as ResNetPlan
from training.mobilefacenet import MobileFaceNet
from training.mobilefacenet import Plan as MobilePlan
from training.precision import in_float32
from training.vit import Plan as ViTPlan
from training.vit import ViT


def small_nets() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        IResNet(ResNetPlan(units=(1, 1, 1, 1), widths=(4, 4, 8, 8)), 8, 0.0, 32),
        MobileFaceNet(MobilePlan(scale=1, blocks=(1, 1, 1, 1)), 8, 32),
        ViT(ViTPlan(channels=16, depth=1), 8, 36, drop_path=0.0, mask=0.0, recompute=False),
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_last_layers_stay_in_float32(which: int) -> None:
    net, dtypes = small_nets()[which], []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d):
            module.register_forward_hook(lambda _module, _taken, given: dtypes.append(given.dtype))
    crops = torch.randn(4, 3, 36, 36)[..., :32, :32] if which < 2 else torch.randn(4, 3, 36, 36)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = net(crops)
    assert embeddings.dtype == torch.float32
    assert dtypes[0] == torch.bfloat16
    assert dtypes[-2:] == [torch.float32] * 2
    embeddings.sum().backward()
    assert all(value.grad is not None for value in net.parameters() if value.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_without_autocast_nothing_is_changed(dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 2).to(dtype)
    x = torch.ones(4, 3, dtype=dtype)
    assert torch.equal(in_float32(layer, x), layer(x))
    assert in_float32(layer, x).dtype == dtype
