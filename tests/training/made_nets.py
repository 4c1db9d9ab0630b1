"""Nets that look trained: normalisations with statistics and slopes of their own."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import nn

from training.backbone import BackboneSettings, build_backbone
from training.export import onnx_bytes
from training.parity import plain_copy


def made_net(name: Any, dim: int = 24, seed: int = 0) -> nn.Module:
    """Return a backbone, in training mode, whose every layer matters to its answer."""
    return deepcopy(_net(name, dim, seed))


@cache
def made_onnx(name: Any, dim: int = 24, seed: int = 0) -> bytes:
    """Return the same net as ONNX."""
    return onnx_bytes(plain_copy(_net(name, dim, seed)))


@cache
def _net(name: Any, dim: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = build_backbone(BackboneSettings(name=name, dim=dim))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.4)
        for norm in norms:
            norm.weight.uniform_(0.7, 1.3)
            norm.bias.normal_(0, 0.2)
            norm.momentum = 1.0
        net(torch.randn(3, 3, 112, 112))  # so that the statistics are of what runs through
        for norm in norms:
            norm.momentum = 0.1
    return net
