"""Aligned crops of made people, pairs of them, and a recogniser that sees less of a face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.made import detector, person_blocks

SHOTS = 3
NOISE = 60.0  # standard deviation of a block's colour between shots; colours are 20 to 235


def made_crops(folder: Path, people: int) -> Path:
    """Write crops ``p000/p000_0001.png`` ...: a person's blocks with each shot's own noise."""
    for person in range(people):
        for shot in range(1, SHOTS + 1):
            noise = np.random.default_rng([17, person, shot]).normal(0, NOISE, (8, 8, 3))
            blocks = np.clip(person_blocks(person) + noise, 0, 255).astype(np.uint8)
            crop = cv2.resize(blocks, (112, 112), interpolation=cv2.INTER_NEAREST)
            path = folder / f"p{person:03d}" / f"p{person:03d}_{shot:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), crop)
    return folder


def made_pairs(path: Path, people: int, folds: int = 2) -> Path:
    """Write pairs in LFW's format: each fold has people of its own, two pairs of a kind each."""
    own = people // folds
    lines = [f"{folds}\t{2 * own}"]
    for fold in range(folds):
        who = range(fold * own, (fold + 1) * own)
        lines += [f"p{a:03d}\t{s}\t{s + 1}" for a in who for s in (1, 2)]
        lines += [
            f"p{a:03d}\t1\tp{fold * own + (a - fold * own + step) % own:03d}\t2"
            for a in who
            for step in (1, 2)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def coarse_pack(folder: Path) -> Path:
    """Write a pack whose recogniser sees 2 x 2 x 3 colours, where the made one sees 8 x 8 x 3."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "AveragePool", ["input"], ["blocks"], kernel_shape=[56, 56], strides=[56, 56]
            ),
            helper.make_node("Flatten", ["blocks"], ["embedding"]),
        ],
        "coarse_recogniser",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 12])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True)
    (folder / "coarse_recogniser.onnx").write_bytes(model.SerializeToString())
    (folder / "det_made.onnx").write_bytes(detector())
    return folder
