"""How a step changes weights: SGD or AdamW for the net, SGD by rows for class centres."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from training.centre_sgd import CentreSGD

CENTRE_LR = 0.1  # beside AdamW, whose own rates mean something else; arcface_torch's with SGD
BASE_LR = "base_lr"  # of a parameter group: what the schedule's factor is multiplied with


class OptimizerSettings(BaseModel):
    """What every optimiser has."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sgd(OptimizerSettings):
    """SGD with momentum, as arcface_torch's trainer has it."""

    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.1, gt=0, description="0.1 for 1,024 samples a step; scale it with them")
    momentum: float = Field(0.9, ge=0, lt=1, description="0.9 everywhere")
    nesterov: bool = Field(False, description="Nesterov's form of momentum")
    weight_decay: float = Field(5e-4, ge=0, description="1e-4 to 5e-4")
    decay_norms: bool = Field(
        True,
        description="decay scales of normalisations, PReLU slopes and biases too: arcface_torch "
        "does; Goyal et al. 2017 (5.3) leave them out",
    )


class AdamW(OptimizerSettings):
    """AdamW (arXiv:1711.05101), for transformers."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="arcface_torch's for ViT at 6,144 samples a step")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of the two running means")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second")
    weight_decay: float = Field(0.1, ge=0, description="arcface_torch's for ViT")
    decay_norms: bool = Field(
        False,
        description="decay scales of normalisations and biases too: arcface_torch does; DeiT "
        "(arXiv:2012.12877) and those after it leave them out",
    )


class CentreSettings(OptimizerSettings):
    """SGD of the class centres; its rate follows the same schedule."""

    lr: float | None = Field(
        None, gt=0, description=f"null: optimizer.lr with sgd, {CENTRE_LR} with adamw"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="0.9 everywhere")
    weight_decay: float = Field(5e-4, ge=0, description="of the centres that take part in a step")


AnyOptimizer = Annotated[Sgd | AdamW, Field(discriminator="name")]


def build_optimizer(net: nn.Module, settings: Sgd | AdamW) -> torch.optim.Optimizer:
    """Return the optimiser of a net's trained parameters, in their order.

    One-dimensional parameters (scales, slopes, biases) are the group that may not decay.
    """
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    many = [parameter for parameter in trained if parameter.ndim > 1]
    few = [parameter for parameter in trained if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": many, "weight_decay": settings.weight_decay},
        {"params": few, "weight_decay": settings.weight_decay if settings.decay_norms else 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group[BASE_LR] = settings.lr
    if isinstance(settings, Sgd):
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def build_centre_optimizer(
    centres: nn.Parameter, settings: CentreSettings, beside: Sgd | AdamW
) -> CentreSGD:
    """Return the optimiser of a shard's centres."""
    lr = settings.lr
    if lr is None:
        lr = beside.lr if isinstance(beside, Sgd) else CENTRE_LR
    group = {"params": [centres], BASE_LR: lr}
    return CentreSGD([group], lr, settings.momentum, settings.weight_decay)


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Give every group its base rate times a factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group[BASE_LR] * factor
