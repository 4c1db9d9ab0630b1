"""A net as an ONNX file whose weights are kept in 8 bits and run in float32.

Each output channel of a convolution or linear layer has a scale of its own (Krishnamoorthi 2018,
arXiv:1806.08342, 3.1.1, symmetric), so that weights move by at most 1/254 of their channel's
largest. The graph multiplies them out (Cast, Mul) from constants, which onnxruntime does once, when
it opens the file: it is a quarter of the size and runs as fast as before. Activations are not
quantised.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.export import onnx_bytes
from training.parity import plain_copy

STEPS = 127  # of eight bits with a sign
LEAST_VALUES = 1024  # of a tensor: below it nothing is gained
_CHANNEL_AXIS = {"Conv": 0, "Gemm": 0, "MatMul": 1}  # Gemm as torch writes it: transB


def stored_bytes(net: nn.Module, notes: Mapping[str, str] | None = None) -> bytes:
    """Return a net in evaluation mode as one ONNX file; the same net gives the same bytes."""
    model = onnx.load_model_from_string(onnx_bytes(plain_copy(net), notes))
    return bytes(in_eight_bits(model).SerializeToString(deterministic=True))


def in_eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its large weights in 8 bits, in place."""
    graph = model.graph
    axis_of = {
        node.input[1]: _CHANNEL_AXIS[node.op_type]
        for node in graph.node
        if node.op_type in _CHANNEL_AXIS
    }
    unpacked, kept = [], []
    for tensor in graph.initializer:
        axis = axis_of.get(tensor.name)
        values = numpy_helper.to_array(tensor)
        if axis is None or tensor.data_type != TensorProto.FLOAT or values.size < LEAST_VALUES:
            kept.append(tensor)
            continue
        steps, scale = quantised(values, axis)
        names = [f"{tensor.name}.{part}" for part in ("steps", "scale", "cast")]
        kept.append(numpy_helper.from_array(steps, names[0]))
        kept.append(numpy_helper.from_array(scale, names[1]))
        unpacked.append(helper.make_node("Cast", [names[0]], [names[2]], to=TensorProto.FLOAT))
        unpacked.append(helper.make_node("Mul", [names[2], names[1]], [tensor.name]))
    nodes = [*unpacked, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def quantised(
    values: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return whole steps of -127 to 127, and the size of a step by channel, ready to multiply."""
    others = tuple(n for n in range(values.ndim) if n != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / STEPS, 1.0).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale
