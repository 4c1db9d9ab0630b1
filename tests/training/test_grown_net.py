"""A larger net that begins as a smaller one: it answers alike, in training too, and can learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facepipe.errors import ConfigError, ModelMismatch
from training.backbone import BackboneSettings, build_backbone
from training.export import onnx_bytes
from training.grown_net import STEP, begin_from, can_grow
from training.mirrored import Mirrored
from training.muon_adamw import MuonAdamW
from training.plain_net import PlainNet

SMALL, LARGE = (BackboneSettings(name=n, dim=24) for n in ("plain_s", "plain_sm"))
OPTIMIZER = MuonAdamW(lr=1e-3, muon_lr=0.01)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    smooth = torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(smooth, size=112, mode="bilinear") * 2 - 1


@pytest.fixture(scope="module")
def before() -> nn.Module:
    """Return a net whose normalisations have seen pictures, and are not all alike."""
    torch.manual_seed(5)
    net = build_backbone(SMALL)
    for _ in range(40):
        net(pictures(16, seed=1))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return net.eval()


@pytest.fixture(scope="module")
def grown(before: nn.Module) -> nn.Module:
    net = build_backbone(LARGE)
    shown = [pictures(32, seed) for seed in range(4)]
    begin_from(net, LARGE, onnx_bytes(Mirrored(before)), SMALL, OPTIMIZER, shown)
    return net


def alike(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(one, other).min())


@torch.no_grad()
def test_it_answers_as_the_smaller_one(before: nn.Module, grown: nn.Module) -> None:
    shown = pictures(8, seed=9)
    more = sum(p.numel() for p in grown.parameters()) - sum(p.numel() for p in before.parameters())
    assert more > 300_000
    assert alike(before(shown), grown.eval()(shown)) > 0.9999


@torch.no_grad()
def test_in_training_too(before: nn.Module, grown: nn.Module) -> None:
    """By the statistics of a batch, not those of many: nearly."""
    shown = pictures(128, seed=0)
    state = {name: value.clone() for name, value in grown.state_dict().items()}
    close = nn.functional.cosine_similarity(before(shown), grown.train()(shown)).mean()
    grown.load_state_dict(state)
    assert float(close) > 0.98


def test_a_full_step_turns_every_row_alike(grown: nn.Module) -> None:
    assert isinstance(grown, PlainNet)
    for place in (1, 2, 4):  # of the body: units that the smaller net has
        unit = grown.body[place]
        assert isinstance(unit, nn.Module)
        weight = unit.get_submodule("second.conv").weight
        assert isinstance(weight, torch.Tensor)
        length = weight.detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(length, torch.full_like(length, OPTIMIZER.muon_lr / STEP))
    each = grown.fc.weight.detach().square().mean(dim=1).sqrt()
    torch.testing.assert_close(each, torch.full_like(each, OPTIMIZER.lr / STEP))


def test_only_from_a_net_that_it_holds(before: nn.Module) -> None:
    assert can_grow(SMALL, LARGE) and can_grow(SMALL, SMALL)
    assert not can_grow(LARGE, SMALL)
    assert not can_grow(SMALL, BackboneSettings(name="plain_sd", dim=24))
    assert not can_grow(SMALL, BackboneSettings(name="plain_sm", dim=32))
    assert not can_grow(BackboneSettings(name="r18", dim=24), LARGE)
    data, shown = onnx_bytes(Mirrored(before)), [pictures(4)]
    other = BackboneSettings(name="plain_sd", dim=24)
    with pytest.raises(ConfigError, match="cannot begin as"):
        begin_from(build_backbone(other), other, data, SMALL, OPTIMIZER, shown)
    with pytest.raises(ModelMismatch):
        begin_from(build_backbone(LARGE), LARGE, data, LARGE, OPTIMIZER, shown)
