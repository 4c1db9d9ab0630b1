"""Made photos and a made model pack: small, exact, and run by the real engines.

A made face is a square of coloured blocks, the person's own, with a magenta dot in its
middle. The made detector is an ONNX graph with SCRFD's nine outputs whose convolution
answers to the dot; the made recogniser averages the crop into 8 x 8 x 3 numbers. So the
whole product can be tested for real where no model and no photo of a person is at hand.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PHOTO_PX = 320  # scaled by 2 in the 640 letterbox
FACE_PX = 48
DOT_PX = 4  # one stride-8 cell once scaled by 2
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
OFFSETS_PX = (TEMPLATE - 56) / 112 * FACE_PX  # landmarks around a made face's middle


def person_blocks(person: int) -> NDArray[np.float64]:
    """Return the 8 x 8 x 3 colours of a person, 0 to 255."""
    return np.random.default_rng([7, person]).uniform(20, 235, (8, 8, 3))


def face_square(person: int, shot: int) -> NDArray[np.uint8]:
    """Return one shot of a person's face: the blocks with this shot's noise."""
    noise = np.random.default_rng([11, person, shot]).normal(0, 25, (8, 8, 3))
    blocks = np.clip(person_blocks(person) + noise, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(blocks, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR))


def photo(
    faces: list[tuple[int, int, int, int]], background: int = 0, size_px: int = PHOTO_PX
) -> NDArray[np.uint8]:
    """Return a photo; a face is (person, shot, x, y) of its middle, multiples of 4 px."""
    rng = np.random.default_rng([13, background])
    low = rng.uniform(60, 190, (10, 10, 1)).repeat(3, axis=2).astype(np.uint8)
    picture = cv2.resize(low, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    half = FACE_PX // 2
    for person, shot, x, y in faces:
        picture[y - half : y + half, x - half : x + half] = face_square(person, shot)
        picture[y : y + DOT_PX, x : x + DOT_PX] = (255, 0, 255)
    return np.asarray(picture, dtype=np.uint8)


def save(path: Path, picture: NDArray[np.uint8]) -> Path:
    """Write a picture losslessly (PNG, whatever the suffix says) and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", picture)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def people(folder: Path, persons: int = 4, shots: int = 5) -> Path:
    """Write a folder per identity: ``person-0/shot-0.png`` ..."""
    for person in range(persons):
        for shot in range(shots):
            place = (80 + 4 * shot, 100 + 4 * person)
            picture = photo([(person, shot, *place)], background=100 * person + shot)
            save(folder / f"person-{person}" / f"shot-{shot}.png", picture)
    return folder


def detector(batch: bool = False) -> bytes:
    """Return the made detector as ONNX bytes."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    outputs: list[list[str]] = [[], [], []]
    for stride in (8, 16, 32):
        _level(stride, nodes, tensors, outputs)
    shape = ["n" if batch else 1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "made_detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", width])
            for names, width in zip(outputs, (1, 4, 10), strict=True)
            for name in names
        ],
        tensors,
    )
    return _model(graph)


def _level(
    stride: int,
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    outputs: list[list[str]],
) -> None:
    """Add a pyramid level: a strided convolution that answers to a magenta cell at stride 8."""
    weight = np.zeros((2, 3, stride, stride), np.float32)
    weight[0] = np.array([1.0, -1.0, 1.0])[:, None, None] * 20 / (3 * stride * stride)
    bias = np.array([-15.0 if stride == 8 else -60.0, -60.0], np.float32)
    # A magenta cell is (1, -1, 1) after normalising: 20 - 15 = 5.
    box = np.full(8, FACE_PX / stride, np.float32)  # 24 px in the photo = 48 in the letterbox
    points = np.tile((OFFSETS_PX * 2 / stride).ravel(), 2).astype(np.float32)
    shapes = {"score": (weight, bias, 1), "box": (0 * weight[:1], box, 4)}
    shapes["points"] = (0 * weight[:1], points, 10)
    for kind, (w, b, width) in shapes.items():
        name = f"{kind}_{stride}"
        w = np.broadcast_to(w, (len(b), 3, stride, stride)) if kind != "score" else w
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(w), f"{name}_w"))
        tensors.append(numpy_helper.from_array(b, f"{name}_b"))
        tensors.append(numpy_helper.from_array(np.array([-1, width]), f"{name}_shape"))
        nodes.append(
            helper.make_node(
                "Conv",
                ["input", f"{name}_w", f"{name}_b"],
                [f"{name}_map"],
                kernel_shape=[stride, stride],
                strides=[stride, stride],
            )
        )
        nodes.append(
            helper.make_node("Transpose", [f"{name}_map"], [f"{name}_last"], perm=[0, 2, 3, 1])
        )
        raw = f"{name}_raw" if kind == "score" else name
        nodes.append(helper.make_node("Reshape", [f"{name}_last", f"{name}_shape"], [raw]))
        if kind == "score":
            nodes.append(helper.make_node("Sigmoid", [raw], [name]))
    for names, kind in zip(outputs, ("score", "box", "points"), strict=True):
        names.append(f"{kind}_{stride}")


def recogniser(seed: int = 0) -> bytes:
    """Return the made recogniser: block averages, a PReLU that is nearly linear, 192-d."""
    slope = np.full((3, 1, 1), 0.9 - 0.01 * seed, np.float32)
    nodes = [
        helper.make_node("PRelu", ["input", "slope"], ["bent"]),
        helper.make_node(
            "AveragePool", ["bent"], ["blocks"], kernel_shape=[14, 14], strides=[14, 14]
        ),
        helper.make_node("Flatten", ["blocks"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "made_recogniser",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 192])],
        [numpy_helper.from_array(slope, "slope")],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def pack(folder: Path, seed: int = 0) -> Path:
    """Write a pack with the made detector and recogniser."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "det_made.onnx").write_bytes(detector())
    (folder / "made_recogniser.onnx").write_bytes(recogniser(seed))
    return folder
