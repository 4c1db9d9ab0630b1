"""Weights from files of others, by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from facepipe.errors import CorruptData, ModelMismatch, ModelNotFound, ModelUnreadable
from tests.training.made_nets import made_net, made_onnx
from training.backbone import BackboneSettings, build_backbone
from training.parity import plain_copy
from training.pretrained import load_state, load_weights
from training.tensor_file import tensor_bytes
from training.vit import Plan, ViT

CROPS = torch.linspace(-1, 1, 2 * 3 * 112 * 112).reshape(2, 3, 112, 112).sin()


def answer(net: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = plain_copy(net)(CROPS)
    return out


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".onnx"])
def test_each_kind_of_file(tmp_path: Path, ending: str) -> None:
    net, other = made_net("tiny"), made_net("tiny", seed=1)
    path = tmp_path / f"weights{ending}"
    if ending == ".onnx":
        path.write_bytes(made_onnx("tiny"))
    elif ending == ".safetensors":
        path.write_bytes(tensor_bytes(net.state_dict()))
    else:
        torch.save(net.state_dict(), path)
    expected = answer(net)
    assert not torch.allclose(answer(other), expected)
    load_weights(other, path)
    torch.testing.assert_close(answer(other), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module._orig_mod.", "net."])
def test_wrappers_are_taken_off(prefix: str) -> None:
    net, other = made_net("tiny"), made_net("tiny", seed=1)
    load_state(other, {f"{prefix}{key}": value for key, value in net.state_dict().items()})
    assert torch.equal(answer(other), answer(net))


def test_counters_and_constants_of_others_are_left_out() -> None:
    net, other = made_net("tiny"), made_net("tiny", seed=1)
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_state(other, {**state, "layer9.num_batches_tracked": torch.tensor(3)})
    assert torch.equal(answer(other), answer(net))


@pytest.mark.parametrize("mask", [0.0, 0.1])
def test_a_vit_takes_weights_with_and_without_a_mask_token(mask: float) -> None:
    plan = Plan(channels=16, depth=1)
    net, other = (
        ViT(plan, 8, 112, drop_path=0.0, mask=share, recompute=False)
        for share in (mask, 0.1 - mask)
    )
    load_state(other, net.state_dict())
    assert torch.equal(answer(other), answer(net))


class Block(nn.Module):
    """FaceX-Zoo's and TreB1eN's naming of convolution, norm and PReLU."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        pad = kernel // 2 if kernel == 3 else 0
        self.conv = nn.Conv2d(before, after, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(after)
        self.prelu = nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.prelu(self.bn(self.conv(x)))
        return out


class Linear(Block):
    def __init__(self, before: int, after: int, kernel: int, groups: int) -> None:
        super().__init__(before, after, kernel, 1, groups)
        del self.prelu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class DepthWise(nn.Module):
    def __init__(self, before: int, after: int, stride: int, inside: int) -> None:
        super().__init__()
        self.conv = Block(before, inside, 1, 1, 1)
        self.conv_dw = Block(inside, inside, 3, stride, inside)
        self.project = Linear(inside, after, 1, 1)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Residual(nn.Module):
    def __init__(self, channels: int, count: int, inside: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(DepthWise(channels, channels, 1, inside) for _ in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class FaceXMobileFaceNet(nn.Module):
    """Written down from FaceX-Zoo's backbone/MobileFaceNets.py."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = Block(3, 64, 3, 2, 1)
        self.conv2_dw = Block(64, 64, 3, 1, 64)
        self.conv_23 = DepthWise(64, 64, 2, 128)
        self.conv_3 = Residual(64, 4, 128)
        self.conv_34 = DepthWise(64, 128, 2, 256)
        self.conv_4 = Residual(128, 6, 256)
        self.conv_45 = DepthWise(128, 128, 2, 512)
        self.conv_5 = Residual(128, 2, 256)
        self.conv_6_sep = Block(128, 512, 1, 1, 1)
        self.conv_6_dw = Linear(512, 512, 7, 512)
        self.linear = nn.Linear(512, dim, bias=False)
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        *steps, linear, bn = self.children()
        for step in steps:
            x = step(x)
        out: Tensor = bn(linear(x.flatten(1)))
        return out


def test_mobilefacenet_of_facex_zoo_answers_alike() -> None:
    torch.manual_seed(0)
    theirs = FaceXMobileFaceNet(16)
    theirs(torch.randn(2, 3, 112, 112))  # statistics of its own
    ours = build_backbone(BackboneSettings(name="mobilefacenet", dim=16))
    load_state(ours, {f"backbone.{key}": value for key, value in theirs.state_dict().items()})
    torch.testing.assert_close(answer(ours), answer(theirs))


def test_another_backbone_is_told() -> None:
    net = made_net("tiny")
    for other, message in (
        (made_net("tiny", dim=12), r"fc\.bias is \[12\], not \[24\]"),
        (made_net("mobilefacenet"), "bn1.bias is missing.* and .* more"),
    ):
        with pytest.raises(ModelMismatch, match=message):
            load_state(net, other.state_dict())


def test_files_that_cannot_be(tmp_path: Path) -> None:
    net = made_net("tiny")
    with pytest.raises(ModelNotFound, match="cannot be read"):
        load_weights(net, tmp_path / "none.pt")
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(ModelUnreadable, match=r"\.h5 is not one of"):
        load_weights(net, tmp_path / "weights.h5")
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(CorruptData):
        load_weights(net, tmp_path / "weights.safetensors")
