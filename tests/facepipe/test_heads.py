"""Detector heads against insightface's own decoding, and suppression against its nms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facepipe.errors import ModelUnreadable
from facepipe.heads import scrfd_candidates, suppress, yunet_candidates

SIDE = 256


class _Session:
    """Answers like an onnxruntime session, with outputs that are given."""

    def __init__(self, outputs: list[np.ndarray]) -> None:
        self.outputs = outputs

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "input", "shape": [1, 3, SIDE, SIDE]})]

    def get_outputs(self) -> list[Any]:
        return [
            type("Output", (), {"name": str(i), "shape": list(o.shape)})
            for i, o in enumerate(self.outputs)
        ]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.outputs


def random_outputs(levels: int, anchors: int, batched: bool, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    outputs = []
    for width in (1, 4, 10):
        for level in range(levels):
            cells = (SIDE // (8 << level)) ** 2 * anchors
            outputs.append(rng.random((cells, width)).astype(np.float32) * (1 if width == 1 else 3))
    return [o[None] for o in outputs] if batched else outputs


@pytest.mark.parametrize(("levels", "anchors"), [(3, 2), (5, 1)])
@pytest.mark.parametrize("batched", [False, True])
def test_distance_heads_are_insightfaces(levels: int, anchors: int, batched: bool) -> None:
    from insightface.model_zoo.scrfd import SCRFD

    outputs = random_outputs(levels, anchors, batched, seed=levels)
    peer = SCRFD(model_file="none", session=_Session(outputs))
    peer.prepare(0, input_size=(SIDE, SIDE), det_thresh=0.5)
    det, kps = peer.detect(np.zeros((SIDE, SIDE, 3), np.uint8))
    scores, boxes, points = scrfd_candidates(outputs, 0, SIDE, SIDE, 0.5)
    keep = suppress(boxes, scores, 0.4)
    assert len(keep) == len(det) > 3
    np.testing.assert_allclose(np.column_stack([boxes[keep], scores[keep]]), det, rtol=1e-6)
    np.testing.assert_allclose(points[keep], kps, rtol=1e-6)


def test_flat_outputs_of_a_batch_belong_to_their_picture() -> None:
    one, two = random_outputs(3, 2, False, seed=1), random_outputs(3, 2, False, seed=2)
    both = [np.concatenate(pair) for pair in zip(one, two, strict=True)]
    for picture, alone in enumerate((one, two)):
        got = scrfd_candidates(both, picture, SIDE, SIDE, 0.5, pictures=2)
        for a, b in zip(got, scrfd_candidates(alone, 0, SIDE, SIDE, 0.5), strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("count", [3, 6, 10, 12])
def test_a_head_without_landmarks_is_refused(count: int) -> None:
    with pytest.raises(ModelUnreadable, match=f"{count} outputs"):
        scrfd_candidates([np.zeros((1, 1), np.float32)] * count, 0, SIDE, SIDE, 0.5)


def test_yunet_by_hand() -> None:
    cells = {s: (SIDE // s) ** 2 for s in (8, 16, 32)}
    outputs = {
        f"{kind}_{s}": np.zeros((1, n, width), np.float32)
        for s, n in cells.items()
        for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
    }
    cell = 1 * (SIDE // 16) + 2  # stride 16: row 1, column 2
    outputs["cls_16"][0, cell], outputs["obj_16"][0, cell] = 0.81, 1.3  # clipped to 1
    outputs["bbox_16"][0, cell] = [0.5, -0.25, np.log(2), np.log(3)]
    outputs["kps_16"][0, cell] = np.arange(10) / 10
    scores, boxes, points = yunet_candidates(outputs, 0, SIDE, SIDE, 0.5)
    assert scores == pytest.approx([0.9])
    x, y = (2 + 0.5) * 16, (1 - 0.25) * 16
    assert boxes[0] == pytest.approx([x - 16, y - 24, x + 16, y + 24])
    assert points[0, 4] == pytest.approx([(2 + 0.8) * 16, (1 + 0.9) * 16])


def test_suppression_is_greedy_and_stable() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [1, 0, 10, 9], [50, 50, 59, 59]], np.float32)
    scores = np.array([0.8, 0.8, 0.9, 0.1], np.float32)
    assert suppress(boxes, scores, 0.4).tolist() == [2, 3]
    assert suppress(boxes, scores, 0.99).tolist() == [2, 0, 3]  # the equal pair: its first row
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.4).tolist() == []
