from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from facepipe.image_pillow import BLOCK_PX, TooLarge, decode_any, one_line, to_bgr

MAX_PX = 1 << 24


def ramp(width: int = 64, height: int = 48) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([4 * x, 5 * y, 2 * x + 2 * y], axis=-1).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(data: bytes, format: str) -> np.ndarray:
    picture = decode_any(format, data, MAX_PX)
    assert picture.complaint == ""
    return picture.pixels_HWC


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255.0
    return (rgb * share + 255.0 * (1.0 - share))[:, :, ::-1]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "CMYK", "RGBX"])
def test_opaque_modes_become_what_pillow_calls_rgb(mode: str) -> None:
    image = Image.fromarray(ramp()).convert(mode)
    assert np.array_equal(to_bgr(image), np.asarray(image.convert("RGB"))[:, :, ::-1])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    alpha = ramp()[:, :, 0]
    image = Image.fromarray(ramp()).convert("L" if mode == "LA" else "RGB")
    rgb = np.asarray(image.convert("RGB"))
    if mode == "PA":
        image = image.quantize(256).convert("PA")
        rgb = np.asarray(image.convert("RGB"))
    image.putalpha(Image.fromarray(alpha))
    assert np.abs(to_bgr(image) - on_white(rgb, alpha)).max() <= 1.0


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.fromarray(ramp()).quantize(16)
    index = np.asarray(image)
    clear = int(index[0, 0])
    data = encoded(image, "PNG", transparency=clear)
    found = pixels_of(data, "png")
    assert (found[index == clear] == 255).all()
    expected = np.asarray(image.convert("RGB"))[:, :, ::-1]
    assert np.array_equal(found[index != clear], expected[index != clear])


def test_a_transparent_colour_is_white() -> None:
    rgb = ramp()
    rgb[:5] = (1, 2, 3)
    found = pixels_of(encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)), "png")
    rgb[:5] = 255
    assert np.array_equal(found, rgb[:, :, ::-1])


def test_opaque_alpha_changes_nothing() -> None:
    image = Image.fromarray(ramp())
    image.putalpha(255)
    assert np.array_equal(to_bgr(image), ramp()[:, :, ::-1])


@pytest.mark.parametrize("format", ["png", "tiff", "ppm"])
def test_16_bit_grey_gives_its_high_byte(format: str) -> None:
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    data = encoded(Image.fromarray(values), format.upper())
    assert np.array_equal(pixels_of(data, format), grey(values >> 8))


def test_a_dark_16_bit_image_stays_dark() -> None:
    values = np.full((48, 64), 255, np.uint16)
    for format in ("png", "tiff", "ppm"):
        assert pixels_of(encoded(Image.fromarray(values), format.upper()), format).max() == 0


def png_16(values: np.ndarray) -> bytes:
    """A 16-bit PNG of 3 or 4 channels, which Pillow does not write."""
    height, width, channels = values.shape
    kind = {3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + body))
        out += struct.pack(">I", len(body)) + name + body + crc
    return out


def test_16_bit_colour_gives_its_high_bytes() -> None:
    values = ramp().astype(np.uint16) * 256 + 99
    assert np.array_equal(pixels_of(png_16(values), "png"), ramp()[:, :, ::-1])
    alpha = np.full((48, 64, 1), 65535, np.uint16)
    with_alpha = np.concatenate([values, alpha], axis=2)
    assert np.array_equal(pixels_of(png_16(with_alpha), "png"), ramp()[:, :, ::-1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0.0, 0.5, 1.0]]), [0, 127, 255]),
        (np.float32([[0.0, 100.5, 255.0]]), [0, 100, 255]),
        (np.float32([[0.0, 256.0, 65535.0]]), [0, 1, 255]),
        (np.float32([[-1.0, 0.0, 1.0]]), [0, 127, 255]),
        (np.float32([[np.nan, 0.0, 1.0]]), [0, 0, 255]),
        (np.float32([[-np.inf, 0.0, np.inf]]), [0, 0, 0]),
        (np.float32([[np.nan, np.nan, np.nan]]), [0, 0, 0]),
        (np.float32([[5e30, 5e30, 5e30]]), [0, 0, 0]),
        (np.float32([[-3e38, 0.0, 3e38]]), [0, 127, 255]),
        (np.int32([[0, 100, 255]]), [0, 100, 255]),
        (np.int32([[0, 512, 65535]]), [0, 2, 255]),
        (np.int32([[-(2**31), 0, 2**31 - 1]]), [0, 127, 255]),
    ],
)
def test_32_bit_tiff(values: np.ndarray, expected: list[int]) -> None:
    found = pixels_of(encoded(Image.fromarray(values), "TIFF"), "tiff")
    assert np.array_equal(found, grey(np.array([expected])))


def test_lab_tiff() -> None:
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.fromarray(ramp()), to_lab)
    assert lab is not None
    found = pixels_of(encoded(lab, "TIFF"), "tiff")
    assert np.abs(found[:, :, ::-1].astype(int) - ramp()).mean() < 3.0  # 8-bit Lab is coarse


def test_blocks_leave_no_seam() -> None:
    width = 4096
    height = 2 * BLOCK_PX // width + 3
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x & 255, y & 255, (x + y) & 255], axis=-1).astype(np.uint8)
    assert np.array_equal(to_bgr(Image.fromarray(rgb)), rgb[:, :, ::-1])
    deep = (x + y).astype(np.int32)  # its range is that of the whole image, not of a block
    assert np.array_equal(to_bgr(Image.fromarray(deep)), grey((x + y) >> 8))


def test_too_large_is_raised_before_any_pixel_is_read() -> None:
    with pytest.raises(TooLarge) as caught:
        decode_any("png", encoded(Image.fromarray(ramp()), "PNG"), 64 * 48 - 1)
    assert (caught.value.header.width_px, caught.value.header.height_px) == (64, 48)


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw"])
def test_a_cut_tiff_keeps_the_strips_before_the_cut(compression: str | None) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (256, 64, 3), dtype=np.uint8)
    options = {"compression": compression} if compression else {}
    data = encoded(Image.fromarray(rgb), "TIFF", strip_size=64 * 3 * 32, **options)
    starts = Image.open(io.BytesIO(data)).tag_v2[273]  # type: ignore[attr-defined]
    if compression is None:  # one strip, the directory before it
        damaged = data[: starts[0] + 64 * 3 * 160]
    else:  # eight strips, the directory behind them: the sixth is spoilt
        assert len(starts) == 8
        damaged = data[: starts[5]] + bytes(64) + data[starts[5] + 64 :]
    picture = decode_any("tiff", damaged, MAX_PX)
    assert picture.complaint
    assert np.array_equal(picture.pixels_HWC[:160], rgb[:160, :, ::-1])


def test_messages_are_one_short_line_without_addresses() -> None:
    text = one_line(ValueError("cannot\n read <_io.BytesIO object at 0x7f00dead> " + "x" * 999))
    assert text.startswith("cannot read data xxx")
    assert len(text) == 300
    assert one_line(KeyError()) == "KeyError"
