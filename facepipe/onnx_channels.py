"""Pads channels with zeros to whole blocks, so that onnxruntime keeps its blocked layout.

On CPUs with AVX-512 onnxruntime's convolutions work on blocks of 16 channels. A tensor of 24
is computed as 32 all the same, but between two layers it is packed to 24 and unpacked again,
and the additions in between cannot be fused. With 8 channels of zeros written into the
weights the answers stay as they are and the packing goes away: SCRFD-2.5G takes a tenth less
time (benchmarks/bench_models.py). Tensors of half a block or less are left alone: there the
padding would cost more multiplications than the packing costs.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

_SAME_CHANNELS = {"Relu", "Add", "MaxPool", "AveragePool", "Clip", "LeakyRelu"}
AVX512_BLOCK = 16  # channels; onnxruntime's MlasNchwcGetBlockSize


def block_size() -> int | None:
    """Return the channels of a block on this CPU, None where padding would not pay."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return AVX512_BLOCK if " avx512f " in flags else None


def pad_channels(model: onnx.ModelProto, block: int) -> onnx.ModelProto:
    """Return the model with every group of tensors that can be padded to ``block`` padded.

    A group is tensors that share their channels through element-wise and pooling nodes. It
    is padded where convolutions with stored weights, and they alone, write it and read it.
    """
    padded = onnx.ModelProto()
    padded.CopyFrom(model)
    weights = {t.name: t for t in padded.graph.initializer}
    groups = _groups(padded)
    sizes = _padded_sizes(padded, groups, weights, block)
    if not sizes:
        return model
    done: set[tuple[str, int]] = set()
    for node in padded.graph.node:
        if node.op_type != "Conv":
            continue
        target = sizes.get(groups[node.output[0]])
        if target is not None:
            for name in node.input[1:]:
                _grow(weights[name], 0, target, done)
        source = sizes.get(groups[node.input[0]])
        if source is not None:
            _grow(weights[node.input[1]], 1, source, done)
    del padded.graph.value_info[:]
    return padded


def _groups(model: onnx.ModelProto) -> dict[str, str]:
    """Return, for each tensor, the name that stands for its group."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for node in model.graph.node:
        for name in (*node.input, *node.output):
            find(name)
        if node.op_type in _SAME_CHANNELS:
            inputs = node.input if node.op_type == "Add" else node.input[:1]
            for name in inputs:
                parent[find(name)] = find(node.output[0])
    return {name: find(name) for name in parent}


def _padded_sizes(
    model: onnx.ModelProto, groups: dict[str, str], weights: dict[str, onnx.TensorProto], block: int
) -> dict[str, int]:
    """Return group -> channels to pad to, for the groups that can be padded and gain by it."""
    channels: dict[str, set[int]] = defaultdict(set)
    fixed = {groups[v.name] for v in (*model.graph.input, *model.graph.output) if v.name in groups}
    fixed |= {groups[name] for name in weights if name in groups}
    uses: dict[str, int] = defaultdict(int)
    for node in model.graph.node:
        for name in node.input:
            uses[name] += 1
    for node in model.graph.node:
        if node.op_type == "Conv":
            if _plain(node, weights, uses):
                channels[groups[node.output[0]]].add(weights[node.input[1]].dims[0])
            else:
                fixed |= {groups[node.input[0]], groups[node.output[0]]}
        elif node.op_type not in _SAME_CHANNELS:
            fixed |= {groups[name] for name in (*node.input, *node.output)}
    return {
        group: -(-size // block) * block
        for group, (size, *others) in ((g, tuple(s)) for g, s in channels.items())
        if group not in fixed and not others and size > block // 2 and size % block
    }


def _plain(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], uses: dict[str, int]
) -> bool:
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    stored = all(name in weights and uses[name] == 1 for name in node.input[1:])
    return group == 1 and stored


def _grow(tensor: onnx.TensorProto, axis: int, size: int, done: set[tuple[str, int]]) -> None:
    if (tensor.name, axis) in done:
        return
    done.add((tensor.name, axis))
    values = numpy_helper.to_array(tensor)
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, size - values.shape[axis])
    tensor.CopyFrom(numpy_helper.from_array(np.pad(values, widths), tensor.name))
