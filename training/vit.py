"""Vision transformers for faces, as insightface's arcface_torch has them.

Dosovitskiy et al. 2021 (arXiv 2010.11929) with patches of 9 of the 108 x 108 px that 12 x 12
of them cover, no class token, ReLU6 in the MLP, and all tokens, not their mean, into the
embedding (An et al. 2022, arXiv 2203.15565). In training a share of the tokens is left out
and a learned one put in their places before the end. Module names are arcface_torch's, so that
its weights load as they are.

Legend: B pictures, C channels, H height, W width, N tokens, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from training.precision import in_float32
from training.transformer import INIT_STD, Attention, DropPath, Mlp, initialise, rising, run

PATCH_PX = 9
HEADS = 8
FEATURE_EPS = 2e-5  # of the two last batch normalisations: arcface_torch

Name = Literal["vit_t", "vit_s", "vit_b"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How wide and how deep."""

    channels: int
    depth: int


PLANS: Mapping[str, Plan] = {
    "vit_t": Plan(channels=256, depth=12),
    "vit_s": Plan(channels=512, depth=12),
    "vit_b": Plan(channels=512, depth=24),
}


class Block(nn.Module):
    """Attention and MLP, each behind a layer normalisation and added to its input."""

    def __init__(self, channels: int, drop_path: float) -> None:
        """Make a block."""
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, HEADS, qkv_bias=False)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, nn.ReLU6())

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Return B x N x C."""
        x = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Patches(nn.Module):
    """Cuts the picture into patches and projects each; what is over at the right is left out."""

    def __init__(self, channels: int) -> None:
        """Make the projection."""
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH_PX, stride=PATCH_PX)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x N x C, rows of patches one after the other."""
        tokens: Tensor = self.proj(x_BCHW).flatten(2).transpose(1, 2)
        return tokens


class ViT(nn.Module):
    """A vision transformer: pictures to embeddings."""

    def __init__(
        self,
        plan: Plan,
        dim: int,
        image_px: int,
        *,
        drop_path: float,
        mask: float,
        recompute: bool,
    ) -> None:
        """Make the net with fresh weights, drawn from torch's generator."""
        super().__init__()
        channels, tokens = plan.channels, (image_px // PATCH_PX) ** 2
        self.mask, self.recompute = mask, recompute
        self.patch_embed = Patches(channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, channels))
        self.blocks = nn.ModuleList(
            [Block(channels, share) for share in rising(drop_path, plan.depth)]
        )
        self.norm = nn.LayerNorm(channels)
        self.feature = nn.Sequential(
            nn.Linear(channels * tokens, channels, bias=False),
            nn.BatchNorm1d(channels, eps=FEATURE_EPS),
            nn.Linear(channels, dim, bias=False),
            nn.BatchNorm1d(dim, eps=FEATURE_EPS),
        )
        self.apply(initialise)
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        if mask:  # where nothing uses it, DDP would wait for its gradient
            self.mask_token = nn.Parameter(torch.zeros(1, 1, channels))
            nn.init.normal_(self.mask_token, std=INIT_STD)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D embeddings, not normalised, of B x 3 x 112 x 112 in [-1, 1], RGB."""
        x = self.patch_embed(x_BCHW) + self.pos_embed
        masked = self.training and self.mask > 0
        kept_BN = _kept(x, self.mask) if masked else None
        if kept_BN is not None:
            x = _gather(x, kept_BN)
        for block in self.blocks:
            x = run(block, x, recompute=self.recompute and self.training)
        x = self.norm(x)
        if kept_BN is not None:
            every = self.mask_token.to(x.dtype).expand(len(x), self.pos_embed.shape[1], -1)
            x = every.scatter(1, kept_BN.unsqueeze(-1).expand_as(x), x)
        return in_float32(self.feature, x.flatten(1))


def _kept(x_BNC: Tensor, mask: float) -> Tensor:
    """Return, for each picture, which tokens stay: int(N (1 - mask)) of them, at random."""
    pictures, tokens, _ = x_BNC.shape
    noise_BN = torch.rand(pictures, tokens, device=x_BNC.device)
    return noise_BN.argsort(dim=1)[:, : int(tokens * (1 - mask))]


def _gather(x_BNC: Tensor, kept_BN: Tensor) -> Tensor:
    return x_BNC.gather(1, kept_BN.unsqueeze(-1).expand(-1, -1, x_BNC.shape[2]))
