"""Which part of a net runs in float32 whatever the autocast.

The last layers of a backbone make the embedding, whose angles a margin of half a radian is
measured on; arcface_torch keeps them in float32, and they cost under a hundredth of the net.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_float32(layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run layers in float32 where autocast is on; elsewhere in the precision that they have."""
    kind = x.device.type
    # torch's meta device, on which nets are only counted, knows no autocast.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return layers(x)
    with torch.autocast(kind, enabled=False):
        return layers(x.float())
