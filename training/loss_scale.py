"""The factor that keeps float16 gradients from vanishing, the same on all ranks.

Micikevicius et al. 2018 (arXiv:1710.03740), 3.2, with the constants of torch.amp.GradScaler. That
class lets each optimiser, on each rank, decide for itself to skip a step; with class centres
spread over ranks the shards would come apart. Here one rank's overflow is everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FIRST_SCALE = 2.0**16
GROWTH, BACKOFF = 2.0, 0.5
GROWTH_STEPS = 2000  # without an overflow


class LossScale:
    """The factor, and how long it has held."""

    def __init__(self) -> None:
        """Begin high; the first steps find the right one."""
        self.scale, self.held_steps = FIRST_SCALE, 0

    @torch.no_grad()
    def unscale(self, gradients: Iterable[Tensor]) -> Tensor:
        """Divide gradients by the factor, in place; return whether one is not finite (1, 0)."""
        bad = []
        for gradient in gradients:
            values = gradient._values() if gradient.is_sparse else gradient
            values.mul_(1.0 / self.scale)
            bad.append(~values.isfinite().all())
        return torch.stack(bad).any().to(torch.int32) if bad else torch.zeros((), dtype=torch.int32)

    def update(self, overflowed: bool) -> None:
        """Take note of a step."""
        if overflowed:
            self.scale, self.held_steps = self.scale * BACKOFF, 0
            return
        self.held_steps += 1
        if self.held_steps == GROWTH_STEPS:
            self.scale, self.held_steps = self.scale * GROWTH, 0

    def state(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"scale": self.scale, "held_steps": self.held_steps}

    def load(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self.scale, self.held_steps = state["scale"], int(state["held_steps"])
