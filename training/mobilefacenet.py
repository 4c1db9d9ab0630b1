"""MobileFaceNet: small nets of depthwise convolutions for faces.

Chen et al. 2018, arXiv 1804.07573: inverted residuals with PReLU, and a global depthwise
convolution in place of pooling. Four of them, all with the same eight steps:

    mobilefacenet  the paper's widths; 1.2 M parameters at 512 dimensions, 1.0 M at 128
    mbf            arcface_torch's: twice as wide, expanded by half as much
    mbf_w600k      the one in insightface's packs (buffalo_s, buffalo_sc): mbf with a flat,
                   fully connected end
    mbf_large      arcface_torch's: four times as wide, twice as deep

Module names are those of arcface_torch, so that its weights load as they are.

Legend: B pictures, C channels, H height, W width, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from training.precision import in_float32

EXPANDED = (128, 128, 256, 256, 512, 256)  # channels inside the units of the last six steps
LAST_CHANNELS = 512
FLAT_CHANNELS = 64  # of mbf_w600k's flat end

Name = Literal["mobilefacenet", "mbf", "mbf_w600k", "mbf_large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How wide and deep a net is, and how it ends."""

    scale: int
    blocks: tuple[int, int, int, int] = (1, 4, 6, 2)
    flat: bool = False  # ends in 64 flattened channels and FC with bias, as the packs' does


PLANS: Mapping[str, Plan] = {
    "mobilefacenet": Plan(scale=1),
    "mbf": Plan(scale=2),
    "mbf_w600k": Plan(scale=2, flat=True),
    "mbf_large": Plan(scale=4, blocks=(2, 8, 12, 4)),
}


class ConvBlock(nn.Module):
    """Convolution and batch normalisation, and PReLU unless the block is linear."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        *,
        linear: bool = False,
    ) -> None:
        """Make a block."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
        )
        if not linear:
            self.layers.append(nn.PReLU(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return what the layers make of the input."""
        out: Tensor = self.layers(x_BCHW)
        return out


class Bottleneck(nn.Module):
    """Expand, depthwise 3 x 3, project; added to its input where the shape stays."""

    def __init__(self, channels_in: int, channels: int, expanded: int, stride: int) -> None:
        """Make a unit; stride 1 makes it residual."""
        super().__init__()
        self.residual = stride == 1
        self.layers = nn.Sequential(
            ConvBlock(channels_in, expanded),
            ConvBlock(expanded, expanded, 3, stride, 1, groups=expanded),
            ConvBlock(expanded, channels, linear=True),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x channels x H/stride x W/stride."""
        out: Tensor = self.layers(x_BCHW)
        return x_BCHW + out if self.residual else out


class Residuals(nn.Module):
    """Residual bottlenecks, one after the other."""

    def __init__(self, channels: int, expanded: int, count: int) -> None:
        """Make the units."""
        super().__init__()
        self.layers = nn.Sequential(
            *(Bottleneck(channels, channels, expanded, 1) for _ in range(count))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the input's shape."""
        out: Tensor = self.layers(x_BCHW)
        return out


class GlobalDepthwise(nn.Module):
    """The paper's end: one weight a channel and place, then a linear layer."""

    def __init__(self, dim: int, side: int) -> None:
        """Make the end for feature maps of side x side."""
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(LAST_CHANNELS, LAST_CHANNELS, side, groups=LAST_CHANNELS, linear=True),
            nn.Flatten(),
            nn.Linear(LAST_CHANNELS, dim, bias=False),
            nn.BatchNorm1d(dim),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D."""
        out: Tensor = self.layers(x_BCHW)
        return out


class Flat(nn.Module):
    """The end of insightface's w600k_mbf: 64 channels of all places into one linear layer."""

    def __init__(self, dim: int, side: int) -> None:
        """Make the end for feature maps of side x side."""
        super().__init__()
        self.narrow = ConvBlock(LAST_CHANNELS, FLAT_CHANNELS)
        self.fc = nn.Linear(FLAT_CHANNELS * side * side, dim)
        self.features = nn.BatchNorm1d(dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D."""
        out: Tensor = self.features(self.fc(self.narrow(x_BCHW).flatten(1)))
        return out


class MobileFaceNet(nn.Module):
    """A MobileFaceNet: pictures to embeddings."""

    def __init__(self, plan: Plan, dim: int, image_px: int) -> None:
        """Make the net with fresh weights, drawn from torch's generator."""
        super().__init__()
        narrow, wide = 64 * plan.scale, 128 * plan.scale
        second = (
            # 64 groups whatever the width: arcface_torch's, and so the packs'.
            ConvBlock(narrow, narrow, 3, 1, 1, groups=64)
            if plan.blocks[0] == 1
            else Residuals(narrow, EXPANDED[0], plan.blocks[0])
        )
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, narrow, 3, 2, 1),
                second,
                Bottleneck(narrow, narrow, EXPANDED[0], 2),
                Residuals(narrow, EXPANDED[1], plan.blocks[1]),
                Bottleneck(narrow, wide, EXPANDED[2], 2),
                Residuals(wide, EXPANDED[3], plan.blocks[2]),
                Bottleneck(wide, wide, EXPANDED[4], 2),
                Residuals(wide, EXPANDED[5], plan.blocks[3]),
            ]
        )
        self.conv_sep = ConvBlock(wide, LAST_CHANNELS)
        side = -(-image_px // 16)
        self.features = Flat(dim, side) if plan.flat else GlobalDepthwise(dim, side)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # He et al. 2015, arXiv 1502.01852, as arcface_torch has it here.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D embeddings, not normalised, of B x 3 x 112 x 112 in [-1, 1], RGB."""
        x = x_BCHW
        for step in self.layers:
            x = step(x)
        return in_float32(self.features, self.conv_sep(x))
