"""Muon: momentum whose update is made orthogonal, for matrices and convolutions.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (the momentum in
Nesterov's form, five Newton-Schulz steps with the coefficients 3.4445, -4.7750, 2.0315), with the
decoupled weight decay of Liu et al. 2025 (arXiv:2502.16982). A convolution is taken as a matrix of
outputs x (inputs x kernel). torch.optim.Muon, which is the same for matrices, refuses them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LEAST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """The optimiser; its state is one momentum, ``momentum``, a parameter."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Take parameters of two dimensions and more."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step on the gradients there are."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                running = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad + group["momentum"] * running
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                change = orthogonal(ahead.flatten(1)).to(parameter.dtype)
                # A tall matrix's update is lengthened, so that its outputs change alike.
                size = max(1.0, change.shape[0] / change.shape[1]) ** 0.5
                parameter.add_(change.view(parameter.shape), alpha=-group["lr"] * size)


def orthogonal(matrix_RC: Tensor) -> Tensor:
    """Return about the nearest matrix whose singular values are 1, in bfloat16.

    They come to lie between .7 and 1.2, which is what the method's authors found to be enough.
    """
    a, b, c = COEFFICIENTS
    wide = matrix_RC.shape[0] <= matrix_RC.shape[1]
    x = (matrix_RC if wide else matrix_RC.T).bfloat16()
    x = x / (x.norm() + LEAST_NORM)
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    turned: Tensor = x if wide else x.T
    return turned
