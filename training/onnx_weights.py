"""The weights of an ONNX recogniser, laid into the backbone that it was exported from.

An ONNX file does not keep the names of a net's modules. Its layers are laid beside the net's
in the order in which both run. Where an exporter folded a batch normalisation into the layer
before it, ours becomes one that only shifts. Whether the net then answers as the file does is
checked each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
import torch
from torch import nn

from facepipe.errors import ModelMismatch
from facepipe.models import ModelSettings, open_model
from training import backbone, iresnet, mobilefacenet, parity
from training.backbone import BackboneSettings, build_backbone
from training.flops import Call, layer_calls
from training.onnx_layers import Floats, Weights, read_layers

_KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.Linear: "linear",
    nn.BatchNorm1d: "norm",
    nn.BatchNorm2d: "norm",
    nn.PReLU: "prelu",
}
CONVOLUTIONAL: tuple[backbone.Name, ...] = (*get_args(iresnet.Name), *get_args(mobilefacenet.Name))


class _Differs(Exception):
    """The file's layers are not the net's; the message says where."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer of the net and what the file has for it; of a folded norm, only its shift."""

    layer: nn.Module
    weights: Weights | None
    shift: Floats | None

    @property
    def spare_bias(self) -> Floats | None:
        """Return the file's bias where the net's layer has no place for one."""
        return self.weights.bias if self.weights and self.layer.bias is None else None


def load_onnx(net: nn.Module, data: bytes, name: str) -> parity.Parity:
    """Load an ONNX recogniser's weights into a net; return how alike the two answer.

    Raises ModelUnreadable, and ModelMismatch where the file is of another net; then the net's
    weights are as they were, unless it was the answers that differed.
    """
    layers, calls = read_layers(data, name), layer_calls(net)
    try:
        pairs = _pairs(calls, layers, read_layers(data, name, as_stored=True))
    except _Differs as error:
        found = _matching(layers)
        is_one = f": it is a {found.name} of {found.dim} dimensions" if found else ""
        raise ModelMismatch(
            f"{name} is not of this backbone ({error}){is_one}; set backbone.name and backbone.dim "
            "to what it is"
        ) from error
    with torch.no_grad():
        for pair in pairs:
            _fill(pair)
    return _checked(net, data, name)


def _pairs(calls: list[Call], layers: list[Weights], as_stored: list[Weights]) -> list[_Pair]:
    """Return the net's layers with the file's, in one of two orders. Raises _Differs."""
    try:
        return list(_laid_beside(calls, layers))
    except _Differs:
        with suppress(_Differs):
            return list(_laid_beside(calls, as_stored))
        raise


def backbone_of(data: bytes, name: str) -> BackboneSettings:
    """Return which backbone an ONNX recogniser is. Raises ModelUnreadable, ModelMismatch."""
    found = _matching(read_layers(data, name))
    if found is None:
        raise ModelMismatch(
            f"{name} is none of {', '.join(CONVOLUTIONAL)}: only their weights can be loaded"
        )
    return found


def _matching(layers: list[Weights]) -> BackboneSettings | None:
    ends = [layer.weight.shape[0] for layer in layers if layer.kind == "linear"]
    for name in CONVOLUTIONAL if ends else ():
        settings = BackboneSettings(name=name, dim=ends[-1])
        try:
            list(_laid_beside(_meta_calls(settings), layers))
        except _Differs:
            continue
        return settings
    return None


@cache
def _meta_calls(settings: BackboneSettings) -> list[Call]:
    with torch.device("meta"):
        return layer_calls(build_backbone(settings))


def _laid_beside(calls: list[Call], layers: list[Weights]) -> Iterator[_Pair]:
    """Yield the net's layers with what the file has for each. Raises _Differs."""
    calls = [call for call in calls if type(call.layer) in _KINDS]
    rest = iter(layers)
    ahead = next(rest, None)
    before: _Pair | None = None
    for call in calls:
        layer, kind = call.layer, _KINDS[type(call.layer)]
        if kind == "norm" and before is not None and _took_in_norm(before, ahead):
            yield _Pair(layer, None, before.spare_bias)
            before = None
            continue
        if ahead is None:
            raise _Differs(f"it ends before {call.name}")
        if ahead.kind != kind or not _fits(layer, ahead):
            raise _Differs(
                f"{call.name} is a {kind} {_shape(layer)}, the file has a {ahead.kind} "
                f"{list(ahead.weight.shape)}"
            )
        before = _Pair(layer, ahead, None)
        yield before
        ahead = next(rest, None)
    if ahead is not None:
        raise _Differs("it has more layers than the net")


def _took_in_norm(before: _Pair, ahead: Weights | None) -> bool:
    """Return whether the file's layer holds the norm that the net has after it.

    It does where it has a bias that the net's layer has no place for. Where both have one, only
    the next layer tells.
    """
    if not isinstance(before.layer, nn.Conv2d | nn.Linear):
        return False
    if before.layer.bias is None:
        return before.spare_bias is not None
    return ahead is None or ahead.kind != "norm"


def _shape(layer: nn.Module) -> list[int]:
    assert isinstance(layer.weight, torch.Tensor)
    return list(layer.weight.shape)


def _fits(layer: nn.Module, weights: Weights) -> bool:
    # One slope for all channels is as good as the same one for each.
    shared = weights.kind == "prelu" and weights.weight.size == 1
    return shared or _shape(layer) == list(weights.weight.shape)


def _fill(pair: _Pair) -> None:
    layer, weights = pair.layer, pair.weights
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        _fill_norm(layer, weights, pair.shift)
        return
    assert weights is not None
    assert isinstance(layer.weight, torch.Tensor)
    layer.weight.copy_(_tensor(weights.weight).expand_as(layer.weight))
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        layer.bias.copy_(torch.zeros(()) if weights.bias is None else _tensor(weights.bias))


def _fill_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d, weights: Weights | None, shift: Floats | None
) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    if weights is None:  # folded: nothing but a shift is left
        layer.weight.fill_(1.0)
        layer.bias.copy_(torch.zeros(()) if shift is None else _tensor(shift))
        layer.running_mean.zero_()
        layer.running_var.fill_(1 - layer.eps)
        return
    assert weights.bias is not None
    assert weights.mean is not None
    assert weights.variance is not None
    layer.weight.copy_(_tensor(weights.weight))
    layer.bias.copy_(_tensor(weights.bias))
    layer.running_mean.copy_(_tensor(weights.mean))
    layer.running_var.copy_(_tensor(weights.variance) + (weights.eps - layer.eps))


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float32))


def _checked(net: nn.Module, data: bytes, name: str) -> parity.Parity:
    blob = parity.as_input(parity.made_crops())
    model = open_model(data, name, ModelSettings())
    rows = [model(blob[at : at + 1])[0].reshape(1, -1) for at in range(len(blob))]
    found = parity.compare(np.concatenate(rows), parity.embed(parity.plain_copy(net), blob))
    if not found.holds:
        raise ModelMismatch(
            f"{name} has the layers of this backbone but answers otherwise (cosine "
            f"{min(found.cosine, found.centred_cosine):.6f}, at least {parity.LEAST_COSINE} is "
            "needed): its layers are connected in another way, or it prepares its input itself"
        )
    return found
