"""Crops to pixels: the same as facepipe's own decoder, and a reason for every bad one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facepipe.align import decode_crop
from tests.training.made_crops import crop, encoded
from training.crop_pixels import MAX_CROP_BYTES, BadCrop, decode_into


def decoded(data: bytes | None) -> tuple[BadCrop | None, np.ndarray]:
    # Rows of a batch, so that a decoder that writes elsewhere or too far is noticed.
    batch = np.full((3, 112, 112, 3), 77, np.uint8)
    problem = decode_into(data, batch[1])
    assert (batch[[0, 2]] == 77).all()
    return problem, batch[1]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_lossless_crops_are_what_was_written(suffix: str) -> None:
    if suffix == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 101]  # over 100: without loss
        data = cv2.imencode(suffix, crop(3)[:, :, ::-1], options)[1].tobytes()
    else:
        data = encoded(3, suffix)
    problem, pixels = decoded(data)
    assert problem is None
    assert (pixels == crop(3)).all()


@pytest.mark.parametrize("sampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, 0x111111, 0x211111])
@pytest.mark.parametrize("progressive", [0, 1])
def test_jpeg_pixels_are_those_that_the_pipeline_embeds(sampling: int, progressive: int) -> None:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE]
    picture = cv2.GaussianBlur(crop(8), (0, 0), 3)
    data = cv2.imencode(".jpg", picture, [*options, progressive])[1].tobytes()
    problem, pixels = decoded(data)
    expected = decode_crop(data)
    assert problem is None and expected is not None
    assert (pixels == expected[:, :, ::-1]).all()


def test_a_grey_jpeg_has_three_equal_channels() -> None:
    grey = cv2.GaussianBlur(crop(2)[:, :, 0], (0, 0), 4)
    problem, pixels = decoded(cv2.imencode(".jpg", grey)[1].tobytes())
    assert problem is None
    assert (pixels == pixels[:, :, :1]).all()
    assert np.abs(pixels[:, :, 0].astype(int) - grey).mean() < 4


def sized(height: int, width: int, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(111, 112), (112, 113), (56, 224), (250, 250), (1, 1)])
def test_another_size_is_no_crop(size: tuple[int, int], suffix: str) -> None:
    assert decoded(sized(*size, suffix))[0] is BadCrop.WRONG_SIZE


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_cut_crop_is_corrupt(suffix: str, kept: float) -> None:
    data = encoded(1, suffix)
    assert decoded(data[: int(kept * len(data))])[0] is BadCrop.CORRUPT


def test_what_libjpeg_only_warns_of_is_still_read() -> None:
    data = encoded(6, ".jpg")
    padded = data[:-2] + b"\x00\x00" + data[-2:]  # before the end of the image
    problem, pixels = decoded(padded)
    assert problem is None
    assert (pixels == decoded(data)[1]).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, BadCrop.UNREADABLE),
        (b"", BadCrop.CORRUPT),
        (b"\xff\xd8", BadCrop.CORRUPT),
        (b"no image at all", BadCrop.CORRUPT),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), BadCrop.CORRUPT),
        (bytes(MAX_CROP_BYTES + 1), BadCrop.TOO_LONG),
    ],
)
def test_what_is_no_image_has_a_reason(data: bytes | None, reason: BadCrop) -> None:
    assert decoded(data)[0] is reason


def test_no_damage_raises() -> None:
    rng = np.random.default_rng(2)
    outcomes = set()
    for suffix in (".jpg", ".png"):
        data = encoded(4, suffix)
        for _ in range(150):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                damaged[place] ^= int(rng.integers(1, 256))
            outcomes.add(decoded(bytes(damaged))[0])
    assert {None, BadCrop.CORRUPT} <= outcomes
