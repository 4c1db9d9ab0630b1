"""What a net costs: its parameters and its multiply-adds, layer by layer.

A multiply-add is one product and its sum, the unit of the field's tables ("FLOPs" in
arcface_torch and in the papers; true FLOPs are twice as many). Counted are convolutions,
linear layers and the two products of attention. Normalisation and activations are not: once a
net is exported they are a part of the convolutions, or a few operations a value.

Legend: B pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from training.backbone import IMAGE_PX
from training.transformer import Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One layer that ran: its name in the net, and the shapes of its input and output."""

    name: str
    layer: nn.Module
    taken: torch.Size
    given: torch.Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a net costs for one picture."""

    parameters: int  # trained or not, without buffers
    multiply_adds: int


def layer_calls(net: nn.Module, *, image_px: int = IMAGE_PX) -> list[Call]:
    """Return the layers in the order in which they run on one picture, in evaluation mode.

    A layer is a module without modules of its own, or an `Attention`, which comes after the
    layers in it. A net on torch's meta device costs neither time nor memory here.
    """
    calls: list[Call] = []

    def note(name: str, layer: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        calls.append(Call(name=name, layer=layer, taken=taken[0].shape, given=given.shape))

    layers = [
        (name, layer)
        for name, layer in net.named_modules()
        if isinstance(layer, Attention) or not any(layer.children())
    ]
    with hooked({layer: partial(note, name) for name, layer in layers}), evaluating(net):
        device = next(net.parameters()).device
        net(torch.zeros(1, 3, image_px, image_px, device=device))
    return calls


def count_cost(net: nn.Module, *, image_px: int = IMAGE_PX) -> Cost:
    """Return what a net costs for one picture of image_px x image_px."""
    return Cost(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        multiply_adds=sum(multiply_adds(call) for call in layer_calls(net, image_px=image_px)),
    )


def multiply_adds(call: Call) -> int:
    """Return the multiply-adds of one call; 0 for a layer that is not counted."""
    layer = call.layer
    if isinstance(layer, nn.Conv2d):
        return call.given.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return call.given.numel() * layer.in_features
    if isinstance(layer, Attention):
        return layer.multiply_adds(call.taken)
    return 0


Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@contextmanager
def hooked(hooks: Mapping[nn.Module, Hook]) -> Iterator[None]:
    """Have each module's hook called with module, inputs and output at every forward pass."""
    handles = [layer.register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run without gradients and in evaluation mode; leave every module's mode as it was."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
