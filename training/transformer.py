"""What ViT and Swin are made of: attention, the MLP, and branches that are left out at random.

Legend: B pictures, N tokens, C channels; ``...`` stands for B, and for B x windows in Swin.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.02  # of linear layers and position tables: Dosovitskiy et al. 2021, timm


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool) -> None:
        """Make the projections; a head has channels / heads channels."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_NC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ... x N x C; ``bias``, added to the logits, broadcasts to ... x heads x N x N."""
        channels = x_NC.shape[-1]
        split = self.qkv(x_NC).unflatten(-1, (3, self.heads, channels // self.heads))
        query, key, value = (part.transpose(-3, -2) for part in split.unbind(-3))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out: Tensor = self.proj(mixed.transpose(-3, -2).flatten(-2))
        return out

    def multiply_adds(self, shape: torch.Size) -> int:
        """Return the multiply-adds of the two products of tokens, for an input of this shape."""
        *outer, tokens, channels = shape
        return 2 * torch.Size(outer).numel() * tokens * tokens * channels


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, channels: int, activation: nn.Module, ratio: int = 4) -> None:
        """Make the layers; the inner one is ``ratio`` times as wide."""
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = activation
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return ... x N x C."""
        out: Tensor = self.fc2(self.act(self.fc1(x_NC)))
        return out


class DropPath(nn.Module):
    """Leaves a residual branch out of whole pictures in training (stochastic depth).

    Huang et al. 2016, arXiv 1603.09382; what is kept grows by 1 / (1 - share).
    """

    def __init__(self, share: float) -> None:
        """Leave out ``share`` of the pictures, 0 to under 1."""
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch, B first; what it is left out of is 0."""
        if not self.training or self.share == 0:
            return x
        kept = 1 - self.share
        coin = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(kept)
        return x * (coin / kept)


def rising(share: float, depth: int) -> list[float]:
    """Return each block's share for `DropPath`: 0 at the first block, ``share`` at the last."""
    return [share * block / max(depth - 1, 1) for block in range(depth)]


def initialise(module: nn.Module) -> None:
    """Draw a linear layer's first weights as ViT and Swin do; leave other layers as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def run(block: Callable[[Tensor], Tensor], x: Tensor, *, recompute: bool) -> Tensor:
    """Run a block; with ``recompute`` its inner values are made again in the backward pass.

    That costs a third more time and keeps only one tensor a block (Chen et al. 2016,
    arXiv 1604.06174). Only for blocks without batch normalisation: the second pass would
    update its running means once more.
    """
    if not recompute:
        return block(x)
    out: Tensor = checkpoint(block, x, use_reentrant=False)
    return out
