from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from facepipe.image_header import (
    MAX_PARTS,
    exif_orientation,
    jpeg_segments,
    read_header,
    riff_chunks,
    sniff,
)


def encoded(format: str, size: tuple[int, int] = (37, 23), mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, None).save(buffer, format, **options)
    return buffer.getvalue()


def box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), name) + body


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1)


def exif(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    code = {1: "B", 3: "H", 4: "I"}[kind]
    value = struct.pack(order + code, orientation).ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(order + "IH", 8, 1)
    return head + struct.pack(order + "HHI", 274, kind, 1) + value + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("JPEG", "jpeg"),
        ("PNG", "png"),
        ("GIF", "gif"),
        ("TIFF", "tiff"),
        ("BMP", "bmp"),
        ("PPM", "ppm"),
        ("WEBP", "webp"),
        ("AVIF", "avif"),
    ],
)
def test_format_and_size_of_what_pillow_writes(format: str, name: str) -> None:
    data = encoded(format)
    assert sniff(data[:256]) == name
    header = read_header(data, name)
    assert (header.width_px, header.height_px, header.largest_px) == (37, 23, 37 * 23)


@pytest.mark.parametrize(
    "options",
    [{"lossless": True}, {"exif": b"Exif\0\0" + exif(1)}, {"save_all": True}],
    ids=["VP8L", "VP8X", "animated"],
)
def test_every_kind_of_webp(options: dict) -> None:
    if "save_all" in options:
        options["append_images"] = [Image.new("RGB", (37, 23), (255, 0, 0))]
    header = read_header(encoded("WEBP", **options), "webp")
    assert (header.width_px, header.height_px) == (37, 23)
    assert header.still is ("save_all" not in options)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_with_transparency_is_not_opaque(lossless: bool) -> None:
    image = Image.fromarray(np.arange(40 * 30 * 4, dtype=np.uint8).reshape(30, 40, 4))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless)
    assert read_header(buffer.getvalue(), "webp").opaque is False
    assert read_header(encoded("WEBP", lossless=lossless), "webp").opaque is True


@pytest.mark.parametrize("size", [(1, 1), (16383, 1), (1, 16383)])
def test_webp_sizes_at_their_limits(size: tuple[int, int]) -> None:
    header = read_header(encoded("WEBP", size, lossless=True), "webp")
    assert (header.width_px, header.height_px) == size


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0avifmiaf", "avif"),
        (b"\0\0\0\x18ftypavis\0\0\0\0avifmsf1", "avif"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", None),  # a film
        (b"P6\n# a comment\n3 4\n255\n", "ppm"),
        (b"P5 is not a picture", None),
        (b"BMW is a maker of cars and motorbikes", None),
        (b"\xff\xd8 no segment follows", None),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"II+\0\x08\0\0\0", "tiff"),
        (b"<svg xmlns=", None),
        (b"", None),
    ],
)
def test_sniff(head: bytes, name: str | None) -> None:
    assert sniff(head) == name


def test_gif_frame_beyond_its_screen_counts() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 32, 32, 0x80, 0, 0) + bytes(6)
    comment = b"!\xfe\x03abc\x02de\0"
    frame = b"," + struct.pack("<HHHHB", 10, 20, 65535, 60000, 0)
    header = read_header(screen + comment + frame, "gif")
    assert (header.width_px, header.height_px) == (65545, 60020)


def test_tiff_tile_counts() -> None:
    tags = [(256, 100), (257, 50), (322, 70000), (323, 60000)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = read_header(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries, "tiff")
    assert (header.width_px, header.height_px) == (100, 50)
    assert header.largest_px == 70000 * 60000


def test_big_tiff() -> None:
    entries = b"".join(
        struct.pack(">HHQQ", tag, 16, 1, value) for tag, value in [(256, 9), (257, 8)]
    )
    data = b"MM\0+" + struct.pack(">HHQQ", 8, 0, 16, 2) + entries
    assert (read_header(data, "tiff").width_px, read_header(data, "tiff").height_px) == (9, 8)


def test_bmp_with_rows_from_the_top() -> None:
    data = b"BM" + bytes(12) + struct.pack("<Iii", 40, 12, -34) + bytes(28)
    assert (read_header(data, "bmp").width_px, read_header(data, "bmp").height_px) == (12, 34)


def test_ppm_with_comments() -> None:
    header = read_header(b"P6 # 1 2\n# 3\n 45 # 6\n67\n255\n", "ppm")
    assert (header.width_px, header.height_px) == (45, 67)


def test_the_largest_image_of_an_iso_file_counts() -> None:
    thumbnail = box(b"ispe", struct.pack(">III", 0, 16, 16))
    image = box(b"ispe", struct.pack(">III", 0, 17000, 16000))
    meta = box(b"meta", bytes(4), box(b"iprp", box(b"ipco", thumbnail, image, thumbnail)))
    header = read_header(box(b"ftyp", b"heic", bytes(8)) + meta, "heif")
    assert (header.width_px, header.height_px) == (17000, 16000)


def test_a_sequence_is_sized_by_its_track() -> None:
    track = box(b"tkhd", bytes(76), struct.pack(">II", 20000 << 16, 10000 << 16))
    data = box(b"ftyp", b"avis", bytes(8)) + box(b"moov", box(b"trak", track))
    assert read_header(data, "avif").largest_px == 200_000_000


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4], ids=["BYTE", "SHORT", "LONG"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_in_any_integer_type(value: int, kind: int, order: str) -> None:
    assert exif_orientation(exif(value, order, kind)) == value


@pytest.mark.parametrize(
    "block",
    [b"", b"II", b"MM\0*", exif(0), exif(9), exif(200), exif(6)[:14], b"\xff" * 64],
)
def test_broken_exif_means_upright(block: bytes) -> None:
    assert exif_orientation(block) == 1


def test_segments_of_a_jpeg_skip_what_lies_between() -> None:
    data = encoded("JPEG")
    plain = [(marker, end - start) for marker, start, end in jpeg_segments(data)]
    assert plain[0][0] == 0xE0
    assert plain[-1][0] == 0xDA
    junk = data[:20] + b"\0\x11\xff\xff\xff" + data[20:]
    assert [(marker, end - start) for marker, start, end in jpeg_segments(junk)] == plain


def test_chunks_of_a_webp() -> None:
    data = b"RIFF" + bytes(4) + b"WEBP" + chunk(b"ABCD", b"123") + chunk(b"EFGH", b"4567")
    assert [(n, data[a:b]) for n, a, b in riff_chunks(data)] == [
        (b"ABCD", b"123"),
        (b"EFGH", b"4567"),
    ]


HOSTILE = {
    "jpeg": b"\xff\xd8" + b"\xff\xe1\0\x02" * 500_000,
    "gif": b"GIF89a" + bytes(7) + b"!\xfe" + b"\x01\x00" * 500_000,
    "webp": b"RIFF\xff\xff\xff\x7fWEBP" + b"ABCD\0\0\0\0" * 200_000,
    "tiff": b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60) + bytes(1_000_000),
    "heif": box(b"ftyp", b"heic", bytes(8)) + box(b"skip") * 200_000,
    "avif": b"\0\0\0\0meta" * 100_000,
    "ppm": b"P6 " + b"9" * 500_000 + b" 1",
    "png": b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
    "bmp": b"BM" + b"\xff" * 100,
}


@pytest.mark.parametrize("format", HOSTILE)
def test_a_hostile_header_never_raises(format: str) -> None:
    data = HOSTILE[format]
    read_header(data, format)
    for length in (*range(40), 1000):
        read_header(data[:length], format)


def test_walks_end_after_a_fixed_number_of_parts() -> None:
    data = HOSTILE["jpeg"]
    assert sum(1 for _ in jpeg_segments(data)) == MAX_PARTS
