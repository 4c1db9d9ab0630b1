"""Swin-T: a transformer that attends within windows, and shifts them from block to block.

Liu et al. 2021 (arXiv 2103.14030). For faces a patch is 2 px, so that 112 x 112 px give the
56 x 56 tokens that 224 x 224 give with the paper's 4; the end is FaceX-Zoo's (layer
normalisation, flatten, FC, BN), since pooling loses where in the face a feature was. Module
names are the paper's code's.

Legend: B pictures, C channels, H height, W width, N tokens of a window, G windows, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.precision import in_float32
from training.transformer import INIT_STD, Attention, DropPath, Mlp, initialise, rising, run

CHANNELS, DEPTHS, HEADS = 96, (2, 2, 6, 2), (3, 6, 12, 24)  # Swin-T: the paper, section 3.3
WINDOW = 7
SHIFT = WINDOW // 2
FACE_PATCH_PX = 2
# Added to the logit of tokens that are neighbours only through the cyclic shift: the paper's
# code; e to it is 0 in float32 beside any other.
APART = -100.0


class WindowAttention(Attention):
    """Attention within windows, with a learned bias for each offset of two tokens."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        """Make the projections and the table of biases."""
        super().__init__(channels, heads, qkv_bias=True)
        offsets = (2 * WINDOW - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=INIT_STD)
        # Not in the state: it follows from the window alone.
        self.register_buffer("relative_position_index", _offset_index(), persistent=False)

    def forward(self, x_NC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return B x G x N x C; ``bias`` broadcasts to B x G x heads x N x N."""
        table = self.relative_position_bias_table[self.relative_position_index]
        offset_bias = table.permute(2, 0, 1)
        return super().forward(x_NC, offset_bias if bias is None else offset_bias + bias)


class Block(nn.Module):
    """Window attention and MLP, each behind a layer normalisation and added to its input."""

    shift_bias: Tensor | None

    def __init__(self, channels: int, heads: int, side: int, shift: int, drop_path: float) -> None:
        """Make a block for side x side tokens whose windows are moved by ``shift`` tokens."""
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, nn.GELU())
        bias = _shift_bias(side, shift) if shift else None
        self.register_buffer("shift_bias", bias, persistent=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return B x H x W x C."""
        x = self.norm1(x_BHWC)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        mixed = _from_windows(self.attn(_to_windows(x), self.shift_bias), x.shape[1])
        if self.shift:
            mixed = mixed.roll((self.shift, self.shift), (1, 2))
        x = x_BHWC + self.drop_path(mixed)
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Merge(nn.Module):
    """Four neighbouring tokens become one of twice the channels."""

    def __init__(self, channels: int) -> None:
        """Make the projection."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Return B x H/2 x W/2 x 2C."""
        corners = [x_BHWC[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        out: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return out


class Stage(nn.Module):
    """Blocks with and without a shift by turns, and the merge after them."""

    def __init__(
        self, channels: int, heads: int, side: int, shares: list[float], *, merge: bool
    ) -> None:
        """Make a block for each of ``shares``, its share for `DropPath`."""
        super().__init__()
        shift = SHIFT if side > WINDOW else 0  # one window has no neighbours
        self.blocks = nn.ModuleList(
            [
                Block(channels, heads, side, shift * (number % 2), share)
                for number, share in enumerate(shares)
            ]
        )
        self.downsample = Merge(channels) if merge else None

    def forward(self, x_BHWC: Tensor, *, recompute: bool) -> Tensor:
        """Return the tokens of the next stage."""
        x = x_BHWC
        for block in self.blocks:
            x = run(block, x, recompute=recompute)
        return x if self.downsample is None else self.downsample(x)


class Patches(nn.Module):
    """Cuts the picture into patches, projects and normalises each."""

    def __init__(self, patch_px: int) -> None:
        """Make the projection."""
        super().__init__()
        self.proj = nn.Conv2d(3, CHANNELS, patch_px, stride=patch_px)
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x H x W x C of tokens."""
        tokens: Tensor = self.norm(self.proj(x_BCHW).permute(0, 2, 3, 1))
        return tokens


class SwinTrunk(nn.Module):
    """Swin-T without its end: pictures to B x H x W x C of normalised tokens."""

    def __init__(self, image_px: int, patch_px: int, *, drop_path: float, recompute: bool) -> None:
        """Make the net with fresh weights; image_px / patch_px must be 56 or another 7 x 2^n."""
        super().__init__()
        self.recompute = recompute
        self.patch_embed = Patches(patch_px)
        shares = rising(drop_path, sum(DEPTHS))
        self.layers = nn.ModuleList()
        for number, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
            own, shares = shares[:depth], shares[depth:]
            side = image_px // patch_px >> number
            merge = number < len(DEPTHS) - 1
            self.layers.append(Stage(CHANNELS << number, heads, side, own, merge=merge))
        self.norm = nn.LayerNorm(self.channels)
        self.apply(initialise)

    @property
    def channels(self) -> int:
        """Return C of the last stage."""
        return CHANNELS << (len(DEPTHS) - 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x H x W x C."""
        x = self.patch_embed(x_BCHW)
        for stage in self.layers:
            x = stage(x, recompute=self.recompute and self.training)
        out: Tensor = self.norm(x)
        return out


class Swin(nn.Module):
    """Swin-T for faces: pictures to embeddings."""

    def __init__(self, dim: int, image_px: int, *, drop_path: float, recompute: bool) -> None:
        """Make the net with fresh weights, drawn from torch's generator."""
        super().__init__()
        self.trunk = SwinTrunk(image_px, FACE_PATCH_PX, drop_path=drop_path, recompute=recompute)
        side = image_px // FACE_PATCH_PX >> (len(DEPTHS) - 1)
        self.fc = nn.Linear(side * side * self.trunk.channels, dim)
        self.features = nn.BatchNorm1d(dim)
        initialise(self.fc)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D embeddings, not normalised, of B x 3 x 112 x 112 in [-1, 1], RGB."""
        return in_float32(self._end, self.trunk(x_BCHW).flatten(1))

    def _end(self, x: Tensor) -> Tensor:
        embeddings_BD: Tensor = self.features(self.fc(x))
        return embeddings_BD


def _to_windows(x_BHWC: Tensor) -> Tensor:
    """Return B x G x N x C, windows and the tokens in them by rows."""
    # -1 for B here and below: an exporter would write its own batch of 1 into the graph.
    side, channels = x_BHWC.shape[-2:]
    count = side // WINDOW
    split = x_BHWC.reshape(-1, count, WINDOW, count, WINDOW, channels)
    return split.transpose(2, 3).reshape(-1, count * count, WINDOW * WINDOW, channels)


def _from_windows(x_BGNC: Tensor, side: int) -> Tensor:
    """Return B x H x W x C: what `_to_windows` undone gives."""
    count, channels = side // WINDOW, x_BGNC.shape[-1]
    split = x_BGNC.reshape(-1, count, count, WINDOW, WINDOW, channels)
    return split.transpose(2, 3).reshape(-1, side, side, channels)


def _offset_index() -> Tensor:
    """Return N x N rows of the bias table: one for each (row, column) offset of two tokens."""
    place = torch.arange(WINDOW * WINDOW)
    row, column = place // WINDOW, place % WINDOW
    down = row[:, None] - row[None] + WINDOW - 1
    right = column[:, None] - column[None] + WINDOW - 1
    return down * (2 * WINDOW - 1) + right


def _shift_bias(side: int, shift: int) -> Tensor:
    """Return G x 1 x N x N: 0 for tokens that were neighbours before the shift, else `APART`."""
    place = torch.arange(side)
    zone = (place >= side - WINDOW).long() + (place >= side - shift).long()
    zones = (zone[:, None] * 3 + zone[None]).reshape(1, side, side, 1)
    zone_GN = _to_windows(zones)[0, :, :, 0]
    apart_GNN = zone_GN[:, :, None] != zone_GN[:, None]
    return torch.where(apart_GNN, APART, 0.0).unsqueeze(1)
