"""PlainNet: a small residual net of dense convolutions, for training and running on CPUs.

Residual units as in He et al. 2015 (arXiv:1512.03385, figure 2 left), each convolution followed by
its own normalisation, so that all of them fold away at export. One 7 x 7 convolution takes the
picture to a quarter of its resolution at once: what is cheap in multiply-adds there, large and
narrow maps, is dear in memory. A linear layer over the whole last map makes the embedding, as in
ArcFace's nets; MobileFaceNet's sum over its places learned three times as slowly (docs/log.md).

Legend: B pictures, C channels, H height, W width, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.precision import in_float32

STEM_STRIDE = 4
STEM_KERNEL = 7

Name = Literal["plain_s", "plain_sd", "plain_sm", "plain_m"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How wide the stem is, and how many units each stage has and how wide they are."""

    stem: int
    widths: tuple[int, ...]
    units: tuple[int, ...]


# Ours; measured in steps a second on one core against what they learn: docs/log.md.
PLANS: Mapping[str, Plan] = {
    "plain_s": Plan(stem=32, widths=(32, 64, 128, 256), units=(1, 1, 1, 1)),
    "plain_sm": Plan(stem=32, widths=(32, 64, 128, 256), units=(1, 2, 2, 1)),
    "plain_sd": Plan(stem=48, widths=(64, 128, 256), units=(2, 2, 1)),
    "plain_m": Plan(stem=48, widths=(128, 256), units=(2, 2)),
}


class ConvNorm(nn.Module):
    """A convolution without bias, its normalisation, and a ReLU unless told otherwise."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, *, relu: bool = True
    ) -> None:
        """Draw weights as He et al. 2015 (arXiv:1502.01852), eq. 14, by the outputs."""
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x channels x H/stride x W/stride."""
        x: Tensor = self.norm(self.conv(x_BCHW))
        return F.relu_(x) if self.relu else x


class Unit(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        """Make a unit; where its shape changes, a 1 x 1 convolution is the way around it."""
        super().__init__()
        self.first = ConvNorm(channels_in, channels, 3, stride)
        self.second = ConvNorm(channels, channels, 3, 1, relu=False)
        self.around: ConvNorm | None = None
        if stride != 1 or channels_in != channels:
            self.around = ConvNorm(channels_in, channels, 1, stride, relu=False)
        else:
            # At first such a unit passes on what it gets: Goyal et al. 2017, 5.1.
            nn.init.zeros_(self.second.norm.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x channels x H/stride x W/stride."""
        around = x_BCHW if self.around is None else self.around(x_BCHW)
        return F.relu_(self.second(self.first(x_BCHW)) + around)


class PlainNet(nn.Module):
    """Pictures to embeddings."""

    def __init__(self, plan: Plan, dim: int, image_px: int) -> None:
        """Make the net with fresh weights, drawn from torch's generator."""
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, plan.stem, STEM_KERNEL, STEM_STRIDE)]
        channels, side = plan.stem, -(-image_px // STEM_STRIDE)
        for width, units in zip(plan.widths, plan.units, strict=True):
            # The stem's resolution is the first stage's only where that is as wide as the stem.
            stride = 1 if width == plan.stem else 2
            layers += [Unit(channels, width, stride)]
            layers += [Unit(width, width, 1) for _ in range(units - 1)]
            channels, side = width, -(-side // stride)
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels * side * side, dim, bias=False)
        self.features = nn.BatchNorm1d(dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D embeddings, not normalised, of B x 3 x 112 x 112 in [-1, 1], RGB."""
        return in_float32(self._end, torch.flatten(self.body(x_BCHW), 1))

    def _end(self, x: Tensor) -> Tensor:
        embeddings_BD: Tensor = self.features(self.fc(x))
        return embeddings_BD
