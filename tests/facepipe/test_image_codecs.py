from __future__ import annotations

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from facepipe.decode import Decoded, DecodeSettings, decode
from facepipe.schema import PhotoStatus

SALVAGE, REFUSE = DecodeSettings(), DecodeSettings(truncated="refuse")
WIDTH, HEIGHT = 160, 128
KINDS = (
    "jpeg",
    "progressive",
    "png",
    "gif",
    "webp",
    "webp-lossless",
    "webp-alpha",
    "tiff",
    "bmp",
    "ppm",
)


def texture() -> np.ndarray:
    """Detail everywhere, so that every part of a file matters, yet smooth enough for JPEG."""
    rng = np.random.default_rng(7)
    small = Image.fromarray(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def saved(kind: str) -> bytes:
    image, buffer = Image.fromarray(texture()), io.BytesIO()
    if kind == "webp-alpha":
        image.putalpha(Image.fromarray(texture()[:, :, 0]))
    options = {
        "progressive": {"progressive": True},
        "webp-lossless": {"lossless": True},
        "webp-alpha": {"lossless": True},
    }.get(kind, {})
    if kind == "heif":
        pillow_heif.from_pillow(image).save(buffer)
    else:
        format = {"progressive": "JPEG"}.get(kind, kind.split("-")[0].upper())
        image.save(buffer, format, **options)
    return buffer.getvalue()


FILES = {kind: saved(kind) for kind in (*KINDS, "avif", "heif")}
WHOLE = {kind: decode(data, SALVAGE) for kind, data in FILES.items()}


def pixels(photo: Decoded) -> np.ndarray:
    assert photo.pixels_HWC is not None
    return photo.pixels_HWC


def share_of_rows_kept(photo: Decoded, whole: Decoded) -> float:
    assert pixels(photo).shape == pixels(whole).shape
    return float((np.abs(pixels(photo).astype(int) - pixels(whole)).max(axis=(1, 2)) < 8).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cut", "least"), [(0.9, 0.4), (0.6, 0.1)])
def test_a_cut_file_keeps_its_upper_part(kind: str, cut: float, least: float) -> None:
    data = FILES[kind][: int(len(FILES[kind]) * cut)]
    photo = decode(data, SALVAGE)
    assert photo.status is PhotoStatus.SALVAGED
    assert photo.error
    kept = share_of_rows_kept(photo, WHOLE[kind])
    floor = 0.0 if kind == "progressive" else least  # a cut scan blurs the whole picture
    assert floor <= kept < 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_refused_where_it_would_be_salvaged(kind: str) -> None:
    data = FILES[kind][: int(len(FILES[kind]) * 0.9)]
    photo = decode(data, REFUSE)
    assert (photo.status, photo.pixels_HWC) == (PhotoStatus.TRUNCATED, None)
    assert (photo.width_px, photo.height_px) == (WIDTH, HEIGHT)
    assert photo.error == decode(data, SALVAGE).error


@pytest.mark.parametrize("kind", [*KINDS, "avif", "heif"])
def test_ok_means_that_no_pixel_is_missing(kind: str) -> None:
    data = FILES[kind]
    for cut in (*range(1, 60, 2), *range(60, len(data), len(data) // 40)):
        photo = decode(data[: len(data) - cut], SALVAGE)
        if photo.status is PhotoStatus.OK:
            assert np.array_equal(pixels(photo), pixels(WHOLE[kind]))
        assert photo.status is not PhotoStatus.OK or kind not in ("jpeg", "progressive")


@pytest.mark.parametrize("kind", ["avif", "heif"])
@pytest.mark.parametrize("settings", [SALVAGE, REFUSE])
def test_a_cut_iso_file_is_corrupt(kind: str, settings: DecodeSettings) -> None:
    photo = decode(FILES[kind][:-200], settings)
    assert (photo.status, photo.pixels_HWC) == (PhotoStatus.CORRUPT, None)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "webp"])
def test_salvaging_nothing_is_corrupt(kind: str) -> None:
    data = FILES[kind]
    start = {"jpeg": data.find(b"\xff\xda"), "png": 45, "gif": 790, "bmp": 60, "webp": 400}
    photo = decode(data[: start[kind]], SALVAGE)
    assert (photo.status, photo.pixels_HWC) == (PhotoStatus.CORRUPT, None)
    assert photo.error


def animated(format: str) -> bytes:
    frames, buffer = (
        [Image.fromarray(np.roll(texture(), i, axis=0)) for i in (0, 9, 40)],
        io.BytesIO(),
    )
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_a_cut_animation_keeps_its_first_frame(format: str) -> None:
    data = animated(format)
    photo, whole = decode(data[: len(data) * 8 // 10], SALVAGE), decode(data, SALVAGE)
    assert photo.status in (PhotoStatus.OK, PhotoStatus.SALVAGED)
    assert np.array_equal(pixels(photo), pixels(whole))


# --- what libjpeg warns about --------------------------------------------------------------------


def inserted(data: bytes, at: int, extra: bytes) -> bytes:
    return data[:at] + extra + data[at:]


JPEG = FILES["jpeg"]


@pytest.mark.parametrize(
    "data",
    [
        JPEG + b"\0" * 300,
        JPEG + JPEG,
        JPEG + b"trailing text",
        inserted(JPEG, len(JPEG) - 2, b"\0" * 300),  # padding before EOI
        inserted(JPEG, 20, b"\0\0\0"),  # between two segments of the header
        inserted(JPEG, 20, b"\xff\xe2\0\x17ICC_PROFILE\0\x09\x02profile"),  # chunk 9 of 2
        inserted(JPEG, 20, b"\xff\xe1\0\x10Exif\0\0broken.."),
        JPEG[:11] + b"\x09" + JPEG[12:],  # JFIF 9.x
    ],
    ids=["zeros", "second", "text", "padding", "between", "icc", "exif", "jfif"],
)
def test_a_jpeg_with_harmless_faults_is_ok(data: bytes) -> None:
    photo = decode(data, REFUSE)
    assert (photo.status, photo.error) == (PhotoStatus.OK, "")
    assert np.array_equal(pixels(photo), pixels(WHOLE["jpeg"]))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:-2],
        JPEG[:-2] + b"\0" * 300,
        JPEG[: len(JPEG) // 2] + b"\xff\xd9",
        JPEG[: len(JPEG) // 2] + JPEG,
        inserted(JPEG, len(JPEG) - 2, b"left over" * 30),
        inserted(JPEG, 20, b"\0\0\0")[: len(JPEG) // 2],  # a harmless fault hides no cut
        inserted(JPEG[:-2], 20, b"\xff\xe2\0\x17ICC_PROFILE\0\x09\x02profile"),
        inserted(JPEG, len(JPEG) - 2, b"\0" * 300)[:-2],
        JPEG[:11] + b"\x09" + JPEG[12 : len(JPEG) // 2],
    ],
)
def test_a_damaged_jpeg_is_never_ok(data: bytes) -> None:
    assert decode(data, SALVAGE).status is PhotoStatus.SALVAGED
    assert decode(data, REFUSE).status is PhotoStatus.TRUNCATED


def test_adobe_cmyk_has_its_colours() -> None:
    buffer = io.BytesIO()
    Image.fromarray(texture()).convert("CMYK").save(buffer, "JPEG", quality=95)  # inverted
    photo = decode(buffer.getvalue(), SALVAGE)
    assert photo.status is PhotoStatus.OK
    assert np.abs(pixels(photo)[:, :, ::-1].astype(int) - texture()).mean() < 4


def test_heif_transparency_is_composited_on_white() -> None:
    for alpha, background in ((255, 0), (0, 255), (128, 127)):
        image = Image.new("RGBA", (64, 64), (200, 100, 0, alpha))
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=-1, chroma=444)
        expected = np.array([0, 100, 200]) * (alpha / 255) + background
        assert np.abs(pixels(decode(buffer.getvalue(), SALVAGE)) - expected).max() <= 3


# --- anything at all -----------------------------------------------------------------------------


def mutant(rng: np.random.Generator, data: bytes) -> bytes:
    body = bytearray(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.5 else data)
    for _ in range(rng.integers(0, 12)):
        near_start = rng.random() < 0.5  # half of the damage goes to the header
        body[rng.integers(0, min(len(body), 300 if near_start else len(body)))] = rng.integers(256)
    return bytes(body)


@pytest.mark.parametrize("kind", FILES)
def test_no_mutant_raises_and_the_same_bytes_give_the_same_row(kind: str) -> None:
    rng = np.random.default_rng(list(kind.encode()))
    settings = DecodeSettings(max_pixels=1_000_000)
    for _ in range(60):
        data = mutant(rng, FILES[kind])
        photo, again = decode(data, settings), decode(data, settings)
        assert (photo.status, photo.error) == (again.status, again.error)
        assert (photo.pixels_HWC is not None) == (photo.status in ("ok", "salvaged"))
        assert (photo.error == "") == (photo.status is PhotoStatus.OK)
        if photo.pixels_HWC is not None:
            # What a damaged HEVC stream leaves undecoded, libde265 does not write (adr/0003).
            assert kind == "heif" or np.array_equal(photo.pixels_HWC, pixels(again))
            assert photo.pixels_HWC.shape == (photo.height_px, photo.width_px, 3)
