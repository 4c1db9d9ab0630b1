"""What the first bytes of a photo say: its format, size and orientation, before any decoding.

Tiny parsers that read only headers, allocate nothing that depends on what a header claims and
never raise: a field that cannot be read is None. A bomb is thus refused in microseconds, also
where a decoder would first allocate (WebP), or refuse without naming the size (AVIF).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

SNIFF_BYTES = 256  # enough for the brands of an ISO file and the DIB header of a BMP
MAX_PARTS = 20_000  # chunks, boxes, segments or tags looked at: a hostile file must not stall us

_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)  # the DIB headers that exist
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_MAX_DEPTH = 4  # meta/iprp/ipco/ispe is the deepest box read
_ANY_BRANDS = {b"mif1", b"msf1", b"mif2", b"miaf"}  # the codec is named by a compatible brand
_NETPBM = re.compile(rb"P[1-6]\s(?:\s|#[^\n]*\n)*\d+")

_BROKEN = (struct.error, IndexError, KeyError, ValueError, OverflowError)  # cut or damaged

_TAG_WIDTH, _TAG_HEIGHT, _TAG_ORIENTATION = 256, 257, 274
_TAG_TILE_WIDTH, _TAG_TILE_HEIGHT = 322, 323


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says; sizes are as stored, before any rotation.

    ``largest_px`` is the largest area in pixels that a decoder would have to hold (a TIFF
    tile and an image of a sequence count too). ``still`` and ``opaque`` are known for WebP.
    """

    width_px: int | None = None
    height_px: int | None = None
    largest_px: int = 0
    orientation: int = 1  # EXIF 1..8; read here for JPEG, WebP and TIFF only
    still: bool = False
    opaque: bool = False


def sniff(head: bytes) -> str | None:
    """Return the format that the first bytes (SNIFF_BYTES of them) announce, None for no image."""
    for magic, name in (
        (b"\xff\xd8\xff", "jpeg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"II+\0", "tiff"),  # BigTIFF
        (b"MM\0+", "tiff"),
    ):
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _iso_format(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"  # the size of the DIB header too: "BM" alone begins many a text
    return "ppm" if _NETPBM.match(head) else None


def read_header(data: bytes, format: str) -> Header:
    """Return what the header of an image of ``format`` (a name from ``sniff``) says."""
    try:
        return _READERS[format](data)
    except _BROKEN:
        return Header()


def exif_orientation(exif: bytes) -> int:
    """Return the orientation 1..8 in an EXIF block (a TIFF structure), 1 where it has none."""
    try:
        value = _tiff_tags(exif, {_TAG_ORIENTATION}).get(_TAG_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if 1 <= value <= 8 else 1


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the segments of a JPEG up to and with the first SOS.

    ``data[start:end]`` is the segment with its marker. Bytes between segments are skipped, as
    libjpeg does.
    """
    position = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, position)
        if found is None or found.end() + 2 > len(data):
            return
        marker, start = data[found.end() - 1], found.end() - 2
        if marker == _SOI or marker == _TEM or _RST0 <= marker <= _RST7:  # no length follows
            position = found.end()
            continue
        if marker == _EOI:
            return
        position = found.end() + struct.unpack_from(">H", data, found.end())[0]
        yield marker, start, position
        if marker == _SOS:
            return


_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SOI, _EOI, _SOS, _TEM, _APP1, _RST0, _RST7 = 0xD8, 0xD9, 0xDA, 0x01, 0xE1, 0xD0, 0xD7
_SOF = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # less DHT, JPG, DAC


def _sized(width: int, height: int) -> Header:
    return Header(width, height, width * height)


def _jpeg(data: bytes) -> Header:
    header, orientation = Header(), None
    for marker, start, end in jpeg_segments(data):
        if marker in _SOF and header.width_px is None:
            height, width = struct.unpack_from(">HH", data, start + 5)
            header = _sized(width, height)
        elif marker == _APP1 and orientation is None and data[start + 4 : start + 8] == b"Exif":
            orientation = exif_orientation(data[start + 10 : end])
    return replace(header, orientation=orientation or 1)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        return Header()
    return _sized(*struct.unpack_from(">II", data, 16))


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    screen = _sized(width, height)
    position = 13 + (3 << (1 + (flags & 7)) if flags & 0x80 else 0)
    steps = iter(range(MAX_PARTS))
    for _ in steps:
        kind = data[position : position + 1]
        if kind == b",":  # the first frame may reach beyond the screen: decoders then grow it
            left, top, wide, high = struct.unpack_from("<HHHH", data, position + 1)
            return _sized(max(width, left + wide), max(height, top + high))
        if kind != b"!":
            return screen
        position += 2
        for _ in steps:  # over the blocks of an extension
            size = data[position]
            position += 1 + size
            if not size:
                break
    return screen


def _webp(data: bytes) -> Header:
    header, orientation = Header(), 1
    for name, start, end in islice(riff_chunks(data), MAX_PARTS):
        if name == b"VP8X" and header.width_px is None:
            flags = data[start]
            size = [1 + int.from_bytes(data[start + i : start + i + 3], "little") for i in (4, 7)]
            header = replace(_sized(*size), still=not flags & 0x02, opaque=not flags & 0x10)
        elif name == b"VP8 " and header.width_px is None:
            width, height = struct.unpack_from("<HH", data, start + 6)
            header = replace(_sized(width & 0x3FFF, height & 0x3FFF), still=True, opaque=True)
        elif name == b"VP8L" and header.width_px is None:
            bits = struct.unpack_from("<I", data, start + 1)[0]
            size = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
            header = replace(_sized(*size), still=True, opaque=not bits >> 28 & 1)
        elif name == b"EXIF":
            exif = data[start:end]
            orientation = exif_orientation(exif[6:] if exif[:6] == b"Exif\0\0" else exif)
    return replace(header, orientation=orientation)


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of the contents of the chunks of a WebP; the last may be cut."""
    position = 12
    while position + 8 <= len(data):
        size = struct.unpack_from("<I", data, position + 4)[0]
        yield data[position : position + 4], position + 8, position + 8 + size
        position += 8 + size + (size & 1)


def _tiff(data: bytes) -> Header:
    wanted = {_TAG_WIDTH, _TAG_HEIGHT, _TAG_TILE_WIDTH, _TAG_TILE_HEIGHT, _TAG_ORIENTATION}
    tags = _tiff_tags(data, wanted)
    header = _sized(tags[_TAG_WIDTH], tags[_TAG_HEIGHT]) if len(tags) > 1 else Header()
    tile_px = tags.get(_TAG_TILE_WIDTH, 0) * tags.get(_TAG_TILE_HEIGHT, 0)
    orientation = tags.get(_TAG_ORIENTATION, 1)
    return replace(
        header,
        largest_px=max(header.largest_px, tile_px),
        orientation=orientation if 1 <= orientation <= 8 else 1,
    )


def _tiff_tags(data: bytes, wanted: set[int]) -> dict[int, int]:
    """Return the integer values of the wanted tags of the first directory (TIFF 6.0, BigTIFF)."""
    order = {b"II": "<", b"MM": ">"}[data[:2]] if data[:2] in (b"II", b"MM") else "<"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, step, at = ("Q", 20, 8) if big else ("I", 12, 4)
    offset = struct.unpack_from(order + word, data, at)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0]
    first = offset + (8 if big else 2)
    tags: dict[int, int] = {}
    for entry in range(first, first + step * min(count, MAX_PARTS), step):
        if entry + step > len(data):
            break
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)  # BYTE, SHORT, LONG, LONG8
        if tag in wanted and code is not None:
            tags.setdefault(tag, struct.unpack_from(order + code, data, entry + step // 2 + 2)[0])
    return tags


def _bmp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return _sized(*struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<ii", data, 18)  # a negative height: rows from the top
    return _sized(abs(width), abs(height))


def _ppm(data: bytes) -> Header:
    width, height = re.sub(rb"#[^\n]*", b" ", data[2:1024]).split(maxsplit=2)[:2]
    return _sized(int(width), int(height))


def _iso_format(head: bytes) -> str | None:
    end = min(len(head), max(16, int.from_bytes(head[:4], "big")))
    brands = [head[8:12]] + [head[i : i + 4] for i in range(16, end - 3, 4)]
    if brands[0] in _AVIF_BRANDS:
        return "avif"
    if brands[0] in _HEIF_BRANDS:
        return "heif"
    if brands[0] in _ANY_BRANDS:
        return "avif" if _AVIF_BRANDS.intersection(brands) else "heif"
    return None


def _iso(data: bytes) -> Header:
    """Return the largest size that any image of a HEIF or AVIF file claims (ISO/IEC 23008-12)."""
    sizes = [(0, 0)]
    for name, start, end in islice(_iso_boxes(data, 0, len(data)), MAX_PARTS):
        if name == b"ispe":
            sizes.append(struct.unpack_from(">II", data, start + 4))
        elif name == b"tkhd" and end - start >= 8:  # of a sequence; 16.16 fixed point
            width, height = struct.unpack_from(">II", data, end - 8)
            sizes.append((width >> 16, height >> 16))
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return _sized(width, height) if width else Header()


def _iso_boxes(
    data: bytes, start: int, end: int, depth: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the contents of the boxes that can hold or name a size."""
    inside = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0}  # type -> bytes to skip
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            size, body = struct.unpack_from(">Q", data, body)[0], body + 8
        stop = end if size == 0 else min(end, start + size)
        if stop < body:
            return
        yield name, body, stop
        if name in inside and depth < _MAX_DEPTH:
            yield from _iso_boxes(data, body + inside[name], stop, depth + 1)
        start = stop


_READERS: dict[str, Callable[[bytes], Header]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "tiff": _tiff,
    "bmp": _bmp,
    "ppm": _ppm,
    "heif": _iso,
    "avif": _iso,
}
