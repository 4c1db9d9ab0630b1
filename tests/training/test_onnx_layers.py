"""Layers of ONNX graphs written in the ways in which exporters write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facepipe.errors import ModelUnreadable
from training.onnx_layers import read_layers

RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
LINEAR = RNG.normal(size=(5, 36)).astype(np.float32)
BIAS4, BIAS5 = (RNG.normal(size=count).astype(np.float32) for count in (4, 5))


def model(nodes: list[onnx.NodeProto], **stored: np.ndarray) -> bytes:  # type: ignore[type-arg]
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


FLAT = helper.make_node("Flatten", ["c"], ["f"])
PLAIN = [
    helper.make_node("Conv", ["x", "w", "b"], ["c"]),
    FLAT,
    helper.make_node("Gemm", ["f", "l", "d"], ["y"], transB=1),
]
DEQUANTISED = [
    helper.make_node("Reshape", ["b", "four"], ["b4"]),
    helper.make_node("Conv", ["x", "w"], ["c0"]),
    helper.make_node("Add", ["c0", "b4"], ["c"]),
    FLAT,
    helper.make_node("MatMul", ["f", "lT"], ["m"]),
    helper.make_node("Add", ["m", "d"], ["y"]),
]
SCALED = [
    *PLAIN[:2],
    helper.make_node("Gemm", ["f", "half", "d2"], ["y"], transB=1, alpha=2.0, beta=0.5),
]
STORED = {"w": CONV, "b": BIAS4, "l": LINEAR, "d": BIAS5}


@pytest.mark.parametrize(
    "data",
    [
        model(PLAIN, **STORED),
        model(
            DEQUANTISED,
            w=CONV,
            b=BIAS4,
            four=np.array([1, 4, 1, 1]),
            lT=np.ascontiguousarray(LINEAR.T),
            d=BIAS5,
        ),
        model(SCALED, w=CONV, b=BIAS4, half=LINEAR / 2, d2=BIAS5 * 2),
    ],
    ids=["plain", "dequantised", "scaled"],
)
def test_one_form_whatever_was_written(data: bytes) -> None:
    conv, linear = read_layers(data, "made.onnx")
    assert (conv.kind, linear.kind) == ("conv", "linear")
    assert conv.bias is not None
    assert linear.bias is not None
    np.testing.assert_array_equal(conv.weight, CONV)
    np.testing.assert_array_equal(conv.bias, BIAS4)
    np.testing.assert_allclose(linear.weight, LINEAR, rtol=1e-6)
    np.testing.assert_allclose(linear.bias, BIAS5, rtol=1e-6)


def test_norm_and_slope() -> None:
    scale, shift, mean, variance = (RNG.uniform(1, 2, 4).astype(np.float32) for _ in range(4))
    slope = RNG.uniform(0, 1, (4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("PRelu", ["a", "slope"], ["p"]),
        helper.make_node("BatchNormalization", ["p", "s", "t", "m", "v"], ["c"], epsilon=2e-5),
        FLAT,
        helper.make_node("MatMul", ["f", "lT"], ["y"]),
    ]
    lT = np.ascontiguousarray(LINEAR.T)
    data = model(nodes, w=CONV, slope=slope, s=scale, t=shift, m=mean, v=variance, lT=lT)
    conv, prelu, norm, linear = read_layers(data, "made.onnx")
    assert conv.bias is None
    assert linear.bias is None
    np.testing.assert_array_equal(prelu.weight, slope.ravel())
    assert norm.eps == pytest.approx(2e-5)
    given = (norm.weight, norm.bias, norm.mean, norm.variance)
    for value, expected in zip(given, (scale, shift, mean, variance), strict=True):
        assert value is not None
        np.testing.assert_array_equal(value, expected)


def test_an_operation_that_no_backbone_has_is_named() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["c"]),
        FLAT,
        helper.make_node("Gemm", ["f", "l"], ["y"], transB=1),
    ]
    with pytest.raises(ModelUnreadable, match="Tanh"):
        read_layers(model(nodes, w=CONV, l=LINEAR), "made.onnx")


def test_weights_that_are_computed_are_refused() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        FLAT,
        helper.make_node("Transpose", ["f"], ["t"]),
        helper.make_node("MatMul", ["f", "t"], ["y"]),
    ]
    with pytest.raises(ModelUnreadable, match="computed"):
        read_layers(model(nodes, w=CONV), "made.onnx")


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ModelUnreadable, match=r"made\.onnx"):
        read_layers(b"no model", "made.onnx")


def test_a_quantised_pack_is_refused(assets: Path) -> None:
    path = assets / "models" / "w600k_mbf_512d_int8dyn.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    with pytest.raises(ModelUnreadable, match="float32"):
        read_layers(path.read_bytes(), path.name)
