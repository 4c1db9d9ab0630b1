"""The door to the backbones: what it builds, and what it refuses."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from training import iresnet, mobilefacenet, vit
from training.backbone import IMAGE_PX, BackboneSettings, build_backbone

NAMES = (*iresnet.PLANS, *mobilefacenet.PLANS, *vit.PLANS, "swin_t")


def test_every_name_has_a_plan() -> None:
    for module in (iresnet, mobilefacenet, vit):
        assert set(get_args(module.Name)) == set(module.PLANS)


@pytest.mark.parametrize("name", NAMES)
def test_takes_crops_and_gives_embeddings(name: Any) -> None:
    with torch.device("meta"):
        net = build_backbone(BackboneSettings(name=name, dim=96))
        crops_BCHW = torch.zeros(2, 3, IMAGE_PX, IMAGE_PX)
    assert net.training
    assert net(crops_BCHW).shape == (2, 96)


@pytest.mark.parametrize("name", ["tiny", "mobilefacenet", "vit_t"])
def test_the_same_seed_gives_the_same_net(name: Any) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build_backbone(BackboneSettings(name=name, dim=16)).state_dict())
    one, same, other = states
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["tiny", "mobilefacenet"])
def test_every_trained_weight_gets_a_gradient(name: Any) -> None:
    torch.manual_seed(0)
    net = build_backbone(BackboneSettings(name=name, dim=16))
    net(torch.randn(4, 3, IMAGE_PX, IMAGE_PX)).square().sum().backward()
    without = [
        key
        for key, value in net.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.abs().sum() > 0)
    ]
    assert without == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "r51"},
        {"dim": 0},
        {"dropout": 1.0},
        {"name": "mbf", "dropout": 0.4},
        {"name": "r50", "drop_path": 0.1},
        {"name": "swin_t", "mask": 0.1},
        {"name": "r100", "recompute": True},
        {"depth": 50},
    ],
)
def test_a_setting_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BackboneSettings(**wrong)


def test_settings_reach_the_net() -> None:
    with torch.device("meta"):
        resnet = build_backbone(BackboneSettings(name="r18", dropout=0.4))
        masked = build_backbone(BackboneSettings(name="vit_t", mask=0.25, drop_path=0.2))
        plain = build_backbone(BackboneSettings(name="vit_t", mask=0.0, recompute=True))
    assert isinstance(resnet, iresnet.IResNet)
    assert isinstance(masked, vit.ViT)
    assert isinstance(plain, vit.ViT)
    assert resnet.dropout.p == 0.4
    assert (masked.mask, plain.mask) == (0.25, 0.0)
    assert [block.drop_path.share for block in masked.blocks][::11] == [0.0, 0.2]
    assert plain.recompute
    assert not masked.recompute
