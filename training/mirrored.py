"""A recogniser that looks at each crop and at its mirror image, as one net.

The sum of both embeddings is what the field's evaluations use (insightface's verification.py) and
`embed.flip=sum` does outside of the net. Within it a small net's default is as good as it can be,
and mirrored copies embed alike to the last bits of a sum.

Legend: B pictures, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mirrored(nn.Module):
    """A net's embedding of a picture plus that of its mirror image."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a net; it stays as it is."""
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return B x D embeddings, not normalised, from one call of the net on 2 B pictures."""
        both: Tensor = self.net(torch.cat([x_BCHW, x_BCHW.flip(3)]))
        # Two as a number: the exported graph then takes any batch.
        return both.view(2, -1, both.shape[1]).sum(0)
