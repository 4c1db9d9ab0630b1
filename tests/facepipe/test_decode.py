from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo
from pydantic import ValidationError

from facepipe.decode import DecodeSettings, decode, sniff, upright
from facepipe.schema import PhotoStatus

SETTINGS = DecodeSettings()
REFUSE = DecodeSettings(truncated="refuse")
WIDTH, HEIGHT = 96, 64
LOSSLESS = ("PNG", "TIFF", "WEBP", "BMP", "PPM")
LOSSY = ("JPEG", "HEIF", "AVIF")


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """RGB: smooth for the lossy codecs, and unlike any of its own turns and mirrors."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 9 + y / 5)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def encoded(rgb: np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(rgb)
    if format == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
        return buffer.getvalue()
    if format == "WEBP":
        options = {"lossless": True, **options}
    if format in ("JPEG", "AVIF"):
        options = {"quality": 95, "subsampling": "4:4:4", **options}
    image.save(buffer, format, **options)
    return buffer.getvalue()


def stored_as(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an upright picture into what a camera stores, from the table of EXIF tag 274."""
    return {
        1: rgb,  # row 0 is the top, column 0 the left side
        2: rgb[:, ::-1],  # top, right
        3: rgb[::-1, ::-1],  # bottom, right
        4: rgb[::-1],  # bottom, left
        5: rgb.swapaxes(0, 1),  # left, top
        6: np.rot90(rgb, 1),  # right, top: to be turned clockwise
        7: rgb[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: np.rot90(rgb, -1),  # left, bottom
    }[orientation].copy()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[274] = orientation
    block[271] = "maker"
    return block.tobytes()


def close(bgr: np.ndarray | None, rgb: np.ndarray, tolerance: float = 4.0) -> bool:
    assert bgr is not None
    assert bgr.shape == rgb.shape
    return float(np.abs(bgr[:, :, ::-1].astype(int) - rgb).mean()) <= tolerance


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_every_format(format: str) -> None:
    photo = decode(encoded(picture(), format), SETTINGS)
    assert (photo.status, photo.error) == (PhotoStatus.OK, "")
    assert (photo.width_px, photo.height_px, photo.orientation) == (WIDTH, HEIGHT, 1)
    assert photo.format == format.lower()
    assert close(photo.pixels_HWC, picture(), 0 if format in LOSSLESS else 4)
    assert photo.pixels_HWC is not None
    assert photo.pixels_HWC.dtype == np.uint8
    assert photo.pixels_HWC.flags.c_contiguous
    assert photo.pixels_HWC.flags.writeable


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format: str, orientation: int) -> None:
    data = encoded(stored_as(picture(), orientation), format, exif=exif(orientation))
    photo = decode(data, SETTINGS)
    assert photo.orientation == orientation
    assert (photo.width_px, photo.height_px) == (WIDTH, HEIGHT)
    assert close(photo.pixels_HWC, picture())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_orientation_in_xmp_alone(orientation: int) -> None:
    info = PngInfo()
    tag = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    info.add_itxt("XML:com.adobe.xmp", tag)
    data = encoded(stored_as(picture(), orientation), "PNG", pnginfo=info)
    photo = decode(data, SETTINGS)
    assert photo.orientation == orientation
    assert close(photo.pixels_HWC, picture(), 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_turns_by_its_own_boxes_once(orientation: int) -> None:
    # Pillow writes the orientation it is given as irot and imir
    data = encoded(stored_as(picture(), orientation), "AVIF", exif=exif(orientation))
    photo = decode(data, SETTINGS)
    assert photo.orientation == 1
    assert close(photo.pixels_HWC, picture())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heif_turns_by_its_own_boxes_once(orientation: int) -> None:
    pillow_heif.register_heif_opener()
    image, buffer = Image.fromarray(stored_as(picture(), orientation)), io.BytesIO()
    image.save(buffer, "HEIF", quality=95, exif=exif(orientation))
    photo = decode(buffer.getvalue(), SETTINGS)
    assert photo.orientation == 1
    assert close(photo.pixels_HWC, picture())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_orientation_is_ignored(format: str, value: int) -> None:
    photo = decode(encoded(picture(), format, exif=exif(value)), SETTINGS)
    assert (photo.status, photo.orientation) == (PhotoStatus.OK, 1)
    assert close(photo.pixels_HWC, picture())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("block", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0", b"?" * 40])
def test_broken_exif_never_fails_a_photo(format: str, block: bytes) -> None:
    if format == "AVIF":  # Pillow parses what it writes: break it afterwards
        data = encoded(picture(), format, exif=exif(6)).replace(b"MM\0*", b"??\0*")
        assert b"??\0*" in data
    else:
        data = encoded(picture(), format, exif=block)
    photo = decode(data, SETTINGS)
    assert (photo.status, photo.format) == (PhotoStatus.OK, format.lower())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_a_pure_rearrangement(orientation: int) -> None:
    stored = stored_as(picture(), orientation)
    turned = upright(stored.copy(), orientation)
    assert np.array_equal(turned, picture())
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}])
def test_jpeg_pixels_equal_opencv_to_the_bit(options: dict) -> None:
    data = encoded(picture(131, 77), "JPEG", **options)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    photo = decode(data, SETTINGS)
    assert photo.pixels_HWC is not None
    assert np.array_equal(photo.pixels_HWC, expected)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_first_of_many(format: str) -> None:
    grey, others = np.full((HEIGHT, WIDTH, 3), 85, np.uint8), [Image.fromarray(picture())]
    data = encoded(grey, format, save_all=True, append_images=others)
    photo = decode(data, SETTINGS)
    assert photo.status is PhotoStatus.OK
    assert photo.format == {"MPO": "jpeg"}.get(format, format.lower())
    assert close(photo.pixels_HWC, grey, 2)


# --- not images, too large, corrupt ---------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", b"hello, world\n" * 50, bytes(93750), b"\xff\xd8"])
def test_not_an_image(data: bytes) -> None:
    photo = decode(data, SETTINGS)
    assert photo.status is PhotoStatus.NOT_AN_IMAGE
    assert photo.error
    assert (photo.format, photo.pixels_HWC, photo.width_px) == (None, None, None)


def test_an_empty_file_says_so() -> None:
    assert decode(b"", SETTINGS).error == "empty file"


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(format: str, width: int = 60_000, height: int = 50_000) -> bytes:
    size_le, size_be = struct.pack("<HH", width, height), struct.pack(">HH", height, width)
    webp = (
        b"VP8X\x0a\0\0\0\0\0\0\0"
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3]
    )
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    tags = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, width), (257, height))]
    ispe = b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", width, height)
    iprp = b"\0\0\0\x24iprp\0\0\0\x1cipco" + ispe
    meta = b"\0\0\0\x30meta\0\0\0\0" + iprp
    return {
        "png": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", ihdr) + png_chunk(b"IDAT", b"x"),
        "gif": b"GIF89a" + size_le + bytes(3) + b"," + bytes(4) + size_le + b"\0\x02\0;",
        "jpeg": b"\xff\xd8\xff\xc0\0\x11\x08" + size_be + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0",
        "webp": b"RIFF\x16\0\0\0WEBP" + webp,
        "tiff": b"II*\0\x08\0\0\0\x02\0" + b"".join(tags) + bytes(4),
        "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, width, height) + bytes(24),
        "ppm": b"P6 %d %d 255\n" % (width, height),
        "avif": b"\0\0\0\x10ftypavif\0\0\0\0" + meta,
        "heif": b"\0\0\0\x10ftypheic\0\0\0\0" + meta,
    }[format]


@pytest.mark.parametrize(
    "format", ["png", "gif", "jpeg", "webp", "tiff", "bmp", "ppm", "avif", "heif"]
)
def test_a_bomb_is_refused_by_its_header(format: str) -> None:
    data = bomb(format)
    assert sniff(data) == format
    photo = decode(data, SETTINGS)
    assert photo.status is PhotoStatus.TOO_LARGE
    assert "60000 x 50000 pixels" in photo.error
    assert "decode.max_pixels = 64000000" in photo.error
    assert (photo.width_px, photo.height_px, photo.pixels_HWC) == (60_000, 50_000, None)


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY, "GIF"])
def test_the_limit_itself_is_allowed(format: str) -> None:
    data = encoded(picture(), format)
    at, below = WIDTH * HEIGHT, WIDTH * HEIGHT - 1
    assert decode(data, DecodeSettings(max_pixels=at)).status is PhotoStatus.OK
    assert decode(data, DecodeSettings(max_pixels=below)).status is PhotoStatus.TOO_LARGE
    assert decode(data, DecodeSettings(max_file_bytes=len(data))).status is PhotoStatus.OK
    large = decode(data, DecodeSettings(max_file_bytes=len(data) - 1))
    assert (large.status, large.format) == (PhotoStatus.TOO_LARGE, format.lower())
    assert "decode.max_file_bytes" in large.error


def test_a_size_no_table_can_hold() -> None:
    photo = decode(b"P6 " + b"9" * 900 + b" 1 255\n", SETTINGS)
    assert (photo.status, photo.width_px, photo.height_px) == (PhotoStatus.TOO_LARGE, None, 1)
    assert len(photo.error) < 400


def test_an_image_that_nothing_reads_is_corrupt() -> None:
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 77, 9, 0, 0, 0))
    photo = decode(data, SETTINGS)
    assert (photo.status, photo.pixels_HWC) == (PhotoStatus.CORRUPT, None)
    assert photo.error
    assert " at 0x" not in photo.error  # no address: same bytes, same row


def test_globals_of_pillow_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # would refuse: ours rules
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # would hide a truncation
    data = encoded(picture(), "PNG")
    assert decode(data, SETTINGS).status is PhotoStatus.OK
    assert decode(data[: len(data) // 2], SETTINGS).status is PhotoStatus.SALVAGED
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (10, True)


@pytest.mark.parametrize("bad", [{"max_pixels": 0}, {"truncated": "maybe"}, {"unknown": 1}])
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValidationError):
        DecodeSettings(**bad)
