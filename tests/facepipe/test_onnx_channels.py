"""Padding channels keeps a model's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facepipe.onnx_channels import block_size, pad_channels
from facepipe.onnx_graph import fix_size, parse


def small_net(channels: int, shared: bool = False) -> onnx.ModelProto:
    """Two residual convolutions and a pool of so many channels, then an output of 5."""
    rng = np.random.default_rng(channels)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)

    tensors = [
        weight("w1", channels, 3, 3, 3),
        weight("b1", channels),
        weight("w2", channels, channels, 3, 3),
        weight("b2", channels),
        weight("w3", 5, channels, 1, 1),
    ]
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], **conv),  # type: ignore[arg-type]
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b1" if shared else "b2"], ["c"], **conv),  # type: ignore[arg-type]
        helper.make_node("Add", ["c", "r"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w3"], ["y"], kernel_shape=[1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 8, 8])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


@pytest.mark.parametrize(("channels", "padded"), [(24, 32), (12, 16), (8, 8), (16, 16), (17, 32)])
def test_whole_blocks_and_the_same_answers(channels: int, padded: int) -> None:
    model = small_net(channels)
    after = pad_channels(model, 16)
    shapes = {t.name: list(t.dims) for t in after.graph.initializer}
    assert shapes["w2"] == [padded, padded, 3, 3] and shapes["b1"] == [padded]
    assert shapes["w1"] == [padded, 3, 3, 3] and shapes["w3"] == [5, padded, 1, 1]
    x = np.random.default_rng(0).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(answers(after, x)[0], answers(model, x)[0], atol=1e-5)
    assert list(model.graph.initializer[0].dims) == [channels, 3, 3, 3]


def test_shared_weights_are_left_alone() -> None:
    model = small_net(24, shared=True)
    assert pad_channels(model, 16) is model


def test_a_real_detector_keeps_its_answers(assets: Path) -> None:
    data = (assets / "models/insightface_pack/det_2.5g.onnx").read_bytes()
    model = fix_size(parse(data, "scrfd"), 160, 160)
    after = pad_channels(model, 16)
    assert after is not model
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 160, 160)).astype(np.float32)
    for old, new in zip(answers(model, x), answers(after, x), strict=True):
        np.testing.assert_allclose(new, old, atol=2e-5)


def test_the_block_is_that_of_this_cpu() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    assert block_size() == (16 if "avx512f" in flags else None)
