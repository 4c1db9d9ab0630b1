"""The ranks over which class centres are spread, and sums over them that have gradients.

Every rank computes the same loss of the batches of all ranks, each with its own classes. What
a rank gathers to see every sample must send gradients back summed over ranks (`gather`); what
is summed over classes (`sum`, `log_sum_exp`) sends them to each rank as they are; and what all
ranks compute alike from gathered embeddings gives a share each (`shared`).

Legend: B samples of all ranks, R ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Concatenate over ranks; see `ShardGroup.gather` for the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ShardGroup) -> Tensor:
        ctx.group, ctx.rows = group, len(own)
        return group.gather_plain(own)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        group, rows = ctx.group, ctx.rows
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed, group=group.process_group)
        return summed[group.rank * rows : (group.rank + 1) * rows] * group.size, None


class _Sum(torch.autograd.Function):
    """Add up over ranks; each rank's part gets the whole gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, group: ShardGroup) -> Tensor:
        summed = own.clone()
        dist.all_reduce(summed, group=group.process_group)
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exp over ranks; each rank's part gets its softmax share of the gradient."""

    @staticmethod
    def forward(ctx: Any, own_B: Tensor, group: ShardGroup) -> Tensor:
        # Gathered, not reduced: added in one order, so that every rank has the same bits.
        total_B = group.gather_plain(own_B).view(group.size, -1).logsumexp(dim=0)
        ctx.save_for_backward(own_B, total_B)
        return total_B

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        own_B, total_B = ctx.saved_tensors
        return grads[0] * (own_B - total_B).exp(), None


class _Shared(torch.autograd.Function):
    """Pass values on; their gradient, the same on all ranks, is divided by their number."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: ShardGroup) -> Tensor:
        ctx.size = group.size
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] / ctx.size, None


@dataclass(frozen=True)
class ShardGroup:
    """This process's place among the ranks; with one rank everything is the identity."""

    rank: int = 0
    size: int = 1
    process_group: Any = None  # torch.distributed's; None: all ranks

    @classmethod
    def current(cls) -> ShardGroup:
        """Return the place in torch.distributed's default group, alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size())

    def class_range(self, num_classes: int) -> tuple[int, int]:
        """Return the first class of this rank's shard and the one after its last."""
        return (
            num_classes * self.rank // self.size,
            num_classes * (self.rank + 1) // self.size,
        )

    def gather_plain(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks in their order, without a gradient."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous(), group=self.process_group)
        return torch.cat(parts)

    def gather(self, own: Tensor) -> Tensor:
        """Return the rows of all ranks in their order.

        The gradient is the sum over ranks times their number: DDP averages the backbone's
        gradients over ranks, and a loss over all batches asks for their sum.
        """
        return own if self.size == 1 else _apply(_Gather, own, self)

    def sum(self, own: Tensor) -> Tensor:
        """Return the sum over ranks."""
        return own if self.size == 1 else _apply(_Sum, own, self)

    def log_sum_exp(self, own_B: Tensor) -> Tensor:
        """Return the log-sum-exp over ranks, the same bits on each."""
        return own_B if self.size == 1 else _apply(_LogSumExp, own_B, self)

    def shared(self, values: Tensor) -> Tensor:
        """Return values, gathered before, for what every rank computes alike."""
        return values if self.size == 1 else _apply(_Shared, values, self)

    def total(self, own: int, device: torch.device) -> Tensor | int:
        """Return a count's sum over ranks, on a device where there are several."""
        return own if self.size == 1 else self.sum(torch.tensor(own, device=device))


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]
    return result


ALONE = ShardGroup()
