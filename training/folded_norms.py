"""Gives batch normalisations that an exporter folded away their statistics back.

An ONNX file holds a convolution with the normalisation after it folded in; `onnx_weights` makes
that a normalisation with mean 0 and variance 1, which answers alike in evaluation mode. In
training mode it would divide by the batch's real deviation, and the net would forget what it
knows at the first step. With the means and variances that real crops show, and scale and shift
that undo them, it answers as before in both modes, and can be trained further.

Legend: B pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from training.flops import evaluating, hooked

Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(slots=True)
class _Sums:
    """Sums over pictures and places, float64, each C."""

    count: int = 0
    value: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, layer: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        x = taken[0].detach().double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        self.count += x.numel() // x.shape[1]
        self.value = self.value + x.sum(axes)
        self.square = self.square + x.square().sum(axes)


def folded_norms(net: nn.Module) -> list[Norm]:
    """Return the normalisations that only shift: mean 0, variance 1, scale 1."""
    return [module for module in net.modules() if isinstance(module, Norm) and _is_folded(module)]


def restore_statistics(net: nn.Module, batches_BCHW: Iterable[Tensor]) -> int:
    """Give each folded norm the mean and variance that the batches show; return how many.

    The batches are B x 3 x 112 x 112 in [-1, 1], RGB, on the net's device; a few thousand
    aligned crops are enough. What the net answers in evaluation mode stays as it was. Raises
    ValueError where there is no batch.
    """
    norms = folded_norms(net)
    sums = {norm: _Sums() for norm in norms}
    with hooked({norm: partial(_Sums.add, own) for norm, own in sums.items()}), evaluating(net):
        for batch in batches_BCHW:
            net(batch)
    for norm, own in sums.items():
        if own.count < 2:
            raise ValueError("no pictures to take the statistics from: give at least one batch")
        _restore(norm, own)
    return len(norms)


def _is_folded(norm: Norm) -> bool:
    if norm.running_mean is None or norm.running_var is None:
        return False
    parts = (norm.running_mean, norm.running_var + norm.eps - 1, norm.weight - 1)
    return all(bool((part.abs() < 1e-6).all()) for part in parts)


def _restore(norm: Norm, sums: _Sums) -> None:
    mean = torch.as_tensor(sums.value) / sums.count
    variance = torch.as_tensor(sums.square) / sums.count - mean.square()
    variance = variance.clamp(min=0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(norm.bias.double() + mean)
