"""Rows of photos and faces, the awkward ones included."""

from __future__ import annotations

import numpy as np
import pytest

from facepipe.align import TEMPLATE_XY_PX, AlignSettings, decode_crop
from facepipe.detect import Faces
from facepipe.quality import QualitySettings
from facepipe.schema import FACES, PHOTOS
from facepipe.sources import Entry
from pipelines.detect_rows import crashed, face_rows, photo_row, pixels_of

PIXELS = np.full((200, 200, 3), 120, np.uint8)


def faces(*landmarks: np.ndarray) -> Faces:
    n = len(landmarks)
    return Faces(
        np.array([[20 + i, 20, 120, 140] for i in range(n)], np.float32),
        np.array(landmarks, np.float32),
        np.linspace(0.9, 0.8, n).astype(np.float32),
        np.zeros(n, bool),
    )


def rows_of(found: Faces, label: str | None = None) -> list[dict[str, object]]:
    entry = Entry(uri="/p/a.jpg", bytes=9, source_label=label)
    return face_rows(entry, "0" * 32, PIXELS, found, QualitySettings(), AlignSettings())


def test_rows_have_every_column_of_their_table() -> None:
    (row,) = rows_of(faces(TEMPLATE_XY_PX))
    assert set(row) == set(FACES.names)
    assert row["face_id"] == "0" * 32 + "-0000" and row["status"] == "ok"
    assert set(photo_row(Entry(uri="/p/a.jpg"), None, crashed())) == set(PHOTOS.names)


def test_a_face_whose_landmarks_coincide_is_marked_not_lost() -> None:
    good, bad = rows_of(faces(TEMPLATE_XY_PX, np.full((5, 2), 50.0)))
    assert decode_crop(good["crop"]) is not None  # type: ignore[arg-type]
    assert bad["crop"] == b"" and bad["status"] == "small"


def test_only_labelled_photos_have_bystanders() -> None:
    two = faces(TEMPLATE_XY_PX, TEMPLATE_XY_PX + 5)
    assert [r["status"] for r in rows_of(two)] == ["ok", "ok"]
    assert sorted(str(r["status"]) for r in rows_of(two, "ann")) == ["bystander", "ok"]


def test_a_crashed_photo_has_no_pixels() -> None:
    assert crashed().status == "crashed"
    with pytest.raises(ValueError, match="pixels"):
        pixels_of(crashed())
