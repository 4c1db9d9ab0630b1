"""Decoding of real broken, odd and hostile files; skipped where the assets are absent."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepipe.decode import Decoded, DecodeSettings, decode
from facepipe.schema import PhotoStatus

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("FACEPIPE_ASSETS", ROOT.parent / "shared" / "assets"))
MESSY, VARIOUS = ASSETS / "messy", ASSETS / "photos" / "various"
pytestmark = pytest.mark.skipif(not MESSY.is_dir(), reason=f"no folder {MESSY}")

SETTINGS = DecodeSettings()
REFUSE = DecodeSettings(truncated="refuse")

# Every file that is not simply ok.
EXPECTED = {
    "pillow/decompression_bomb.gif": PhotoStatus.TOO_LARGE,
    "libvips/17000x17000.avif": PhotoStatus.TOO_LARGE,
    "libvips/truncated.gif": PhotoStatus.SALVAGED,
    "libvips/truncated.jpg": PhotoStatus.SALVAGED,
    "pillow/truncated_jpeg.jpg": PhotoStatus.SALVAGED,
    "pillow/truncated_end_chunk.png": PhotoStatus.SALVAGED,
    "pillow/broken_data_stream.png": PhotoStatus.SALVAGED,
    "pillow/ultrahdr.jpg": PhotoStatus.SALVAGED,
    "pillow/hopper_bad_exif.jpg": PhotoStatus.SALVAGED,  # its EXIF is good, its scan is damaged
    "pillow/crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": PhotoStatus.CORRUPT,
    "pillow/crash-0e16d3bfb83be87356d026d66919deaefca44dac.tif": PhotoStatus.CORRUPT,
    "pillow/crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif": PhotoStatus.CORRUPT,
    "pillow/crash-2020-10-test.tif": PhotoStatus.CORRUPT,
    "pillow/crash-4f085cc12ece8cde18758d42608bed6a2a2cfb1c.tif": PhotoStatus.CORRUPT,
    "pillow/crash-63b1dffefc8c075ddc606c0a2f5fdc15ece78863.tif": PhotoStatus.CORRUPT,
    "pillow/oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": PhotoStatus.CORRUPT,
    "imagededup/mixed_images/ukbench09268_corrupt.jpg": PhotoStatus.NOT_AN_IMAGE,  # noise
}


def outcomes() -> list[str]:
    table = MESSY / "decode_outcomes.tsv"
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file, delimiter="\t")]


def photos_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def read(name: str, settings: DecodeSettings = SETTINGS) -> Decoded:
    return decode((MESSY / name).read_bytes(), settings)


@pytest.mark.parametrize("name", outcomes())
def test_every_messy_file_has_its_status(name: str) -> None:
    photo = read(name)
    assert photo.status is EXPECTED.get(name, PhotoStatus.OK), photo.error
    assert (photo.error == "") == (photo.status is PhotoStatus.OK)
    refused = read(name, REFUSE)
    if photo.status is PhotoStatus.SALVAGED:
        assert (refused.status, refused.pixels_HWC) == (PhotoStatus.TRUNCATED, None)
    else:
        assert refused.status is photo.status


def test_the_table_lists_what_is_expected() -> None:
    assert set(EXPECTED) <= set(outcomes())
    assert len(outcomes()) > 100


@pytest.mark.parametrize("name", photos_of(VARIOUS))
def test_various_photos(name: str) -> None:
    photo = decode((VARIOUS / name).read_bytes(), SETTINGS)
    raw_video = name.endswith(".nv21")
    assert photo.status is (PhotoStatus.NOT_AN_IMAGE if raw_video else PhotoStatus.OK)
    if not raw_video:  # to the bit, also the PNGs and the WebP: none has a visible alpha
        assert photo.pixels_HWC is not None
        assert np.array_equal(photo.pixels_HWC, cv2.imread(str(VARIOUS / name)))


def jpegs() -> list[str]:
    names = [name for name in outcomes() if name.endswith((".jpg", ".mpo"))]
    return [name for name in names if EXPECTED.get(name) is not PhotoStatus.NOT_AN_IMAGE]


@pytest.mark.parametrize("name", jpegs())  # the salvaged ones too
def test_jpegs_equal_opencv_to_the_bit(name: str) -> None:
    photo = read(name)
    assert photo.pixels_HWC is not None
    assert np.array_equal(photo.pixels_HWC, cv2.imread(str(MESSY / name)))


@pytest.mark.parametrize("view", ["Landscape", "Portrait"])
def test_all_orientations_show_the_same_picture(view: str) -> None:
    photos = [read(f"exif-orientation/{view}_{i}.jpg") for i in range(9)]
    assert [photo.orientation for photo in photos] == [1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert len({(photo.width_px, photo.height_px) for photo in photos}) == 1
    small = []
    for photo in photos:
        assert photo.pixels_HWC is not None
        shrunk = cv2.resize(photo.pixels_HWC, (60, 60), interpolation=cv2.INTER_AREA)
        small.append(shrunk.astype(float))
    for other in small[1:]:
        assert np.abs(other - small[0]).mean() < 0.01 * 255


def test_avif_is_turned_by_its_own_box() -> None:
    photo = read("libvips/avif-orientation-6.avif")
    assert (photo.width_px, photo.height_px, photo.orientation) == (3024, 4032, 1)


MEASURE = """
import sys
from pathlib import Path
from facepipe.decode import DecodeSettings, decode

def kib(field):
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])

small = next(path for path in sys.argv[1:] if path.endswith("hopper.webp"))
decode(Path(small).read_bytes(), DecodeSettings())
before = kib("VmRSS")
for path in sys.argv[1:]:
    decode(Path(path).read_bytes(), DecodeSettings())
    print(path, kib("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc/self/status")
def test_no_messy_file_takes_300_megabytes() -> None:
    paths = [str(MESSY / name) for name in outcomes()]
    command = [sys.executable, "-c", MEASURE, *paths]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # the high-water mark only rises, so that its last value bounds that of every file
    rises = [int(line.rsplit(" ", 1)[1]) for line in run.stdout.splitlines()]
    assert len(rises) == len(paths)
    assert rises[-1] < 300 * 1024
