"""Detection with the made detector: letterbox, padded pass, rotation, order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from facepipe.detect import Detector, DetectSettings, letterbox, ranked, turn_back
from facepipe.errors import ModelNotFound
from facepipe.models import ModelSettings
from facepipe.packs import Pack, find_pack
from tests import made


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return find_pack(str(made.pack(tmp_path_factory.mktemp("pack"))))


def detector(pack: Pack, **settings: object) -> Detector:
    return Detector(pack, DetectSettings(**settings), ModelSettings())  # type: ignore[arg-type]


FACES = [(1, 0, 100, 120), (2, 0, 200, 220)]


def test_faces_are_where_they_were_put(pack: Pack) -> None:
    (found,) = detector(pack).find([made.photo(FACES)])
    half = made.FACE_PX / 2
    expected = sorted([x - half, y - half, x + half, y + half] for _, _, x, y in FACES)
    np.testing.assert_allclose(sorted(found.boxes_N4.tolist()), expected, atol=0.01)
    middle = found.boxes_N4.reshape(-1, 2, 2).mean(axis=1)
    np.testing.assert_allclose(found.landmarks_N52, middle[:, None] + made.OFFSETS_PX, atol=0.01)
    assert (np.diff(found.scores_N) <= 0).all()
    assert not found.padded_N.any() and found.rotation_deg == 0


def test_a_photo_without_faces(pack: Pack) -> None:
    (found,) = detector(pack).find([made.photo([])])
    assert len(found) == 0 and found.boxes_N4.shape == (0, 4)


@pytest.mark.parametrize(
    "shape", [(250, 250), (480, 640), (640, 480), (1000, 37), (1, 900), (7, 7)]
)
def test_the_letterbox_is_insightfaces(shape: tuple[int, int]) -> None:
    import cv2

    photo = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    canvas, scale = letterbox(photo, 640, 640, 0)
    # insightface.model_zoo.scrfd.SCRFD._detect_candidates, in its own words
    im_ratio = float(photo.shape[0]) / photo.shape[1]
    if im_ratio > 1:
        new_height, new_width = 640, int(640 / im_ratio)
    else:
        new_width, new_height = 640, int(640 * im_ratio)
    expected = np.zeros((640, 640, 3), np.uint8)
    if new_height and new_width:
        expected[:new_height, :new_width] = cv2.resize(photo, (new_width, new_height))
        assert np.array_equal(canvas, expected)
        assert scale == (new_height / photo.shape[0],) * 2
    else:
        assert canvas.any()  # a sliver keeps at least one pixel


def test_the_padded_pass_finds_what_fills_the_frame(assets: Path) -> None:
    import cv2

    real = find_pack(str(assets / "models/insightface_pack"))
    photo = cv2.imread(
        str(assets / "photos/various/facenet-pytorch__test_images__angelina_jolie__1.jpg")
    )
    (whole,) = detector(real).find([photo])
    x1, y1, x2, y2 = (int(v) for v in whole.boxes_N4[0])
    tight = np.ascontiguousarray(photo[max(y1, 0) : y2, max(x1, 0) : x2])
    (never,) = detector(real, padded_pass="never").find([tight])
    (always,) = detector(real, padded_pass="always").find([tight])
    assert len(always) >= 1 and len(always) >= len(never)
    (auto,) = detector(real).find([tight])
    assert len(auto) >= 1
    if len(never) == 0:
        assert auto.padded_N.all()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_photos_give_the_same_places(assets: Path, turns: int) -> None:
    import cv2

    real = find_pack(str(assets / "models/insightface_pack"))
    photo = cv2.imread(str(assets / "photos/various/insightface_pkg__t1.jpg"))
    (upright,) = detector(real).find([photo])
    turned = np.ascontiguousarray(np.rot90(photo, turns))
    (found,) = detector(real, rotations="all").find([turned])
    assert found.rotation_deg == 90 * turns
    assert len(found) == len(upright) == 6
    # Where a point of the upright photo lies in the turned one:
    height, width = photo.shape[:2]
    x, y = upright.landmarks_N52[..., 0], upright.landmarks_N52[..., 1]
    moved = {1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[turns]
    np.testing.assert_allclose(found.landmarks_N52, np.stack(moved, axis=-1), atol=0.01)


def test_turning_back_is_exact() -> None:
    faces = ranked(
        np.array([[1, 2, 3, 5]], np.float32),
        np.arange(10, dtype=np.float32).reshape(1, 5, 2),
        np.array([0.9], np.float32),
        np.array([False]),
    )
    back = turn_back(faces, 1, 20, 10)  # the unturned photo is 20 x 10
    assert back.boxes_N4.tolist() == [[2, 7, 5, 9]]
    assert back.landmarks_N52[0, 1].tolist() == [3, 8]


def test_order_is_by_score_then_box() -> None:
    boxes = np.array([[5, 0, 9, 9], [1, 0, 9, 9], [3, 0, 9, 9]], np.float32)
    scores = np.array([0.5, 0.5, 0.9], np.float32)
    faces = ranked(boxes, np.zeros((3, 5, 2), np.float32), scores, np.zeros(3, bool))
    assert faces.boxes_N4[:, 0].tolist() == [3, 1, 5]


def test_batches_do_not_change_a_face(assets: Path, tmp_path: Path) -> None:
    import cv2

    (tmp_path / "y.onnx").write_bytes((assets / "models/yunet_n_dynamic.onnx").read_bytes())
    yunet = find_pack(str(tmp_path))
    files = sorted((assets / "photos/wider416").glob("*.jpg"))[:5]
    photos = [cv2.imread(str(p)) for p in files]
    one = detector(yunet, batch=1).find(photos)
    four = detector(yunet, batch=4).find(photos)
    assert sum(map(len, one)) > 10
    for a, b in zip(one, four, strict=True):
        np.testing.assert_allclose(a.boxes_N4, b.boxes_N4, atol=1e-2)


@pytest.mark.parametrize("bad", [{"size_px": 650}, {"threshold": 0}, {"sise_px": 640}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DetectSettings(**bad)  # type: ignore[arg-type]


def test_a_pack_without_a_detector_says_so(tmp_path: Path) -> None:
    (tmp_path / "r.onnx").write_bytes(made.recogniser())
    with pytest.raises(ModelNotFound, match="no face detector"):
        detector(find_pack(str(tmp_path)))
