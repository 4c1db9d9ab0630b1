"""A trained detector as ONNX with YuNet's outputs, checked against the net.

Batch normalisations and the scale of pixels are folded into convolutions, weights are stored as
half floats that the graph widens when it is opened, and a shift of the scores puts the operating
point that was measured at the product's default threshold.

Legend: B pictures, H, W pixels, A points of a level.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from facepipe.errors import GateFailed
from facepipe.models import ModelSettings, open_model
from training.detector_net import STRIDES, ConvNorm, DetectorNet, last_layer
from training.export import OPSET
from training.keyed_random import uniforms

FILE = "detector.onnx"
KINDS = {"cls": slice(0, 1), "obj": slice(0, 1), "bbox": slice(1, 5), "kps": slice(5, 15)}
OUTPUTS = [f"{kind}_{stride}" for kind in KINDS for stride in STRIDES]
CHECK_PX = (64, 96)  # height and width of the pictures that are compared
CHECK_PICTURES = 3
MOST_APART = 1e-3  # of any number, beside numbers of size one


class YuNetOutputs(nn.Module):
    """A detector that answers as YuNet does: sigmoid scores, B x A x numbers a level."""

    def __init__(self, net: DetectorNet) -> None:
        """Wrap a net."""
        super().__init__()
        self.net = net

    def forward(self, pictures_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return `OUTPUTS`. cls and obj are alike: their geometric mean is the score."""
        levels = [
            level.permute(0, 2, 3, 1).flatten(1, 2) for level in self.net.levels(pictures_B3HW)
        ]
        scores = [level[..., :1].sigmoid() for level in levels]
        boxes = [level[..., KINDS["bbox"]] for level in levels]
        landmarks = [level[..., KINDS["kps"]] for level in levels]
        return (*scores, *scores, *boxes, *landmarks)


def folded(net: DetectorNet, score_scale: float = 1.0, score_shift: float = 0.0) -> DetectorNet:
    """Return a copy in evaluation mode whose normalisations are folded into convolutions.

    Weights are rounded to half floats. A logit x becomes ``score_scale * x + score_shift``.
    """
    copy = deepcopy(net).float().eval()
    with torch.no_grad():
        for module in copy.modules():
            if isinstance(module, ConvNorm):
                module[0] = _fused(module[0], module[1])
                module[1] = nn.Identity()
        next(copy.stem.parameters()).mul_(copy.pixel_scale)
        copy.pixel_scale = 1.0
        for head in copy.heads:
            weight, bias = last_layer(head)
            weight[0].mul_(score_scale)
            bias[0].mul_(score_scale).add_(score_shift)
        for parameter in copy.parameters():
            parameter.copy_(parameter.half().float())
    return copy


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return torch.nn.utils.fuse_conv_bn_eval(conv, norm)


def detector_bytes(net: DetectorNet, notes: Mapping[str, str] | None = None) -> bytes:
    """Return a folded net as one ONNX file: ``input`` B x 3 x H x W, BGR of 0..255.

    The same net gives the same bytes. Raises GateFailed where onnxruntime answers otherwise
    than the net.
    """
    wrapped = YuNetOutputs(net).eval()
    axes = {name: {0: "batch", 1: "points"} for name in OUTPUTS}
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        target = Path(folder) / FILE
        warnings.simplefilter("ignore")  # torch announces that this exporter will go
        torch.onnx.export(
            wrapped,
            (torch.zeros(1, 3, *CHECK_PX),),
            target,
            input_names=["input"],
            output_names=OUTPUTS,
            dynamic_axes={"input": {0: "batch", 2: "height", 3: "width"}, **axes},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(target)
    _store_half(model)
    onnx.helper.set_model_props(model, dict(sorted((notes or {}).items())))
    onnx.checker.check_model(model)
    data = bytes(model.SerializeToString(deterministic=True))
    check(data, net)
    return data


def _store_half(model: onnx.ModelProto) -> None:
    """Store weights as half floats, each behind a Cast that onnxruntime folds on opening."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def check(data: bytes, net: DetectorNet) -> float:
    """Return how far the file's numbers are from the net's. Raises GateFailed beyond rounding."""
    height, width = CHECK_PX
    drawn = uniforms(7, np.arange(CHECK_PICTURES * 3 * height), width) * 255
    pictures = drawn.reshape(CHECK_PICTURES, 3, height, width).astype(np.float32)
    with torch.no_grad():
        expected = YuNetOutputs(net)(torch.from_numpy(pictures))
    model = open_model(data, FILE, ModelSettings())
    found = dict(zip(model.output_names, model(pictures), strict=True))
    apart = max(_apart(found[n], e.numpy()) for n, e in zip(OUTPUTS, expected, strict=True))
    if not apart <= MOST_APART:
        raise GateFailed(
            f"the exported detector answers otherwise than the net: numbers are {apart:.2g} apart, "
            f"at most {MOST_APART:g} is rounding: compare the two layer by layer"
        )
    return apart


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((np.abs(one - other) / np.maximum(1, np.abs(other))).max())
