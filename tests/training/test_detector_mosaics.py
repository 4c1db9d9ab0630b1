"""Training pictures: functions of their number, with faces where the pixels say they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.detector_album import Photo
from training.detector_batches import batch_of
from training.detector_labels import MIRRORED, Taught, labelled, merged
from training.detector_mosaics import Mosaics, MosaicSettings, Picture, moved_boxes
from training.detector_photos import halved

SIDE = 240
PLAIN = {"texture_share": 0.0, "occluded_share": 0.0, "far_turn_share": 0.0}
POINTS = np.array([[100, 110], [140, 110], [120, 130], [104, 150], [136, 150]], np.float32)
COLOURS = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255), (255, 0, 255)]


def photo(number: int) -> Photo:
    """A grey photo with one face: five dots of colours of their own."""
    pixels = np.full((SIDE, SIDE, 3), 90 + number, np.uint8)
    for point, colour in zip(POINTS, COLOURS, strict=True):
        cv2.circle(pixels, tuple(int(v) for v in point), 7, colour, -1)
    taught = Taught(
        boxes_N4=np.array([[85, 90, 155, 170]], np.float32),
        landmarks_N52=POINTS[None] + 0.5,
        has_landmarks_N=np.array([True]),
        ignored_N=np.array([False]),
    )
    return Photo(levels=halved(pixels), taught=taught, folder="made")


def mosaics(seed: int = 0, **changes: object) -> Mosaics:
    settings = MosaicSettings.model_validate({"canvas_px": 224, **PLAIN, **changes})
    return Mosaics([photo(n) for n in range(4)], settings, seed)


def test_a_picture_follows_from_its_number() -> None:
    one, two, other = mosaics().picture(1, 5), mosaics().picture(1, 5), mosaics().picture(1, 6)
    assert np.array_equal(one.pixels_HWC, two.pixels_HWC)
    assert np.array_equal(one.landmarks_N52, two.landmarks_N52)
    assert not np.array_equal(one.pixels_HWC, other.pixels_HWC)
    assert not np.array_equal(one.pixels_HWC, mosaics(seed=1).picture(1, 5).pixels_HWC)


def seen(picture: Picture, place: np.ndarray[tuple[int], np.dtype[np.float32]]) -> tuple[int, ...]:
    column, row = (int(v) for v in place)
    return tuple(int(v) for v in picture.pixels_HWC[row, column])


def test_landmarks_lie_on_their_dots_also_mirrored() -> None:
    checked, mirrored = 0, 0
    for number in range(40):
        picture = mosaics().picture(0, number)
        assert picture.boxes_N4.min(initial=0) >= 0
        assert picture.boxes_N4.max(initial=0) <= 224
        faces = zip(picture.boxes_N4, picture.landmarks_N52, picture.has_landmarks_N, strict=True)
        for box, points, known in faces:
            side = float(np.sqrt(np.prod(box[2:] - box[:2])))
            if not known or side < 40:  # a dot of fewer pixels may be blurred away
                continue
            # Light and colour change; which channels a dot has most of stays, in nearly all.
            right = 0
            own = [seen(picture, p) for p in points]
            turned = points[0, 0] > points[1, 0]
            assert not turned  # the first landmark is the eye on the left of the picture
            for order in (range(5), MIRRORED):
                alike = [
                    np.corrcoef(own[k], COLOURS[at])[0, 1] > 0.8 if np.ptp(own[k]) > 20 else False
                    for k, at in enumerate(order)
                ]
                right = max(right, sum(alike))
                mirrored += order is MIRRORED and sum(alike) == 5
            checked += right == 5
    assert checked >= 15
    assert mirrored >= 3


def test_boxes_hold_the_moved_ellipse() -> None:
    box = np.array([[10.0, 20.0, 50.0, 100.0]], np.float32)
    angle = 0.4
    matrix = np.array(
        [[1.5 * np.cos(angle), -np.sin(angle), 7], [1.5 * np.sin(angle), np.cos(angle), -3]]
    )
    turns = np.linspace(0, 2 * np.pi, 20001)
    rim = np.stack([30 + 20 * np.cos(turns), 60 + 40 * np.sin(turns)], axis=1)
    moved = rim @ matrix[:, :2].T + matrix[:, 2]
    expected = [*moved.min(axis=0), *moved.max(axis=0)]
    np.testing.assert_allclose(moved_boxes(box, matrix)[0], expected, atol=1e-4)


def test_a_batch_keeps_each_face_with_its_picture() -> None:
    pictures = [mosaics().picture(0, number) for number in range(3)]
    stacked, truth, points = batch_of(pictures)
    assert tuple(stacked.shape) == (3, 3, 224, 224)
    assert np.array_equal(stacked[1, :, 5, 9].numpy(), pictures[1].pixels_HWC[5, 9])
    for number, picture in enumerate(pictures):
        own = truth.faces.picture_G == number
        learned = ~picture.ignored_N
        assert np.array_equal(truth.faces.boxes_G4[own].numpy(), picture.boxes_N4[learned])
        assert np.array_equal(truth.landmarks_G52[own].numpy(), picture.landmarks_N52[learned])
    assert truth.ignored_BA.shape == (3, len(points.xy_A2))


def test_looks_are_merged_by_score_and_labels_have_the_last_word() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], np.float32)
    points = np.arange(30, dtype=np.float32).reshape(3, 5, 2)
    scores = np.array([0.6, 0.9, 0.7], np.float32)
    found_boxes, found_points, found_scores = merged(boxes, points, scores)
    assert found_scores.tolist() == pytest.approx([0.9, 0.7])
    np.testing.assert_allclose(found_boxes[0], (0.6 * boxes[0] + 0.9 * boxes[1]) / 1.5, rtol=1e-5)
    np.testing.assert_allclose(
        found_points[0], (0.6 * points[0] + 0.9 * points[1]) / 1.5, rtol=1e-5
    )
    labels = np.array([[0, 0, 10, 10], [60, 60, 90, 90]], np.float32)
    taught = labelled(labels, found_boxes, found_points)
    assert taught.has_landmarks_N.tolist() == [True, False, True]
    assert taught.ignored_N.tolist() == [False, False, True]  # seen, but nobody's label
    assert np.array_equal(taught.boxes_N4[:2], labels)
