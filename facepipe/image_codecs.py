"""The decoders: JPEG by simplejpeg, WebP by OpenCV, HEIF by libheif, all else by Pillow.

Each takes (bytes, header, most pixels allowed) and returns a Picture, or raises whatever its
library raises. Legend: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from facepipe.image_header import Header, jpeg_segments, riff_chunks
from facepipe.image_pillow import (
    Picture,
    Pixels,
    TooLarge,
    decode_any,
    one_line,
    opened,
    pillow_globals,
    to_bgr,
)

MEBIBYTE = 1 << 20
MISSING = 128  # the grey of pixels that could not be decoded, as libjpeg paints them

_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # APP1..APP13, APP15 and COM: no pixel needs them
_MILD = re.compile(r"unknown JFIF|Adobe color transform|Invalid SOS parameters")
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_EXIF_ITEM = re.compile(rb"(infe\x02.{7}|infe\x03.{9})Exif", re.DOTALL)  # ISO/IEC 14496-12
_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def _jpeg(data: bytes, header: Header, max_pixels: int) -> Picture:
    """Decode strictly; where libjpeg warns, find out whether any pixel suffered.

    libjpeg reports the first warning only, so metadata (the usual cause of a harmless one) is
    left out of a second strict attempt, and a mild warning counts only with a complete scan.
    """
    complaint = ""
    bare = b""
    for attempt in range(3):
        try:
            source = data if attempt == 0 else bare
            pixels = _turbo(source, header, strict=attempt < 2)
        except ValueError as error:
            complaint, bare = one_line(error), bare or _without_metadata(data)
        else:
            hurt = attempt == 2 and not _harmless(complaint, bare)
            return Picture(pixels, header.orientation, complaint if hurt else "")
    picture = decode_any("jpeg", data, max_pixels)  # a subsampling that TurboJPEG has no name for
    complaint = picture.complaint or ("" if _end_of_scans(data) else "no end of image")
    return replace(picture, orientation=header.orientation, complaint=complaint)


def _turbo(data: bytes, header: Header, strict: bool) -> Pixels:
    # The buffer holds libjpeg to the size that was checked. Not strict, simplejpeg also returns
    # after a fatal error, with rows that were never written.
    shape = (header.height_px or 0, header.width_px or 0, 3)
    buffer = np.empty(shape, np.uint8) if strict else np.full(shape, MISSING, np.uint8)
    pixels = simplejpeg.decode_jpeg(
        data, "BGR", fastdct=False, fastupsample=False, buffer=buffer, strict=strict
    )
    return cast(Pixels, pixels)


def _without_metadata(data: bytes) -> bytes:
    kept, end = [data[:2]], 2
    for marker, start, end in jpeg_segments(data):
        if marker not in _METADATA:
            kept.append(data[start:end])
    return b"".join([*kept, data[end:]])


def _harmless(warning: str, data: bytes) -> bool:
    """Return whether the scans of a JPEG reach EOI and the warning touches no pixel."""
    end = _end_of_scans(data)
    if end is None:
        return False
    extra = _EXTRANEOUS.search(warning)
    if extra is None:
        return _MILD.search(warning) is not None
    # Padding after the last block is harmless; anything else is a scan that lost its way.
    count = int(extra[1])
    return int(extra[2], 16) == 0xD9 and not data[max(0, end - count) : end].strip(b"\0\xff")


def _end_of_scans(data: bytes) -> int | None:
    """Return where the EOI of a JPEG stands, None where the data end before it."""
    position = max((end for _, _, end in jpeg_segments(data)), default=len(data))
    while (found := _AFTER_SCAN.search(data, position)) and found[1] != b"\xd9":
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return found.start() if found else None


def _webp(data: bytes, header: Header, max_pixels: int) -> Picture:
    """Decode WebP; the first frame of an animation.

    A cut file is decoded twice, its missing bytes once all 0 and once all 255: the rows above
    the first difference do not depend on what is missing, the others are painted grey.
    """
    size = 8 + int.from_bytes(data[4:8], "little")
    if len(data) >= size:
        return Picture(_webp_pixels(data, header, max_pixels), header.orientation)
    pixels, other = (
        _webp_pixels(_webp_padded(data, fill, header), header, max_pixels)
        for fill in (b"\0", b"\xff")
    )
    rows_differ = (pixels != other).any(axis=(1, 2))
    if rows_differ.any():
        pixels[int(rows_differ.argmax()) :] = MISSING
    return Picture(pixels, header.orientation, f"truncated: {len(data)} of {size} bytes")


def _webp_padded(data: bytes, fill: bytes, header: Header) -> bytes:
    """Return a cut WebP with its last chunk made long enough for libwebp never to run dry."""
    last = max((start for _, start, _ in riff_chunks(data)), default=0)
    if not last:
        raise ValueError("truncated before the image data")
    if not header.still:  # of an animation the whole frames are enough
        return data[:4] + (last - 16).to_bytes(4, "little") + data[8 : last - 8]
    length = len(data) - last + 4 * header.largest_px + MEBIBYTE
    length += length & 1
    riff_size, size = (last + length - 8).to_bytes(4, "little"), length.to_bytes(4, "little")
    patched = data[:4] + riff_size + data[8 : last - 4] + size + data[last:]
    return patched.ljust(last + length, fill)


def _webp_pixels(data: bytes, header: Header, max_pixels: int) -> Pixels:
    if header.still and header.opaque:  # a third of the memory that Pillow's decoder takes
        flags = cv2.IMREAD_COLOR_BGR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is not None:
            return cast(Pixels, pixels)
    with pillow_globals(salvage=False):
        image = opened("webp", data, max_pixels)
        image.load()
        return to_bgr(image)


def _heif(data: bytes, header: Header, max_pixels: int) -> Picture:
    """Decode the primary image of a HEIF file; libheif applies its own rotation and mirror."""
    import pi_heif  # slow to load, and few photos need it

    threads, pi_heif.options.DECODE_THREADS = pi_heif.options.DECODE_THREADS, 1
    try:
        file = pi_heif.open_heif(data, convert_hdr_to_8bit=True, bgr_mode=True)
        image = file[file.primary_index]
        if image.size[0] * image.size[1] > max_pixels:
            raise TooLarge(*image.size)
        stored = np.asarray(image)
    finally:
        pi_heif.options.DECODE_THREADS = threads
    if stored.dtype != np.uint8:  # monochrome of more than 8 bits
        stored = (stored >> 8).astype(np.uint8)
    if stored.ndim == 2:
        return Picture(cast(Pixels, cv2.cvtColor(stored, cv2.COLOR_GRAY2BGR)))
    if stored.shape[2] == 3:
        return Picture(stored)
    modes = {4: ("RGBA", "RGBA"), 2: ("LA", "LA")}
    mode, raw = modes[stored.shape[2]]
    pixels = to_bgr(Image.frombuffer(mode, image.size, stored, "raw", raw, 0, 1))
    return Picture(np.ascontiguousarray(pixels[:, :, ::-1]))  # was BGRA


def _avif(data: bytes, header: Header, max_pixels: int) -> Picture:
    """Decode AVIF without its EXIF, which is to be ignored: Pillow fails where it is broken."""
    return decode_any("avif", _EXIF_ITEM.sub(rb"\1free", data), max_pixels)


def _by_pillow(format: str) -> Callable[[bytes, Header, int], Picture]:
    return lambda data, header, max_pixels: decode_any(format, data, max_pixels)


DECODERS: dict[str, Callable[[bytes, Header, int], Picture]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "heif": _heif,
    "avif": _avif,
    **{name: _by_pillow(name) for name in ("png", "gif", "tiff", "bmp", "ppm")},
}
