"""The weighted layers of an ONNX recogniser, in the order in which they run.

Exporters write the same net in many ways: batch normalisation folded into the convolution
before it or not, a bias as a node of its own, weights transposed, constants behind a reshape.
onnxruntime's basic rewrites, which keep a graph's answers, bring them into one form first.

Legend: C channels, O outputs, I inputs, K kernel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from facepipe.errors import ModelUnreadable
from facepipe.onnx_graph import parse

Floats = NDArray[np.float32]

# What recognisers have besides layers with weights; none of these carries one.
_WITHOUT_WEIGHTS = {
    *("Add", "Flatten", "Reshape", "Dropout", "Identity", "Relu", "Clip", "Shape", "Constant"),
    *("Gather", "Unsqueeze", "Squeeze", "Concat", "Cast", "Slice", "Transpose", "ReduceSum"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A layer's weights. Of a norm: scale, shift, mean and variance, each C."""

    kind: Literal["conv", "linear", "norm", "prelu"]
    weight: Floats  # conv O x I x K x K, linear O x I, norm and prelu C
    bias: Floats | None = None  # O; None where the layer has none
    mean: Floats | None = None
    variance: Floats | None = None
    eps: float = 0.0


def read_layers(data: bytes, name: str, *, as_stored: bool = False) -> list[Weights]:
    """Return the layers of an ONNX recogniser.

    Of two branches either may run first: in onnxruntime's order, or ``as_stored`` in the file's.
    Raises ModelUnreadable for bytes that are no model, and for a graph with operations that no
    backbone here has, such as quantised ones.
    """
    stored = parse(data, name)
    place_of = {output: n for n, node in enumerate(stored.graph.node) for output in node.output}
    model = _plain_form(stored, name)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, layers = list(model.graph.node), []
    if as_stored:
        nodes.sort(key=lambda node: place_of.get(node.output[0], len(place_of)))
    for node in nodes:
        reader = _READERS.get(node.op_type)
        if reader is not None:
            layers.append(_read(reader, node, constants, name))
        elif node.op_type not in _WITHOUT_WEIGHTS:
            raise ModelUnreadable(
                f"{name} has the operation {node.op_type}, which no backbone here has: give the "
                "float32 ONNX file of an IResNet or a MobileFaceNet"
            )
    return layers


def _plain_form(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the graph with constants folded and a bias inside its layer."""
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "plain.onnx"
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise ModelUnreadable(f"{name} cannot be opened by onnxruntime: {error}") from error
        return onnx.load(target)


Constants = Mapping[str, NDArray[np.generic]]
Reader = Callable[[onnx.NodeProto, list[Floats | None]], Weights]


def _read(reader: Reader, node: onnx.NodeProto, constants: Constants, name: str) -> Weights:
    """Read a layer whose weights are stored; a computed one is None, and must not be used."""
    stored = [
        np.asarray(constants[key], np.float32) if key in constants else None
        for key in node.input[1:]
    ]
    if not stored or stored[0] is None:
        raise ModelUnreadable(
            f"{name}: the weights of {node.op_type} {node.name} are computed, not stored: export "
            "the model again, with its weights as initialisers"
        )
    return reader(node, stored)


def _needed(value: Floats | None) -> Floats:
    assert value is not None  # `_read` has looked
    return value


def _attribute(node: onnx.NodeProto, key: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == key:
            return float(onnx.helper.get_attribute_value(attribute))
    return default


def _conv(node: onnx.NodeProto, stored: list[Floats | None]) -> Weights:
    bias = stored[1] if len(stored) > 1 else None
    return Weights(kind="conv", weight=_needed(stored[0]), bias=bias)


def _gemm(node: onnx.NodeProto, stored: list[Floats | None]) -> Weights:
    weight = _needed(stored[0]) * np.float32(_attribute(node, "alpha", 1.0))
    weight = weight if _attribute(node, "transB", 0) else weight.T
    bias = stored[1] if len(stored) > 1 else None
    if bias is not None:
        bias = bias.reshape(-1) * np.float32(_attribute(node, "beta", 1.0))
    return Weights(kind="linear", weight=weight, bias=bias)


def _matmul(node: onnx.NodeProto, stored: list[Floats | None]) -> Weights:
    return Weights(kind="linear", weight=_needed(stored[0]).T)


def _norm(node: onnx.NodeProto, stored: list[Floats | None]) -> Weights:
    scale, shift, mean, variance = (_needed(value) for value in stored)
    return Weights(
        kind="norm",
        weight=scale,
        bias=shift,
        mean=mean,
        variance=variance,
        eps=_attribute(node, "epsilon", 1e-5),  # ONNX's default
    )


def _prelu(node: onnx.NodeProto, stored: list[Floats | None]) -> Weights:
    return Weights(kind="prelu", weight=_needed(stored[0]).reshape(-1))


_READERS: dict[str, Reader] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    "PRelu": _prelu,
}
