"""SGD with momentum on class centres, which touches only the rows that have a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

UPDATE_BYTES = 1 << 24  # of the rows that are updated at once, which bounds what is copied


class CentreSGD(torch.optim.Optimizer):
    """torch.optim.SGD for centres: the same numbers for a dense gradient, rows for a sparse one.

        v = momentum * v + (g + weight_decay * w);  w = w - lr * v

    A row without a gradient keeps w and v: to it the step did not happen. The state is one
    tensor, ``momentum_buffer``, as large as the centres; copies are bounded by UPDATE_BYTES.
    Learning-rate schedulers and GradScaler work as with any optimiser.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        """Take centres (C, ...) or parameter groups of them."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every centre that has a gradient; return the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for centres in group["params"]:
                if centres.grad is None:
                    continue
                state = self.state[centres]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(centres)
                self._update(centres, centres.grad, state["momentum_buffer"], group)
        return loss

    @staticmethod
    def _update(centres: Tensor, grad: Tensor, velocity: Tensor, group: dict[str, Any]) -> None:
        rows = None
        if grad.is_sparse:
            grad = grad.coalesce()
            rows, grad = grad.indices()[0], grad.values()
        row_bytes = max(1, centres[:1].numel()) * centres.element_size()
        step = max(1, UPDATE_BYTES // row_bytes)
        for start in range(0, len(grad), step):
            chosen = slice(start, start + step) if rows is None else rows[start : start + step]
            # What is copied: the change, and, of chosen rows, the centres or the velocity.
            change = centres[chosen] * group["weight_decay"]
            change += grad[start : start + step]
            change.add_(velocity[chosen], alpha=group["momentum"])
            velocity[chosen] = change
            centres[chosen] -= change.mul_(group["lr"])
