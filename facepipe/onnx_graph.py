"""Rewrites of a model's graph that keep its answers and cost less on a CPU.

`fix_size` lets onnxruntime fold all shape arithmetic. `split_prelu` writes
PReLU(x) = s x + (1 - s) ReLU(x), with the two products as 1 x 1 depthwise convolutions:
onnxruntime has no PReLU in its blocked NCHWc layout, so that each one costs two reorders and
a slow broadcast; what takes its place stays in the layout. MobileFaceNet-512d goes 1.55
times as fast and its embeddings move by less than 3e-6 (benchmarks/bench_models.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facepipe.errors import ModelUnreadable


def parse(data: bytes, name: str) -> onnx.ModelProto:
    """Parse ONNX bytes. Raises ModelUnreadable, also for a model that points to other files.

    External tensor files are refused: their paths are the model's to choose, and a digest of
    the model would not cover them.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors have no common type of their own
        raise ModelUnreadable(
            f"{name} is not a readable ONNX model ({type(error).__name__}): "
            "copy or download it again"
        ) from error
    if not model.graph.input or not model.graph.output:
        raise ModelUnreadable(f"{name} is an ONNX file without a graph: download it again")
    if any(t.data_location == TensorProto.EXTERNAL for t in _tensors(model.graph)):
        raise ModelUnreadable(f"{name} keeps weights in another file: save it as one ONNX file")
    # Old exports list their weights as inputs too; then onnxruntime must not fold them.
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor of a graph, those of its nodes and inner graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _tensors(inner)


def input_shape(model: onnx.ModelProto) -> list[int | None]:
    """Return the first input's shape; None for a dimension that is free."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return [int(d.dim_value) if d.dim_value > 0 else None for d in dims]


def output_shape(model: onnx.ModelProto) -> list[int | None]:
    """Return the first output's shape; None for a dimension that is free."""
    dims = model.graph.output[0].type.tensor_type.shape.dim
    return [int(d.dim_value) if d.dim_value > 0 else None for d in dims]


def fix_size(model: onnx.ModelProto, height_px: int, width_px: int) -> onnx.ModelProto:
    """Return the model with its input's free height and width set; a free batch stays free."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for dim, size in ((dims[2], height_px), (dims[3], width_px)):
        if dim.dim_value <= 0:
            dim.dim_value = size
    return fixed


def split_prelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every per-channel PReLU on N x C x H x W written as convolutions.

    A PReLU with another shape of slope is left as it is, and the model with it where none
    can be rewritten.
    """
    slopes = {t.name: t for t in model.graph.initializer}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        slope = slopes.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or not _per_channel(list(slope.dims)):
            nodes.append(node)
            continue
        values = numpy_helper.to_array(slope).astype(np.float32).reshape(-1, 1, 1, 1)
        source, target = node.input[0], node.output[0]
        changed.graph.initializer.extend(
            [
                numpy_helper.from_array(values, f"{target}_slope"),
                numpy_helper.from_array(1 - values, f"{target}_rest"),
            ]
        )
        nodes += _prelu_nodes(source, target, len(values))
    if len(nodes) == len(model.graph.node):
        return model
    used = {name for node in nodes for name in node.input}
    keep = [t for t in changed.graph.initializer if t.name in used]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(keep)
    return changed


def _per_channel(dims: list[int]) -> bool:
    return len(dims) == 3 and math.prod(dims[1:]) == 1


def _prelu_nodes(source: str, target: str, channels: int) -> list[onnx.NodeProto]:
    part, positive = f"{target}_part", f"{target}_positive"

    def scaled(name: str, weights: str, result: str) -> onnx.NodeProto:
        return helper.make_node(
            "Conv", [name, weights], [result], group=channels, kernel_shape=[1, 1]
        )

    return [
        helper.make_node("Relu", [source], [f"{target}_relu"]),
        scaled(source, f"{target}_slope", part),
        scaled(f"{target}_relu", f"{target}_rest", positive),
        helper.make_node("Add", [positive, part], [target]),
    ]
