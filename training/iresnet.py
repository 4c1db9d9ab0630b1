"""IResNet: the residual nets of ArcFace, with the BN-Dropout-FC-BN head.

Improved residual units (Duta et al. 2020, arXiv 2004.04989; the "IR" units of Deng et al. 2019,
arXiv 1801.07698, 3.2.2): BN, conv, BN, PReLU, conv, BN, with the stride in the second
convolution, a 3 x 3 stem that keeps 112 x 112, and no activation after the sum. Module names
are those of insightface's arcface_torch, so that its weights load as they are.

Legend: B pictures, C channels, H height, W width, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from training.precision import in_float32

BN_EPS = 1e-5  # arcface_torch, and PyTorch's own default
STEM_STD = 0.1  # standard deviation of the convolutions' first weights: arcface_torch

Name = Literal["r18", "r34", "r50", "r100", "r200", "tiny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many units a stage has, how wide it is, and where the picture is made smaller."""

    units: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_kernel: int = 3
    stem_stride: int = 1
    first_stride: int = 2  # of the first stage; the others have 2


# Units: arcface_torch, backbones/iresnet.py. "tiny" is ours, for training without a GPU: dense
# 3 x 3 convolutions at a quarter of the resolution, since depthwise ones are bound by memory
# there.
PLANS: Mapping[str, Plan] = {
    "r18": Plan(units=(2, 2, 2, 2)),
    "r34": Plan(units=(3, 4, 6, 3)),
    "r50": Plan(units=(3, 4, 14, 3)),
    "r100": Plan(units=(3, 13, 30, 3)),
    "r200": Plan(units=(6, 26, 60, 6)),
    "tiny": Plan(
        units=(1, 1, 1, 1), widths=(32, 64, 128, 256), stem_kernel=5, stem_stride=4, first_stride=1
    ),
}


class Unit(nn.Module):
    """One improved residual unit."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        """Make a unit; where its shape changes, a 1 x 1 convolution is the way around it."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in, eps=BN_EPS)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels, eps=BN_EPS),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x channels x H/stride x W/stride."""
        out = self.conv1(self.bn1(x_BCHW))
        out = self.bn3(self.conv2(self.prelu(self.bn2(out))))
        around = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        summed: Tensor = out + around
        return summed


class IResNet(nn.Module):
    """An improved residual net: pictures to embeddings."""

    def __init__(self, plan: Plan, dim: int, dropout: float, image_px: int) -> None:
        """Make the net with fresh weights, drawn from torch's generator."""
        super().__init__()
        first, last = plan.widths[0], plan.widths[-1]
        kernel = plan.stem_kernel
        self.conv1 = nn.Conv2d(
            3, first, kernel, stride=plan.stem_stride, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(first, eps=BN_EPS)
        self.prelu = nn.PReLU(first)
        strides = (plan.first_stride, 2, 2, 2)
        before = (first, *plan.widths[:-1])
        stages = [
            _stage(*shape) for shape in zip(before, plan.widths, plan.units, strides, strict=True)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        side = image_px
        for stride in (plan.stem_stride, *strides):
            side = -(-side // stride)
        self.bn2 = nn.BatchNorm2d(last, eps=BN_EPS)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(last * side * side, dim)
        self.features = nn.BatchNorm1d(dim, eps=BN_EPS)
        # A free scale here would only compete with the loss's own: arcface_torch keeps it at 1.
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, STEM_STD)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D embeddings, not normalised, of B x 3 x 112 x 112 in [-1, 1], RGB."""
        x = self.prelu(self.bn1(self.conv1(x_BCHW)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        return in_float32(self._end, x)

    def _end(self, x: Tensor) -> Tensor:
        embeddings_BD: Tensor = self.features(self.fc(x))
        return embeddings_BD


def _stage(channels_in: int, channels: int, units: int, stride: int) -> nn.Sequential:
    rest = [Unit(channels, channels, 1) for _ in range(units - 1)]
    return nn.Sequential(Unit(channels_in, channels, stride), *rest)
