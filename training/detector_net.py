"""A face detector in one stage and without anchor boxes: score, box and five landmarks a point.

Dense 3 x 3 convolutions on few channels after one stride-4 stem: at this size they take less
time in onnxruntime than depthwise ones on the same maps, which move as many numbers and compute
on fewer (benchmarks/bench_builtin_detector.py). Residual blocks are those of He et al. 2016,
arXiv:1512.03385; the top-down path is that of Lin et al. 2017, arXiv:1612.03144. What a point's
numbers mean is as in YuNet (Wu et al. 2023), see ``facepipe.heads``.

Legend: B pictures, H, W pixels, A points of all levels, 4 box corners x1 y1 x2 y2, 5 landmarks.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

STRIDES = (8, 16, 32)
PIXEL_SCALE = 1 / 255  # 0..255 to 0..1; an export folds it into the stem
NUMBERS = 16  # a point's: score, 4 of the box, 10 of the landmarks, one that is not used
TYPICAL_SIDE = 4.0  # of a face, in strides, that a fresh net expects
FIRST_SCORE = 0.01  # that a fresh net gives a point: Lin et al. 2017, arXiv:1708.02002, 3.3
MAX_LOG_SIDE = 8.0  # e^8 strides: no face is so large, and a wild guess stays finite


class NetSettings(BaseModel):
    """Widths and depths, in channels and blocks, of strides 8, 16 and 32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stem: int = Field(32, ge=8, le=128, description="channels of the stride-4 stem")
    stages: tuple[int, int, int] = Field((32, 64, 96), description="channels of the stages")
    blocks: tuple[int, int, int] = Field((1, 1, 1), description="residual blocks of the stages")
    heads: tuple[int, int, int] = Field((32, 48, 64), description="channels of the heads")
    dilation: int = Field(2, ge=1, le=4, description="of the last stage's blocks, for more context")


class Answer(NamedTuple):
    """What a net says of every point of every level, float32."""

    logits_BA: Tensor
    boxes_BA4: Tensor  # middle less the point, and log of sides, in strides
    landmarks_BA10: Tensor  # less the point, in strides


class ConvNorm(nn.Sequential):
    """A convolution, a batch normalisation and, unless told otherwise, a ReLU."""

    def __init__(
        self, taken: int, given: int, kernel: int = 3, stride: int = 1, dilation: int = 1,
        *, relu: bool = True,
    ) -> None:  # fmt: skip
        """Pad so that sides are divided by the stride."""
        padding = dilation * ((kernel - stride + 1) // 2)
        conv = nn.Conv2d(taken, given, kernel, stride, padding, dilation, bias=False)
        super().__init__(conv, nn.BatchNorm2d(given), nn.ReLU() if relu else nn.Identity())


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        """Keep channels and size."""
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels, dilation=dilation, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x and what the convolutions add to it."""
        return F.relu(x + self.second(self.first(x)))


class DetectorNet(nn.Module):
    """BGR pictures of 0..255, B x 3 x H x W with sides that 32 divides, to `Answer`."""

    def __init__(self, settings: NetSettings) -> None:
        """Begin with fresh random weights."""
        super().__init__()
        self.pixel_scale = PIXEL_SCALE
        self.stem = ConvNorm(3, settings.stem, 5, 4)
        stages, taken = [], settings.stem
        for level, (given, blocks) in enumerate(zip(settings.stages, settings.blocks, strict=True)):
            dilation = settings.dilation if level == len(STRIDES) - 1 else 1
            rest = [Residual(given, dilation) for _ in range(blocks)]
            stages.append(nn.Sequential(ConvNorm(taken, given, 3, 2), *rest))
            taken = given
        self.stages = nn.ModuleList(stages)
        wide = settings.heads
        self.laterals = nn.ModuleList(
            ConvNorm(given, own, 1) for given, own in zip(settings.stages, wide, strict=True)
        )
        self.downs = nn.ModuleList(ConvNorm(above, own, 1) for own, above in pairwise(wide))
        self.heads = nn.ModuleList(
            nn.Sequential(ConvNorm(own, own), nn.Conv2d(own, NUMBERS, 1)) for own in wide
        )
        for head in self.heads:
            _start(last_layer(head))

    def forward(self, pictures_B3HW: Tensor) -> Answer:
        """Return the answer for all points, level after level, row after row."""
        with torch.autocast(pictures_B3HW.device.type, enabled=False):
            flat = [level.float().flatten(2) for level in self.levels(pictures_B3HW)]
        numbers = torch.cat(flat, dim=2).transpose(1, 2)
        return Answer(numbers[..., 0], numbers[..., 1:5], numbers[..., 5:15])

    def levels(self, pictures_B3HW: Tensor) -> list[Tensor]:
        """Return the heads' numbers of each level, B x `NUMBERS` x H / stride x W / stride."""
        x = self.stem(pictures_B3HW * self.pixel_scale if self.pixel_scale != 1 else pictures_B3HW)
        maps = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        for level in range(len(maps) - 2, -1, -1):
            above = self.downs[level](maps[level + 1])
            maps[level] = maps[level] + F.interpolate(above, scale_factor=2.0, mode="nearest")
        return [head(x) for head, x in zip(self.heads, maps, strict=True)]


def last_layer(head: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that answers, the score's row first."""
    assert isinstance(head, nn.Sequential)
    last = head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    return last.weight, last.bias


def _start(last: tuple[Tensor, Tensor]) -> None:
    """Let a fresh net answer with a low score and a face of usual size at each point."""
    weight, bias = last
    with torch.no_grad():
        weight.mul_(0.1)
        bias.zero_()
        bias[0] = -math.log((1 - FIRST_SCORE) / FIRST_SCORE)
        bias[3:5] = math.log(TYPICAL_SIDE)


class Points(NamedTuple):
    """The points of a canvas: where they are, in pixels, and their level."""

    xy_A2: Tensor
    stride_A: Tensor


def points_of(height_px: int, width_px: int) -> Points:
    """Return the points of all levels in the order of `Answer`: (column, row) x stride."""
    places, strides = [], []
    for stride in STRIDES:
        rows, columns = height_px // stride, width_px // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places.append(torch.stack([x, y], dim=-1).reshape(-1, 2).float() * stride)
        strides.append(torch.full((rows * columns,), float(stride)))
    return Points(torch.cat(places), torch.cat(strides))


def decoded_boxes(boxes_BA4: Tensor, xy_A2: Tensor, stride_A: Tensor) -> Tensor:
    """Return boxes x1 y1 x2 y2 in pixels, (..., A, 4), as ``facepipe.heads`` reads them."""
    middle = xy_A2 + boxes_BA4[..., :2] * stride_A[:, None]
    half = boxes_BA4[..., 2:].clamp(max=MAX_LOG_SIDE).exp() * (stride_A[:, None] / 2)
    return torch.cat([middle - half, middle + half], dim=-1)
