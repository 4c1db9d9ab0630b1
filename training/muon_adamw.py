"""Muon for the convolutions within a net, AdamW for all else: optimisers for short runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.muon import Muon
from training.optimizers import BASE_LR

COLOURS = 3  # inputs of the first convolution


class MuonAdamW(BaseModel):
    """Muon for the convolutions behind the first, AdamW for all else; both on one schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: float = Field(2e-3, gt=0, description="of AdamW")
    muon_lr: float = Field(0.02, gt=0, description="of Muon: its authors' for convolutions")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW, without norms and biases")
    muon_weight_decay: float = Field(0.005, ge=0, description="of Muon")


def build_optimizers(
    net: nn.Module, settings: MuonAdamW, answering: Iterable[Tensor] = ()
) -> list[torch.optim.Optimizer]:
    """Return the two optimisers of a net's parameters.

    ``answering`` are weights of convolutions that give a net's answers: Muon is for those between
    the first and these (Jordan et al. 2024, see `training.muon`).
    """
    outer = set(map(id, answering))
    muon = [
        p for p in net.parameters() if p.ndim == 4 and p.shape[1] != COLOURS and id(p) not in outer
    ]
    chosen = set(map(id, muon))
    others = [p for p in net.parameters() if id(p) not in chosen]
    adamw = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    convolutions: list[dict[str, Any]] = [{"params": muon, BASE_LR: settings.muon_lr}]
    return [
        Muon(convolutions, settings.muon_lr, weight_decay=settings.muon_weight_decay),
        torch.optim.AdamW([{**group, BASE_LR: settings.lr} for group in adamw], lr=settings.lr),
    ]
