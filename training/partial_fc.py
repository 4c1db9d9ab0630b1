"""PartialFC: centres spread over ranks, and in each step a sample of the negative classes.

arXiv:2203.15565. At rate 1 it is exact: the loss and the gradients of the dense head. Below,
a step sees the classes of its batch and a share of the others. Which others is a function of
(seed, step, class) alone, so that 1, 2 or 8 ranks, or a run resumed on another number of them,
draw the same.

State is 2 x W: the centres and their momentum (`centre_sgd`), never a copy of either. The
sampled rows are read where they lie, their gradient is sparse, and the optimiser updates just
them. A class that is not sampled does not exist in that step: neither weight decay nor
momentum moves it. (arcface_torch's second version has a dense gradient and moves every row.)
Cosines do not see a centre's length, so this changes no direction, only how far a later step
of the same size turns it.

Legend: B samples of all ranks, C classes of this shard, S sampled ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.fused_head import FusedHead
from training.heads import HeadSettings
from training.shard_group import ALONE, ShardGroup

SAMPLE_BLOCK_CLASSES = 1 << 20  # hashed at once: 8 MB a temporary
HASH_BITS = 53  # of a hash that are compared: as many as a float64 holds


def _signed(value: int) -> int:
    """Return a 64-bit number as torch's int64 holds it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(values: Tensor) -> Tensor:
    """Return the finaliser of splitmix64 (Steele et al., OOPSLA 2014) of int64 values."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # torch's >> keeps the sign; the mask makes it the logical shift.
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return values


def sampled(
    first: int, last: int, *, rate: float, seed: int, step: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return which of classes first..last-1 a step samples (C,) bool, each with chance ``rate``.

    A pure function of (seed, step, class): the same on any device and in any range.
    """
    key = int(_mix(_mix(torch.tensor(_signed(seed))) ^ step))
    limit = round(rate * (1 << HASH_BITS))
    chosen = torch.empty(last - first, dtype=torch.bool, device=device)
    for start in range(first, last, SAMPLE_BLOCK_CLASSES):
        end = min(start + SAMPLE_BLOCK_CLASSES, last)
        hashes = _mix(_mix(torch.arange(start, end, device=device) ^ key))
        chosen[start - first : end - first] = (hashes & ((1 << HASH_BITS) - 1)) < limit
    return chosen


class PartialFC(FusedHead):
    """A fused head whose centres are spread over ranks and sampled in training."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        settings: HeadSettings,
        group: ShardGroup = ALONE,
    ) -> None:
        """Draw this rank's centres. Raises ConfigError as `Head` does."""
        super().__init__(num_classes, embedding_dim, settings, group)
        self.steps = 0

    def get_extra_state(self) -> Tensor:
        """Return the number of batches sampled for, for the state dict."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue at a batch."""
        self.steps = int(state)

    def sampled_rows(self, labels_B: Tensor) -> Tensor | None:
        """Return the rows of the batch's classes and of this step's sample (S,), ascending."""
        if self.settings.sample_rate == 1.0 or not self.training:
            return None
        self.steps += 1
        chosen_C = sampled(
            self.first,
            self.last,
            rate=self.settings.sample_rate,
            seed=self.settings.seed,
            step=self.steps,
            device=labels_B.device,
        )
        own_B = (labels_B >= self.first) & (labels_B < self.last)
        chosen_C[labels_B[own_B] - self.first] = True
        return chosen_C.nonzero()[:, 0]
