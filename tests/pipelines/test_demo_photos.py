"""The demo's photos: real ones, the same bytes each time, and what was done to them is so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.decode import Decoded, DecodeSettings, decode
from facepipe.errors import StoreFull
from facepipe.schema import PhotoStatus
from pipelines.demo_changes import COPIES
from pipelines.demo_files import Expected, Kind, Made, PhotoSet, labels_of, write_photos
from pipelines.demo_originals import ASTRONAUT, GROUP, Known, cut_out, find_originals
from pipelines.demo_photos import COPIES_EACH, FRAMES, make_photos


@pytest.fixture(scope="module")
def photos() -> PhotoSet:
    return make_photos()


def named(photos: PhotoSet, name: str) -> Made:
    return next(made for made in photos.photos if made.name == name)


def opened(made: Made) -> Decoded:
    return decode(made.data, DecodeSettings())


def pixels(made: Made) -> NDArray[np.float64]:
    found = opened(made).pixels_HWC
    assert found is not None
    return found.astype(np.float64)


def test_the_same_bytes_each_time(photos: PhotoSet) -> None:
    assert make_photos() == photos
    assert photos.missing == ()  # facepipe's own dependencies bring all of them


def test_everything_is_there_and_counted(photos: PhotoSet) -> None:
    people = [*(s.name for s in GROUP.sitters), "astronaut"]
    counts = Counter(made.kind for made in photos.photos)
    assert set(counts) == set(Kind)
    assert counts[Kind.ORIGINAL] == len(people)
    assert counts[Kind.FRAME] == FRAMES * len(people)
    assert counts[Kind.COPY] == COPIES_EACH * len(people) + 1  # and the same file again
    assert {m.name.partition("copy-")[2].partition(".")[0] for m in photos.photos} >= set(COPIES)
    names = [made.name for made in photos.photos]
    assert names == sorted(set(names))
    assert {made.label for made in photos.photos} == {None, "pilot", *people}


def test_labels_are_right_but_for_those_that_are_to_be_found_wrong(photos: PhotoSet) -> None:
    for made in photos.photos:
        if made.label is None or made.expected is Expected.NO_PIXELS:
            continue
        right = made.person is not None and made.label in labels_of(made.person)
        assert right == (made.kind is not Kind.WRONG), made.name
    wrong = [made for made in photos.photos if made.kind is Kind.WRONG]
    assert sorted(made.expected for made in wrong) == ["dropped", "moved", "moved"]


def test_queries_are_kept_out(photos: PhotoSet) -> None:
    known, stranger = photos.queries
    assert known.person == "astronaut" and stranger.person is None
    inside = {made.data for made in photos.photos}
    assert known.data not in inside and stranger.data not in inside


def test_frames_are_other_pictures_of_the_same(photos: PhotoSet) -> None:
    frames = [pixels(named(photos, f"person-3/frame-{n}.jpg")) for n in range(1, FRAMES + 1)]
    original = pixels(named(photos, "person-3/original.jpg"))
    for place, frame in enumerate(frames):
        assert frame.shape == original.shape
        for other in [original, *frames[:place]]:
            grey, plain = (cv2.GaussianBlur(p.mean(axis=2), (0, 0), 2.0) for p in (frame, other))
            assert np.abs(grey - plain).mean() > 2.0  # grey levels: not the same
            assert np.corrcoef(grey.ravel(), plain.ravel())[0, 1] > 0.7  # and no other photo


def test_copies_are_what_they_are_called(photos: PhotoSet) -> None:
    whole = pixels(named(photos, "person-1/original.jpg"))
    half = pixels(named(photos, "person-1/copy-half.jpg"))
    assert half.shape[:2] == tuple(round(side / 2) for side in whole.shape[:2])
    mirrored = pixels(named(photos, "person-1/copy-mirrored.jpg"))
    assert np.abs(mirrored[:, ::-1] - whole).mean() < 3
    assert (
        named(photos, "person-1/same-file.jpg").data == named(photos, "person-1/original.jpg").data
    )
    assert (
        pixels(named(photos, "person-2/copy-brighter.jpg")).mean()
        > 10 + pixels(named(photos, "person-2/original.jpg")).mean()
    )
    assert pixels(named(photos, "person-3/dark.jpg")).mean() < 15


def test_what_a_camera_notes_is_obeyed(photos: PhotoSet) -> None:
    whole = pixels(named(photos, "astronaut/original.png"))
    noted = opened(named(photos, "astronaut/sideways-exif.jpg"))
    assert (noted.orientation, noted.status) == (6, PhotoStatus.OK)
    assert noted.pixels_HWC is not None
    assert np.abs(noted.pixels_HWC.astype(np.float64) - whole).mean() < 3
    silent = opened(named(photos, "astronaut/sideways.jpg"))
    assert silent.orientation == 1 and silent.pixels_HWC is not None
    lying = np.rot90(silent.pixels_HWC.astype(np.float64))  # anticlockwise: upright again
    assert np.abs(lying - whole).mean() < 3


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("broken-off.jpg", PhotoStatus.SALVAGED),
        ("only-a-start.jpg", PhotoStatus.CORRUPT),
        ("not-a-photo.jpg", PhotoStatus.NOT_AN_IMAGE),
    ],
)
def test_damaged_files_are_damaged(photos: PhotoSet, name: str, status: PhotoStatus) -> None:
    assert opened(named(photos, f"astronaut/{name}")).status is status


def test_a_cut_out_holds_one_sitter() -> None:
    for sitter in GROUP.sitters:
        x1, y1, x2, y2 = cut_out(sitter, 1280, 886)
        assert 0 <= x1 < sitter.box_px[0] and sitter.box_px[2] < x2 <= 1280
        assert 0 <= y1 < sitter.box_px[1] and sitter.box_px[3] < y2 <= 886
        others = [other for other in GROUP.sitters if other is not sitter]
        for left, top, right, bottom in (other.box_px for other in others):
            middle = (left + right) / 2, (top + bottom) / 2
            assert not (x1 < middle[0] < x2 and y1 < middle[1] < y2)


def test_what_is_not_here_is_said_by_name() -> None:
    absent = Known(package="no_such_package", path="a.jpg", sha256="0", what="nothing")
    removed = Known(package="skimage", path="data/no-such.png", sha256="0", what="nothing")
    changed = Known(package="skimage", path=ASTRONAUT.path, sha256="0" * 16, what="another")
    found, missing = find_originals([absent, removed, changed])
    assert found == {}
    assert "no_such_package" in missing[0] and "pip install" in missing[0]
    assert "data/no-such.png is not in the installed scikit-image" in missing[1]
    assert "data/astronaut.png of scikit-image is not the picture" in missing[2]


def test_files_are_written_once(tmp_path: Path) -> None:
    files = {"a/one.jpg": b"1", "two.jpg": b"2"}
    assert write_photos(tmp_path, files) == 2
    before = (tmp_path / "two.jpg").stat().st_mtime_ns
    (tmp_path / "a" / "one.jpg").write_bytes(b"broken")
    assert write_photos(tmp_path, files) == 1
    assert (tmp_path / "a" / "one.jpg").read_bytes() == b"1"
    assert (tmp_path / "two.jpg").stat().st_mtime_ns == before
    with pytest.raises(StoreFull, match=r"two\.jpg/below"):
        write_photos(tmp_path / "two.jpg", {"below": b""})
